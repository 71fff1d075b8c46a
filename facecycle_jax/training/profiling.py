"""A trace of a few steps, for TensorBoard's profiler or Perfetto."""

import logging
import os
import pathlib
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
from etils import epath

log = logging.getLogger(__name__)

FOLDER = "profile"


class Profiler:
    """Writes a trace of some steps into workdir/profile.

    Of several processes, the first one writes what its host and devices did. As a
    context manager it ends a trace that is under way.

    Args:
      workdir: directory of the run, local or gs://.
      steps: first and last step; empty: no trace.
    """

    def __init__(self, workdir: epath.PathLike, steps: Sequence[int]) -> None:
        self._folder = epath.Path(workdir) / FOLDER
        self._steps = range(0)
        if steps and jax.process_index() == 0:
            first, last = steps
            self._steps = range(first, last + 1)

        # The trace goes to a local folder first if the workdir is a bucket.
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._is_running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_running:
            self._stop()

    def before(self, step: int) -> None:
        """Starts the trace if a step is the first one to be traced.

        Args:
          step: the step that follows.
        """
        # A run that continues in the middle traces the rest.
        if self._is_running or step not in self._steps:
            return

        folder = os.fspath(self._folder)
        if "://" in folder:
            self._scratch = tempfile.TemporaryDirectory()
            folder = self._scratch.name
        jax.profiler.start_trace(folder)
        self._is_running = True

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if a step is the last one to be traced.

        Args:
          step: the step that was started.
          state: its result, which the trace waits for.
        """
        if self._is_running and step == self._steps[-1]:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        """Ends the trace and brings it to its place."""
        self._is_running = False
        jax.profiler.stop_trace()

        if self._scratch is not None:
            root = pathlib.Path(self._scratch.name)
            for file in root.rglob("*"):
                if file.is_file():
                    target = self._folder / os.fspath(file.relative_to(root))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
            self._scratch.cleanup()
        log.info("The trace of the steps is in %s", self._folder)
