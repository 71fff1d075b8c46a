"""The report of images that a run could not read.

The workdir lists them, one a line; the log states their number.
"""

import logging
from collections.abc import Mapping

import jax
from etils import epath

from facecycle_jax.files import is_of_storage, write_text

log = logging.getLogger(__name__)


def report_unreadable(workdir: epath.Path, reasons: Mapping[str, str]) -> None:
    """Lists images in workdir/unreadable.txt, with those of earlier starts, each once.

    If the list cannot be written, the log reports it and the run is not affected.

    Args:
      workdir: directory of the run; the processes after the first write
        unreadable-<process>.txt.
      reasons: one sentence by file name, of this process.
    """
    if not reasons:
        return

    process = f"-{jax.process_index()}" if jax.process_index() else ""
    path = workdir / f"unreadable{process}.txt"

    try:
        before = ""
        if path.exists():
            before = path.read_bytes().decode(errors="backslashreplace")

        # One line each, whatever a file's name contains. They are escaped as in the
        # file, to be found there.
        found = {" ".join(reason.split()) for reason in reasons.values()}
        escaped = {line.encode(errors="backslashreplace").decode() for line in found}
        lines = escaped | set(before.splitlines())
        write_text(path, "".join(f"{line}\n" for line in sorted(lines)))
    except Exception as error:
        if not is_of_storage(error):
            raise
        log.warning(
            "The list of unreadable images cannot be written to %s: %s", path, error
        )
        return

    log.warning(
        "Left out so far: %d images that cannot be read (%d met since this start), "
        "listed in %s",
        len(lines),
        len(reasons),
        path,
    )
