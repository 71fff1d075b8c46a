"""The ways a run ends early, each with the exit code its launcher sees."""

import itertools
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

# os.EX_TEMPFAIL: "try again later"; launchers start the same command again on it.
PREEMPTED_EXIT = 75
# os.EX_UNAVAILABLE: another process of the job is lost; start all of them again.
PEER_LOST_EXIT = 69
# os.EX_IOERR: a file cannot be written, e.g. because the disk is full.
STORAGE_EXIT = 74
DIVERGED_EXIT = 3

# Not the step's number, which starts anew with every stage: what is agreed on is a
# number to come.
_QUESTIONS = itertools.count()


class PreemptedError(Exception):
    """The platform asked the run to stop.

    Its state is saved and the same command continues it.
    """


class StorageError(Exception):
    """A checkpoint could not be written; those before it are as they were."""


class DivergedError(Exception):
    """Too many updates in a row were not finite."""


class StopSignal:
    """Notes SIGTERM instead of dying of it, while the context lasts.

    With several processes JAX's own preemption service listens to the signal, in all of
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
        """Says whether to stop after this step.

        All processes ask once in every step and hear the same.
        """
        if jax.process_count() == 1:
            return self.received
        options: Any = jax.config  # its types do not list the options
        if not options.jax_enable_preemption_service:
            return False
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.received = True
