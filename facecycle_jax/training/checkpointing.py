"""Checkpoints: saved in the background, the last few and the best kept.

A run's directory holds checkpoints/<step>/ (Orbax), losses.json (held-out loss by step)
and, if checkpoints were damaged, checkpoints_unreadable/<step>/.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.training import processes
from facecycle_jax.training.checkpoint_reading import (
    FOLDER,
    DamagedCheckpointError,
    absolute,
    check_shapes,
    check_whole,
    storage_error,
)
from facecycle_jax.training.digests import compare_digests, digests
from facecycle_jax.training.stopping import StorageError

log = logging.getLogger(__name__)

UNREADABLE = "checkpoints_unreadable"
LOSSES = "losses.json"


@dataclasses.dataclass
class _KeepLastAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last `number` checkpoints and the one of lowest held-out loss."""

    number: int
    losses: dict[int, float]

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        del context
        steps = [info.step for info in checkpoints]

        kept = set(sorted(steps)[-self.number :])
        best = _best(self.losses, steps)
        if best is not None:
            kept.add(best)

        return [step in kept for step in steps]


class Checkpointer:
    """Saves and restores the states of one run.

    Args:
      workdir: directory of the run; anything epath opens, gs:// too.
      keep_last: number of newest checkpoints to keep, in addition to the best.
      start_anew: whether a run may start from scratch although damaged checkpoints were
        set aside.
    """

    def __init__(
        self, workdir: epath.PathLike, *, keep_last: int = 3, start_anew: bool = False
    ) -> None:
        if keep_last < 1:
            raise UserError(f"keep_last must be at least 1, got {keep_last}.")

        self._start_anew = start_anew
        # Orbax requires absolute paths.
        self._workdir = absolute(workdir)
        self._losses = _read_losses(self._workdir)
        self._saving: int | None = None

        # Orbax could do this too, but in a thread that outlives a run refused at its
        # start, and that thread then fails while the interpreter shuts down.
        if jax.process_index() == 0:
            _remove_half_written(self._workdir / FOLDER)

        self._manager = ocp.CheckpointManager(
            self._workdir / FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_KeepLastAndBest(keep_last, self._losses)
            ),
        )

        # Orbax would ask JAX's service for preemption too, with the training step. It
        # answers to rising numbers, and those of `StopSignal` are a count of its own: a
        # SIGTERM between the two would never be answered.
        self._manager.reached_preemption = lambda step: False

        # A save that failed, or a checkpoint that was set aside, has no loss.
        existing = set(self._manager.all_steps())
        for step in [step for step in self._losses if step not in existing]:
            del self._losses[step]

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    @property
    def has_history(self) -> bool:
        """Whether the workdir holds a run to continue.

        A run whose checkpoints were all set aside counts unless it starts anew.
        """
        lost = bool(self._set_aside_so_far()) and not self._start_anew
        return self.latest_step is not None or lost

    def has_loss(self, step: int) -> bool:
        """Whether the held-out loss of a step is recorded."""
        return step in self._losses

    def save(self, step: int, state: Any, *, loss: float | None = None) -> None:
        """Starts to save a state in the background, once an earlier save has ended.

        Args:
          step: its step; a step that is saved already is left as it is.
          state: the arrays; may be donated afterwards.
          loss: its held-out loss, if it was measured.

        Raises:
          StorageError: If this or the earlier save failed.
        """
        if step in self._manager.all_steps():
            return
        if loss is not None:
            self.record_loss(step, loss)

        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            digests=ocp.args.JsonSave(digests(state)),
        )
        # Orbax would wait too. Here a failure is reported with the step it belongs to.
        self.wait()
        with self._as_storage_error(step):
            self._manager.save(step, args=args, force=True)
        self._saving = step

    def record_loss(self, step: int, loss: float) -> None:
        """Records the held-out loss of a step, which decides on the best checkpoint.

        Args:
          step: its step.
          loss: the loss. NaN is recorded too, as null, and is never the best.
        """
        self._losses[step] = float(loss)
        if jax.process_index() != 0:
            return

        # Only losses of steps that still exist are written, so the file does not grow.
        existing = {*self._manager.all_steps(), step}
        kept = {
            known: None if math.isnan(value) else value
            for known, value in self._losses.items()
            if known in existing
        }
        write_whole(self._workdir / LOSSES, json.dumps(kept).encode())

    def restore(self, abstract: Any) -> Any | None:
        """Restores the newest checkpoint that is not damaged.

        A checkpoint that is proven damaged is reported as an error in the log and moved
        to checkpoints_unreadable/; the one before it is used. After any other error
        nothing is moved.

        Args:
          abstract: tree of `jax.ShapeDtypeStruct` with shardings, the structure of the
            state.

        Returns:
          The state, or None if the run has no checkpoint.

        Raises:
          UserError: If every checkpoint is, or has been, set aside as damaged, or if
            the newest one is of another state, naming the first array that differs.
          OSError: If the storage cannot be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if jax.process_count() > 1:
            return self._restore_together(steps, abstract)

        for step in steps:
            try:
                return self._restore(step, abstract)
            except Exception as error:
                # A second reading, on the host, proves damage. Any other error is
                # raised.
                self._raise_unless_damaged(step, error)
            self._set_aside(step)

        self._check_nothing_lost()
        return None

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          StorageError: If it failed.
        """
        with self._as_storage_error(self._saving):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the save in progress and frees the threads.

        Raises:
          StorageError: If it failed.
        """
        with self._as_storage_error(self._saving):
            self._manager.close()

    @contextlib.contextmanager
    def _as_storage_error(self, step: int | None) -> Iterator[None]:
        """Turns whatever Orbax raises while it writes into a StorageError."""
        try:
            yield
        except Exception as error:
            known = self._manager.latest_step()
            raise StorageError(
                f"a checkpoint could not be written to {self._manager.directory} "
                f"(step {step}; {type(error).__name__}: {_reason(error)}). "
                "The checkpoints before it are intact, the newest is that of step "
                f"{known}. Make room or repair the storage; the same command then "
                "continues from there."
            ) from error

    def _restore_together(self, steps: Sequence[int], abstract: Any) -> Any | None:
        """Restores the newest checkpoint that process 0 finds whole, in all processes.

        Process 0 alone looks for damage. If each process did so by itself, those that
        find none would wait for the others forever.
        """
        chosen = -1
        if jax.process_index() == 0:
            chosen = self._newest_whole(steps)
        chosen = processes.agree(chosen)

        for step in steps:
            if step <= chosen:
                return self._restore(chosen, abstract)
            self._set_aside(step)

        self._check_nothing_lost()
        return None

    def _newest_whole(self, steps: Sequence[int]) -> int:
        """Finds the newest checkpoint that is not damaged; -1 if all are."""
        for step in steps:
            try:
                check_whole(self._manager.directory / str(step))
            except DamagedCheckpointError as error:
                self._report(step, error)
                continue
            return step
        return -1

    def _report(self, step: int, error: Exception) -> None:
        """Reports a damaged checkpoint in the log."""
        log.error(
            "CHECKPOINT %s IS UNREADABLE (%s: %s): using the one before it.",
            self._manager.directory / str(step),
            type(error).__name__,
            _reason(error),
        )

    def _raise_unless_damaged(self, step: int, error: Exception) -> None:
        """Raises why a checkpoint could not be restored, unless it is damaged."""
        folder = self._manager.directory / str(step)
        try:
            check_whole(folder)
        except DamagedCheckpointError as damage:
            self._report(step, damage)
            return
        raise error

    def _check_nothing_lost(self) -> None:
        """Refuses a start from scratch that would hide checkpoints set aside."""
        names = self._set_aside_so_far()
        if not names:
            return

        folder = self._workdir / UNREADABLE
        if self._start_anew:
            log.warning("Starting anew; the damaged checkpoints stay in %s.", folder)
            return
        raise UserError(
            f"none of the checkpoints of this run could be read: {', '.join(names)} "
            f"were set aside in {folder} as damaged. Move one back into "
            f"{self._workdir / FOLDER} if it can be repaired, use another workdir, or "
            "start anew here with --start_anew."
        )

    def _set_aside_so_far(self) -> list[str]:
        """Lists the names of the checkpoints that were set aside."""
        folder = self._workdir / UNREADABLE
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir())

    def _restore(self, step: int, abstract: Any) -> Any:
        """Restores one checkpoint and compares its checksums."""
        # Before Orbax finds it out: its reads in progress would then print a stack
        # trace each, below the sentence.
        check_shapes(self._manager.directory / str(step), abstract)

        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), digests=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except ValueError as error:
            # Orbax raises this for a network or permissions too.
            failed = storage_error(error)
            if failed is None:
                raise
            raise failed from error

        compare_digests(digests(restored["state"]), restored["digests"])
        return restored["state"]

    def _set_aside(self, step: int) -> None:
        """Moves a checkpoint to a name that is free; nothing is ever removed."""
        if jax.process_index() == 0:
            folder = self._workdir / UNREADABLE
            folder.mkdir(parents=True, exist_ok=True)

            # The step, else step-2, step-3, ...
            taken = set(self._set_aside_so_far())
            name = str(step)
            for number in itertools.count(2):
                if name not in taken:
                    break
                name = f"{step}-{number}"
            (self._workdir / FOLDER / str(step)).rename(folder / name)

        processes.wait_for_all("checkpoint_set_aside")
        self._losses.pop(step, None)
        self._manager.reload()


def _remove_half_written(folder: epath.Path) -> None:
    """Removes the checkpoints that a killed process was still writing."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if ocp.utils.is_tmp_checkpoint(path):
            path.rmtree()


def _reason(error: Exception) -> str:
    """Returns the first line of an error's text."""
    return str(error).strip().split("\n")[0][:300]


def _best(losses: Mapping[int, float], steps: Sequence[int]) -> int | None:
    """Finds the step of lowest loss, the first of equal ones; None if none is known."""
    known = [step for step in steps if not math.isnan(losses.get(step, math.nan))]
    if not known:
        return None
    return min(known, key=lambda step: (losses[step], step))


def _read_losses(workdir: epath.Path) -> dict[int, float]:
    """Reads the held-out losses that earlier starts of the run have recorded."""
    path = workdir / LOSSES
    if not path.exists():
        return {}

    try:
        recorded = json.loads(path.read_text())
        return {
            int(step): math.nan if loss is None else float(loss)
            for step, loss in recorded.items()
        }
    except (ValueError, AttributeError, TypeError):
        # The losses only choose which old checkpoint to keep; the run can go on.
        log.warning("%s is broken: which checkpoint was best is forgotten.", path)
        return {}
