"""A lock that admits one run at a time to a configuration of a set."""

import contextlib
import os
from collections.abc import Iterator

from facecycle_jax.data.images.media_files import is_remote
from facecycle_jax.errors import UserError
from facecycle_jax.file_lock import take_lock
from facecycle_jax.files import remove_leftovers


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Keeps other runs out of a folder for as long as the context is active.

    File systems without locks are not locked; the log reports it. Files that killed
    runs did not finish are removed under the lock.

    Args:
      folder: folder of the configuration; made if it is missing. It keeps a file of the
        lock.

    Yields:
      Whether the folder is locked.

    Raises:
      UserError: If the folder is not local, or another run holds the lock; the message
        names that run.
    """
    check_local(folder)
    os.makedirs(folder, exist_ok=True)

    file, holder = take_lock(folder)
    if holder:
        raise UserError(
            f"{folder} is being prepared by another run ({holder}): wait for its "
            "end, stop it, or choose another --out."
        )

    try:
        if file is not None:
            # The versions of the set are folders in that of its configuration.
            remove_leftovers(folder)
            for entry in os.scandir(folder):
                if entry.is_dir():
                    remove_leftovers(entry.path)
        yield file is not None
    finally:
        if file is not None:
            file.close()


def check_local(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder in a bucket.

    Frames are indexed and runs are locked with functions of local file systems.

    Args:
      folder: where records are to be written.

    Raises:
      UserError: If it is not local.
    """
    if is_remote(folder):
        raise UserError(
            f"Records cannot be prepared in {os.fspath(folder)}: prepare them in a "
            "local --out, then copy that folder there."
        )
