"""The report of pictures a run could not read: one line each in the workdir, their number in the log."""

import logging
from collections.abc import Mapping

import jax
from etils import epath

log = logging.getLogger(__name__)


def report_unreadable(workdir: epath.Path, reasons: Mapping[str, str]) -> None:
    """Lists pictures in workdir/unreadable.txt, with those of earlier starts of the run, each once.

    Args:
      workdir: directory of the run; the processes after the first write unreadable-<process>.txt.
      reasons: one sentence by file name, of this process.
    """
    if not reasons:
        return
    process = f"-{jax.process_index()}" if jax.process_index() else ""
    path = workdir / f"unreadable{process}.txt"
    before = path.read_text().splitlines() if path.exists() else []
    # One line each, whatever is in a file's name.
    lines = {" ".join(reason.split()) for reason in reasons.values()} | set(before)
    path.write_text("".join(f"{line}\n" for line in sorted(lines)))
    log.warning(
        "Left out so far: %d pictures that cannot be read (%d met since this start), listed in %s",
        len(lines), len(reasons), path,
    )  # fmt: skip
