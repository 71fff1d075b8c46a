"""A lock that admits one run at a time to a workdir."""

import contextlib
from collections.abc import Iterator
from typing import TextIO

import jax
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.file_lock import take_lock
from facecycle_jax.files import remove_leftovers
from facecycle_jax.training.processes import agree


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir for as long as the context is active.

    What a killed run has left of files that it was writing is removed.

    Process 0 holds the lock for all processes of its job, which all have to call this.
    Buckets and file systems without locks are not locked; the log reports it.

    Args:
      workdir: directory of the run; must exist.

    Yields:
      Nothing.

    Raises:
      UserError: If another run holds the lock; in all processes, but only the first one
        names that run.
    """
    file: TextIO | None = None
    holder = ""
    if jax.process_index() == 0:
        file, holder = take_lock(workdir)
        if file is not None:
            remove_leftovers(workdir)

    try:
        if agree(int(bool(holder))):
            raise UserError(
                f"{workdir} is in use by another run ({holder or 'process 0 names it'}"
                "): wait for its end, stop it, or use another --workdir."
            )
        yield
    finally:
        if file is not None:
            file.close()
