"""The operating system's lock on a file in a folder.

It ends with the process that holds it, however that ends, so that no stale lock is
left.
"""

import errno
import logging
import os
import socket
import time
from typing import TextIO

from etils import epath

try:
    import fcntl
except ImportError:  # outside POSIX systems
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

FILE_NAME = ".lock"
# Errors of file systems that have no locks.
_UNSUPPORTED = (
    errno.ENOLCK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
)


def take_lock(folder: epath.PathLike) -> tuple[TextIO | None, str]:
    """Takes the lock of a folder, without waiting.

    Buckets and file systems without locks are not locked; the log reports it.

    Args:
      folder: the folder; must exist. It keeps a file that names the holder.

    Returns:
      The file that holds the lock until it is closed, or None; and the name of another
      holder, or ''. Neither is there if the folder cannot be locked.
    """
    if "://" in str(folder):
        log.info(
            "%s is not a local folder and cannot be locked: start no second run in it.",
            folder,
        )
        return None, ""
    if fcntl is None:
        log.info("This system has no file locks: start no second run in %s.", folder)
        return None, ""

    path = epath.Path(folder) / FILE_NAME
    # "a+" keeps the content, which names the holder, when a second run opens the file.
    file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "it has only just started"
        file.close()
        return None, holder
    except OSError as error:
        file.close()
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning(
            "%s cannot be locked (%s): start no second run in it.", folder, error
        )
        return None, ""

    # Name the process for others to read.
    file.seek(0)
    file.truncate()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()}, started {started}\n")
    file.flush()
    return file, ""
