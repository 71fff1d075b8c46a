"""A lock that admits one run at a time to a workdir.

It is the operating system's lock on an open file. It ends with the process that holds
it, however that ends, so that no stale lock is left.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import TextIO

import jax
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.training.processes import agree

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


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir for as long as the context is active.

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
        file, holder = _take(workdir)

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


def _take(workdir: epath.Path) -> tuple[TextIO | None, str]:
    """Takes the lock; returns the file that holds it, or the name of another holder.

    Neither is returned if the workdir cannot be locked.
    """
    if "://" in str(workdir):
        log.info(
            "%s is not a local folder and cannot be locked: start no second run in it.",
            workdir,
        )
        return None, ""
    if fcntl is None:
        log.info("This system has no file locks: start no second run in %s.", workdir)
        return None, ""

    path = workdir / FILE_NAME
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
            "%s cannot be locked (%s): start no second run in it.", workdir, error
        )
        return None, ""

    # The lock is this run's: name the process for others to read.
    file.seek(0)
    file.truncate()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()}, started {started}\n")
    file.flush()
    return file, ""
