"""The panels of a running training, for notebooks."""

import time
from collections.abc import Callable, Iterator

from etils import epath

from facecycle_jax.errors import UserError


def new_panels(
    workdir: epath.PathLike, *, running: Callable[[], bool], interval: float = 1.0
) -> Iterator[epath.Path]:
    """Waits for the panels that a run writes.

    Panels that exist before the first look are left out, because they belong to an
    earlier start.

    Args:
      workdir: directory of the run, or the one above the directories of its stages.
      running: whether the run is still active. Once it is not, the last panels follow
        and the iteration ends.
      interval: seconds between two looks.

    Yields:
      The file of each panel, in the order they are written.

    Raises:
      UserError: if the interval is not above 0.
    """
    if not interval > 0:
        raise UserError(f"interval must be above 0 seconds, got {interval}.")

    seen = set(_panels(workdir))
    going = True
    while going:
        # Checked before the look, so that a panel written in between is not missed.
        going = running()

        new = [path for path in _panels(workdir) if path not in seen]
        seen.update(new)
        yield from new

        if going:
            time.sleep(interval)


def _panels(workdir: epath.PathLike) -> list[epath.Path]:
    """Lists the panels below a folder; they are written whole."""
    root = epath.Path(workdir)
    found = [*root.glob("panels/*.png"), *root.glob("*/panels/*.png")]
    return sorted(found, key=lambda path: path.name)
