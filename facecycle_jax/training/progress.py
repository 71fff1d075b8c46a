"""How fast a run goes: a bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
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
      pictures: pictures per step, over all processes.
    """

    def __init__(self, *, step: int, total: int, pictures: int) -> None:
        self._total, self._pictures = total, pictures
        self._step, self._time = step, time.perf_counter()
        self._shown = jax.process_index() == 0 and sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            initial=step, total=total, unit="step", dynamic_ncols=True, disable=not self._shown
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
        """Starts to measure here; what came before (compilation, an evaluation) does not count."""
        self._step, self._time = step, time.perf_counter()

    def tick(self) -> None:
        """Moves the bar by one step."""
        self._bar.update()

    def report(self, step: int, terms: Mapping[str, float]) -> dict[str, float]:
        """Logs a line of loss terms with the speed since the last, and the time left.

        Args:
          step: steps done.
          terms: averages to show; 'total' first.

        Returns:
          {'steps_per_second', 'pictures_per_second'}; empty if no step was measured.
        """
        done, seconds = step - self._step, time.perf_counter() - self._time
        self.restart(step)
        shown = " ".join(f"{k} {terms[k]:.4g}" for k in sorted(terms, key=lambda k: (k != "total", k)))
        if not done:
            log.info("step %d/%d  %s", step, self._total, shown)
            return {}
        speed = done / seconds
        self._bar.set_postfix(total=f"{terms.get('total', float('nan')):.4g}", refresh=False)
        log.info(
            "step %d/%d  %.3g steps/s  %.3g pictures/s  %s left  %s",
            step, self._total, speed, speed * self._pictures,
            _clock((self._total - step) / speed), shown,
        )  # fmt: skip
        return {"steps_per_second": speed, "pictures_per_second": speed * self._pictures}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
