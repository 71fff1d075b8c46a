"""The ways a run ends early, each with its exit code."""

import itertools
import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

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
    """Records SIGTERM and Ctrl-C instead of exiting, while the context is active.

    A second Ctrl-C interrupts at once. With several processes, JAX's own preemption
    service listens to SIGTERM in all of them, and agrees on the step after which all
    stop; Ctrl-C interrupts them at once.

    Attributes:
      received: whether one of the signals has come.
      interrupted: whether it was Ctrl-C.
    """

    def __init__(self) -> None:
        self.received = False
        self.interrupted = False
        self._previous: dict[int, Any] = {}
        self._own = (
            jax.process_count() == 1
            and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> "StopSignal":
        if not self._own:
            return self

        self._record(signal.SIGTERM)
        # A process in the background ignores Ctrl-C, and goes on to.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._record(signal.SIGINT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

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

    def _record(self, number: int) -> None:
        """Starts to record a signal."""
        self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = True
        if number == signal.SIGINT:
            self.interrupted = True
            signal.signal(number, self._previous[number])
            log.info("Interrupted: the step is saved first. Ctrl-C again ends at once.")
