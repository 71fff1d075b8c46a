"""The share of a run's wall time that goes into training steps, and into what else.

The seconds are summed over all starts of a run and kept in goodput.json of its workdir.
"""

import contextlib
import dataclasses
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from facecycle_jax.files import is_of_storage, write_json
from facecycle_jax.training.progress import as_clock
from facecycle_jax.training.step_times import StartedStep, StepTimes

log = logging.getLogger(__name__)

FILE_NAME = "goodput.json"

# What wall time is spent on, with its name in a sentence. Every second belongs to one.
CATEGORIES: Mapping[str, str] = {
    "steps": "steps",
    "start": "start-up",
    "compilation": "compilation",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",
    "lost": "steps lost to restarts",
}

# Smaller fractions are left out of the sentence at the end.
_LEAST_SHARE = 5e-4
# Seconds of steps between two writes, which a killed process loses at most. Buckets
# answer more slowly.
_WRITE_EVERY = 10.0
_WRITE_EVERY_IN_BUCKETS = 60.0
# Checkpoints whose time is kept. A start continues from the newest one that is sound.
_MAX_SAVED = 8


@dataclasses.dataclass
class _Record:
    """What goodput.json holds.

    Attributes:
      seconds: wall time by category, over all starts.
      starts: number of starts.
      step: last step that is known to be done.
      lost_steps: number of steps that had to be done again.
      saved: seconds spent on steps when a checkpoint was saved, by its step.
    """

    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(CATEGORIES, 0.0)
    )
    starts: int = 0
    step: int = 0
    lost_steps: int = 0
    saved: dict[int, float] = dataclasses.field(default_factory=dict)


