"""How long each step takes on the devices, and which ones take far longer than most."""

import collections
import logging
import queue
import statistics
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

log = logging.getLogger(__name__)

# A step is reported if it takes so many times the running median, and so many seconds
# more: steps of milliseconds vary by chance.
_TIMES_MEDIAN = 3.0
_LEAST_EXCESS = 0.5
# Steps of the running median, and the fewest that make one.
_WINDOW = 101
_FEWEST = 10
# Seconds to wait for the last steps at the end of a run.
_PATIENCE = 10.0


class StartedStep(NamedTuple):
    """A step that the host has started, with times in seconds of one clock.

    Attributes:
      step: its number.
      resumed: end of what last kept the loop from its steps, such as an evaluation.
      asked: when the host began to wait for the batch.
      ready: when the batch was there and the step was started.
    """

    step: int
    resumed: float
    asked: float
    ready: float


class StepTimes:
    """Times steps without keeping the loop from running ahead of the devices.

    A thread waits for the output of each step.

    Args:
      clock: returns seconds.
      computed: is called for each step, on the thread, with the seconds of its wait for
        a batch in which the devices were still computing the steps before it.
    """

    def __init__(
        self, *, clock: Callable[[], float], computed: Callable[[float], None]
    ) -> None:
        self._clock = clock
        self._computed = computed
        self._pending: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._seconds: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        # When the devices had finished the last step.
        self._free = float("-inf")
        self.last_step = 0

    def follow(self, started: StartedStep, output: Any) -> None:
        """Waits in the background for a step.

        Args:
          started: the step.
          output: its output, arrays that are not donated.
        """
        if self._thread is None:
            # A daemon: a lost process of the job may leave a step without an end.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._pending.put((started, output))

    def finished(self, started: StartedStep, now: float) -> None:
        """Records the end of a step on the devices; reports it if it took too long.

        Args:
          started: the step; those before it have been recorded.
          now: when it ended.
        """
        # The devices could begin when the step before it had ended, unless the loop did
        # something else then.
        free = max(self._free, started.resumed)
        parts = {
            "in the host's program": max(0.0, started.asked - free),
            "waiting for data": max(0.0, started.ready - max(started.asked, free)),
            "on the devices": now - max(started.ready, free),
        }
        self._free = now
        self.last_step = started.step

        wait = started.ready - started.asked
        self._computed(wait - parts["waiting for data"])
        self._compare(started.step, now - free, parts)

    def close(self, *, wait: bool) -> None:
        """Ends the thread.

        Args:
          wait: whether to wait for the steps that were started.
        """
        if self._thread is None:
            return

        self._pending.put(None)
        if wait:
            self._thread.join(_PATIENCE)
        self._thread = None

    def _run(self) -> None:
        """Waits for one step after the other."""
        while (item := self._pending.get()) is not None:
            started, output = item
            try:
                jax.block_until_ready(output)
            except Exception:
                # The loop gets the same error where it reads the output, and reports
                # it.
                return
            self.finished(started, self._clock())

    def _compare(self, step: int, seconds: float, parts: dict[str, float]) -> None:
        """Reports a step that took far longer than most before it."""
        known = len(self._seconds)
        median = statistics.median(self._seconds) if known else 0.0
        self._seconds.append(seconds)

        excess = seconds - median
        usual = seconds <= _TIMES_MEDIAN * median or excess < _LEAST_EXCESS
        if known < _FEWEST or usual:
            return

        # Every process waits on its devices for the slowest one, which knows more.
        cause = max(parts, key=lambda name: parts[name])
        if jax.process_index() and cause == "on the devices":
            return
        log.info(
            "step %d took %.3g s, the median is %.3g s: %.3g s of it %s",
            step,
            seconds,
            median,
            parts[cause],
            cause,
        )
