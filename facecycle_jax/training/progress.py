"""The speed of a run, as a bar on a terminal and as plain lines elsewhere."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class Progress:
    """Measures steps per second between logs and shows them.

    Args:
      step: step the run continues from.
      total: step it ends at.
      images: images per step, over all processes.
      name: heading of the bar, e.g. the stage.
    """

    def __init__(self, *, step: int, total: int, images: int, name: str = "") -> None:
        self._total = total
        self._images = images
        self._step = step
        self._time = time.perf_counter()

        self._shown = jax.process_index() == 0 and sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            initial=step,
            total=total,
            desc=name or None,
            # tqdm's own rate is left out because compilation and evaluation distort it.
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps "
            "[{elapsed}, {remaining} left{postfix}]",
            disable=not self._shown,
            **_bar_size(),
        )

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Keeps log lines from tearing the bar; closes it at the end."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._bar.close)
            if self._shown:
                package = logging.getLogger(__package__.partition(".")[0])
                stack.enter_context(logging_redirect_tqdm([package]))
            yield

    def restart(self, step: int) -> None:
        """Starts to measure here, so that compilation or an evaluation do not count.

        Args:
          step: steps done.
        """
        self._step = step
        self._time = time.perf_counter()

    def tick(self) -> None:
        """Moves the bar by one step."""
        self._bar.update()

    def report(self, step: int, terms: Mapping[str, float]) -> dict[str, float]:
        """Shows the loss, the speed since the last report and the time left.

        A terminal shows them in its bar. Elsewhere they are one plain line. All terms
        are in metrics.jsonl.

        Args:
          step: steps done.
          terms: averages of the loss terms; 'total' is shown.

        Returns:
          {'steps_per_second', 'images_per_second'}; empty if no step was measured.
        """
        done = step - self._step
        seconds = time.perf_counter() - self._time
        self.restart(step)

        loss = f"{terms.get('total', float('nan')):.4g}"
        self._bar.set_postfix_str(f"loss {loss}", refresh=False)

        percent = 100 * step // max(self._total, 1)
        line = f"step {step}/{self._total} ({percent} %), loss {loss}"
        speeds = {}
        if done:
            steps_per_second = done / seconds
            images_per_second = steps_per_second * self._images
            speeds = {
                "steps_per_second": steps_per_second,
                "images_per_second": images_per_second,
            }
            left = as_clock((self._total - step) / steps_per_second)
            line += f", {images_per_second:.3g} images/s, {left} left"

        # The bar has both already.
        if not self._shown:
            log.info(line)
        return speeds


def _bar_size() -> dict[str, int]:
    """Chooses tqdm's options for the size of the terminal that the bar is on."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))

    # A terminal that does not know its size says 0, which would hide the bar.
    return {"dynamic_ncols": True} if all(size) else {"ncols": 80, "nrows": 20}


def as_clock(seconds: float) -> str:
    """Writes a duration as [hours:]minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
