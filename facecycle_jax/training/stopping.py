"""The ways a run ends early, each with its exit code."""

import itertools
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

# os.EX_TEMPFAIL, "try again later": launchers then start the same command again.
PREEMPTED_EXIT = 75
# os.EX_UNAVAILABLE: another process of the job is lost; start all of them again.
PEER_LOST_EXIT = 69
# os.EX_IOERR: a file cannot be written, e.g. because the disk is full.
STORAGE_EXIT = 74
DIVERGED_EXIT = 3

# Counts the calls of `StopSignal.reached`; all processes agree on the call to stop at.
# The number of the step would not do, because it starts anew with every stage.
_QUESTIONS = itertools.count()


class PreemptedError(Exception):
    """The platform asked the run to stop.

    Its state is saved and the same command continues it.
    """


class StorageError(Exception):
    """A checkpoint could not be written; those before it are intact."""


class DivergedError(Exception):
    """Too many updates in a row were not finite."""


class StopSignal:
    """Records SIGTERM instead of exiting, for as long as the context is active.

    With several processes, JAX's own preemption service listens to the signal in all of
    them, and agrees on the step after which all stop.
    """

    def __init__(self) -> None:
        self.received = False
        self._own = (
            jax.process_count() == 1
            and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> "StopSignal":
        if self._own:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self) -> bool:
        """Returns whether to stop after this step.

        All processes call it once in every step and get the same answer.
        """
        if jax.process_count() == 1:
            return self.received

        # Typed as Any because the types of jax.config do not list its options.
        options: Any = jax.config
        if not options.jax_enable_preemption_service:
            return False
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.received = True
