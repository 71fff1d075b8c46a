"""A lock that admits one run at a time to a configuration of a set."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.file_lock import take_lock


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Keeps other runs out of a folder for as long as the context is active.

    Buckets and file systems without locks are not locked; the log reports it.

    Args:
      folder: folder of the configuration; made if it is missing. It keeps a file of the
        lock.

    Yields:
      Whether the folder is locked.

    Raises:
      UserError: If another run holds the lock; the message names that run.
    """
    if "://" not in os.fspath(folder):
        epath.Path(folder).mkdir(parents=True, exist_ok=True)

    file, holder = take_lock(folder)
    if holder:
        raise UserError(
            f"{folder} is being prepared by another run ({holder}): wait for its "
            "end, stop it, or choose another --out."
        )

    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()
