"""The report of images a run could not read.

One line each in the workdir, their number in the log.
"""

import logging
from collections.abc import Mapping

import jax
from etils import epath

from facecycle_jax.files import write_whole

log = logging.getLogger(__name__)


def report_unreadable(workdir: epath.Path, reasons: Mapping[str, str]) -> None:
    """Lists images in workdir/unreadable.txt, with those of earlier starts of the run, each once.

    The list is a courtesy: if it cannot be written, a line of the log says so and the
    run ends as it would.

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
        before = (
            path.read_bytes().decode(errors="backslashreplace") if path.exists() else ""
        )
        # One line each, whatever is in a file's name. Names need not be UTF-8; the list
        # is.
        found = {" ".join(reason.split()) for reason in reasons.values()}
        escaped = {line.encode(errors="backslashreplace").decode() for line in found}
        lines = escaped | set(before.splitlines())
        write_whole(path, "".join(f"{line}\n" for line in sorted(lines)).encode())
    except OSError as error:
        log.warning(
            "The list of unreadable images cannot be written to %s: %s", path, error
        )
        return

    log.warning(
        "Left out so far: %d images that cannot be read (%d met since this start), listed in %s",
        len(lines),
        len(reasons),
        path,
    )
