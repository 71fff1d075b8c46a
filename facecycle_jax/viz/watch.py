"""The panels of a training run while it goes on, for notebooks."""

import time
from collections.abc import Callable, Iterator

from etils import epath

from facecycle_jax.errors import UserError


def new_panels(
    workdir: epath.PathLike, *, running: Callable[[], bool], interval: float = 1.0
) -> Iterator[epath.Path]:
    """Waits for the panels that a run writes.

    Panels that are there before the first look are left out: they belong to an earlier
    start.

    Args:
      workdir: directory of the run; of a run of several stages, the directory above
        theirs.
      running: whether the run still goes on; once it does not, the last panels come and
        the iteration ends.
      interval: seconds between two looks.

    Yields:
      The file of each panel, in the order they are written.

    Raises:
      ValueError: if the interval is not above 0.
    """
    if not interval > 0:
        raise UserError(f"interval must be above 0 seconds, got {interval}.")
    seen = set(_panels(workdir))
    going = True
    while going:
        # Asked before the look, so that what is written in between is not missed.
        going = running()
        new = [path for path in _panels(workdir) if path not in seen]
        seen.update(new)
        yield from new
        if going:
            time.sleep(interval)


def _panels(workdir: epath.PathLike) -> list[epath.Path]:
    """Lists the panels below a folder; they are written whole."""
    root = epath.Path(workdir)
    return sorted(
        [*root.glob("panels/*.png"), *root.glob("*/panels/*.png")],
        key=lambda path: path.name,
    )