class Goodput:
    """Measures what the wall time of a run is spent on.

    Time outside of any `spent` context is start-up. The host may run ahead of the
    devices, so a wait for data counts only where the devices had nothing to compute.
    Of several processes, the first one keeps the file.

    Args:
      workdir: directory of the run, local or gs://; must exist.
      clock: returns seconds that never run backwards.
    """

    def __init__(
        self, workdir: epath.PathLike, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = epath.Path(workdir) / FILE_NAME
        self._is_first = jax.process_index() == 0
        self._record = _read(self._path) if self._is_first else _Record()
        self._clock = clock

        # The thread that times steps moves seconds between categories.
        self._lock = threading.Lock()
        self._category = "start"
        self._since = clock()
        self._written = self._since
        self._can_write = True

        # The last wait for a batch, and the end of whatever last kept the loop from
        # its steps.
        self._wait = (self._since, self._since)
        self._resumed = self._since
        self._times = StepTimes(clock=clock, computed=self._devices_computed)

    def continue_at(self, step: int) -> None:
        """Starts to record, and finds the steps that an earlier start has lost.

        Args:
          step: step of the state that this start continues from.
        """
        record = self._record
        record.starts += 1

        # The checkpoint itself, or an earlier one if the file is older than that.
        known = [saved for saved in record.saved if saved <= step]
        seconds = record.saved[max(known)] if known else 0.0
        lost = record.step - step
        if lost > 0:
            record.lost_steps += lost
            record.seconds["lost"] += record.seconds["steps"] - seconds
            record.seconds["steps"] = seconds
            log.info(
                "%d steps done after the checkpoint of step %d are done again",
                lost,
                step,
            )

        record.saved = {saved: record.saved[saved] for saved in known}
        record.step = step
        self._write()

    @contextlib.contextmanager
    def spent(self, category: str) -> Iterator[None]:
        """Counts the time within the context as spent on a category.

        A context within another one takes its time from the outer one.

        Args:
          category: one of CATEGORIES.
        """
        outer = self._category
        begin = self._switch(category)
        try:
            yield
        finally:
            end = self._switch(outer)
            if category == "data":
                self._wait = (begin, end)
            elif category != "steps":
                self._resumed = end

    def stepped(self, step: int, output: Any) -> None:
        """Follows a step that has been started, without waiting for it.

        Args:
          step: its number, from 1.
          output: arrays that are there once the step is done.
        """
        asked, ready = self._wait
        started = StartedStep(
            step=step, resumed=self._resumed, asked=asked, ready=ready
        )
        self._times.follow(started, output)

        every = _WRITE_EVERY_IN_BUCKETS if "://" in str(self._path) else _WRITE_EVERY
        if self._clock() - self._written >= every:
            self.reached(self._times.last_step)

    def reached(self, step: int) -> None:
        """Writes the file.

        Args:
          step: a step that is done.
        """
        self._record.step = max(self._record.step, step)
        self._write()

    def saved(self, step: int) -> None:
        """Records that a checkpoint is being written, and writes the file.

        Args:
          step: step of the checkpoint.
        """
        self._switch(self._category)
        saved = {**self._record.saved, step: self._record.seconds["steps"]}
        newest = sorted(saved)[-_MAX_SAVED:]
        self._record.saved = {step: saved[step] for step in newest}
        self.reached(step)

    def seconds(self) -> float:
        """Returns the wall time so far, over all starts.

        Of several processes, only the first one knows that of earlier starts.
        """
        return sum(self._charged().values())

    def fractions(self) -> dict[str, float]:
        """Returns the fraction of the wall time so far, by 'goodput/' and category."""
        seconds = self._charged()
        total = sum(seconds.values()) or 1.0
        return {f"goodput/{name}": value / total for name, value in seconds.items()}

    def summary(self) -> str:
        """Describes in one sentence what the wall time was spent on."""
        seconds = self._charged()
        total = sum(seconds.values()) or 1.0
        shares = [
            f"{CATEGORIES[name]} {100 * value / total:.1f} %"
            for name, value in seconds.items()
            if value / total >= _LEAST_SHARE
        ]

        record = self._record
        times = "1 start" if record.starts == 1 else f"{record.starts} starts"
        lost = f" ({record.lost_steps} steps)" if record.lost_steps else ""
        return f"Wall time {as_clock(total)} in {times}: {', '.join(shares)}{lost}"

    def close(self, *, wait: bool = True) -> None:
        """Writes the file and reports what the wall time was spent on.

        Args:
          wait: whether to wait for the steps that were started.
        """
        self._times.close(wait=wait)
        self._record.step = max(self._record.step, self._times.last_step)
        self._write()
        if self._is_first:
            log.info("%s", self.summary())

    def _switch(self, category: str) -> float:
        """Charges the time since the last switch; returns the time."""
        with self._lock:
            now = self._clock()
            self._record.seconds[self._category] += now - self._since
            self._since = now
            self._category = category
        return now

    def _charged(self) -> dict[str, float]:
        """Returns the seconds by category, up to now."""
        self._switch(self._category)
        with self._lock:
            return dict(self._record.seconds)

    def _devices_computed(self, seconds: float) -> None:
        """Moves a part of a wait for data in which the devices computed."""
        with self._lock:
            moved = min(seconds, self._record.seconds["data"])
            self._record.seconds["data"] -= moved
            self._record.seconds["steps"] += moved

    def _write(self) -> None:
        """Writes the file; one that cannot be written ends no run."""
        seconds = self._charged()
        self._written = self._clock()
        if not self._is_first or not self._can_write:
            return

        fields = {**dataclasses.asdict(self._record), "seconds": seconds}
        try:
            write_json(self._path, fields)
        except Exception as error:
            if not is_of_storage(error):
                raise
            self._can_write = False
            log.warning("The record of wall time cannot be written: %s", error)


def _read(path: epath.Path) -> _Record:
    """Reads what earlier starts have recorded."""
    if not path.exists():
        return _Record()

    try:
        fields = json.loads(path.read_text())
        seconds = {name: float(fields["seconds"][name]) for name in CATEGORIES}
        saved = {int(step): float(value) for step, value in fields["saved"].items()}
        times = [*seconds.values(), *saved.values()]
        if not all(math.isfinite(value) for value in times):
            raise ValueError("a time is not finite")
        return _Record(
            seconds=seconds,
            starts=int(fields["starts"]),
            step=int(fields["step"]),
            lost_steps=int(fields["lost_steps"]),
            saved=saved,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # It only reports; the run can go on.
        log.warning("%s is broken: the wall time of earlier starts is forgotten.", path)
        return _Record()
