"""Checkpoints.

Saved in the background, the last few and the best kept, restored with care.

A run's directory holds checkpoints/<step>/ (Orbax) and losses.json (held-out loss by
step).
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
from facecycle_jax.training.digests import compare_digests, digests
from facecycle_jax.training.network_loading import (
    FOLDER,
    DamagedCheckpointError,
    absolute,
    check_shapes,
    check_whole,
    storage_error,
)
from facecycle_jax.training.stopping import StorageError

log = logging.getLogger(__name__)

UNREADABLE, LOSSES = "checkpoints_unreadable", "losses.json"


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
        kept |= {best for best in [_best(self.losses, steps)] if best is not None}
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
        # Orbax wants absolute paths; a URL is one already.
        self._workdir = absolute(workdir)
        self._losses = _read_losses(self._workdir)
        self._saving: int | None = None
        self._manager = ocp.CheckpointManager(
            self._workdir / FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_KeepLastAndBest(keep_last, self._losses),
                # What a killed process has left half-written.
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    @property
    def has_history(self) -> bool:
        """Whether the workdir holds a run to continue, even if its checkpoints were set aside."""
        lost = bool(self._set_aside_so_far()) and not self._start_anew
        return self.latest_step is not None or lost

    def has_loss(self, step: int) -> bool:
        """Whether the held-out loss of a step is known."""
        return step in self._losses

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest held-out loss, None where none was measured."""
        return _best(self._losses, self._manager.all_steps())

    def save(self, step: int, state: Any, *, loss: float | None = None) -> None:
        """Starts to save a state in the background, once an earlier save has ended.

        Args:
          step: its step; a step that is saved already is left as it is.
          state: the arrays; may be donated afterwards.
          loss: its held-out loss, where it was measured.

        Raises:
          StorageError: if this or the earlier save failed.
        """
        if step in self._manager.all_steps():
            return
        if loss is not None:
            self.record_loss(step, loss)

        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            digests=ocp.args.JsonSave(digests(state)),
        )
        # Orbax would wait too; a failure is told with the step it belongs to.
        self.wait()
        with self._telling(step):
            self._manager.save(step, args=args, force=True)
        self._saving = step

    def record_loss(self, step: int, loss: float) -> None:
        """Writes down the held-out loss of a step, which decides on the best checkpoint.

        Args:
          step: its step.
          loss: the loss; NaN is left out.
        """
        if math.isnan(loss):
            return
        self._losses[step] = float(loss)
        if jax.process_index() != 0:
            return

        # Only of steps that still exist, so the file does not grow.
        existing = {*self._manager.all_steps(), step}
        kept = {s: v for s, v in self._losses.items() if s in existing}
        write_whole(self._workdir / LOSSES, json.dumps(kept).encode())

    def restore(self, abstract: Any) -> Any | None:
        """Restores the newest checkpoint that is not damaged.

        One that is proven damaged is reported loudly, moved to checkpoints_unreadable/,
        and the one before it is used. After any other error nothing is moved.

        Args:
          abstract: tree of `jax.ShapeDtypeStruct` with shardings, the structure of the
            state.

        Returns:
          The state, or None where the run has no checkpoint.

        Raises:
          ValueError: if every checkpoint is, or has been, set aside as damaged, or the
            newest one is of another state, naming the first array that differs.
          OSError: if the storage cannot be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if jax.process_count() > 1:
            return self._restore_together(steps, abstract)

        for step in steps:
            try:
                return self._restore(step, abstract)
            except Exception as error:
                # Damage is proven by a second reading on the host; whatever else failed
                # is raised.
                self._raise_unless_damaged(step, error, abstract)
            self._set_aside(step)

        self._check_nothing_lost()
        return None

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          StorageError: if it failed.
        """
        with self._telling(self._saving):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the save in progress and frees the threads.

        Raises:
          StorageError: if it failed.
        """
        with self._telling(self._saving):
            self._manager.close()

    @contextlib.contextmanager
    def _telling(self, step: int | None) -> Iterator[None]:
        """Turns whatever the writer below raises into a sentence."""
        try:
            yield
        except Exception as error:
            known = self._manager.latest_step()
            raise StorageError(
                f"a checkpoint could not be written to {self._manager.directory} "
                f"(step {step}; {type(error).__name__}: {_reason(error)}). "
                f"The checkpoints before it are intact, the newest is of step {known}. Make room or "
                "repair the storage; the same command then continues from there."
            ) from error

    def _restore_together(self, steps: Sequence[int], abstract: Any) -> Any | None:
        """Restores the checkpoint that process 0 has found whole.

        All processes use the same.

        One process alone reads before: were each to find damage by itself, those that
        find none would wait for the others forever.
        """
        chosen = -1
        for step in steps if jax.process_index() == 0 else ():
            try:
                check_whole(self._manager.directory / str(step))
            except DamagedCheckpointError as error:
                self._report(step, error)
                continue
            chosen = step
            break
        chosen = processes.agree(chosen)

        for step in steps:
            if step <= chosen:
                # All processes compare, so all end with the same sentence.
                check_shapes(self._manager.directory / str(chosen), abstract)
                return self._restore(chosen, abstract)
            self._set_aside(step)

        self._check_nothing_lost()
        return None

    def _report(self, step: int, error: Exception) -> None:
        log.error(
            "CHECKPOINT %s IS UNREADABLE (%s: %s): using the one before it.",
            self._manager.directory / str(step),
            type(error).__name__,
            _reason(error),
        )

    def _raise_unless_damaged(self, step: int, error: Exception, abstract: Any) -> None:
        """Returns if a checkpoint that could not be restored is damaged.

        Else raises why it could not.
        """
        folder = self._manager.directory / str(step)
        try:
            check_whole(folder)
        except DamagedCheckpointError as damage:
            self._report(step, damage)
            return

        check_shapes(folder, abstract)
        raise error

    def _check_nothing_lost(self) -> None:
        """Raises ValueError where starting from scratch would hide that checkpoints were set aside."""
        names = self._set_aside_so_far()
        if not names:
            return
        folder = self._workdir / UNREADABLE

        if self._start_anew:
            log.warning("Starting anew; the damaged checkpoints stay in %s.", folder)
            return
        raise UserError(
            f"none of the checkpoints of this run could be read: {', '.join(names)} were set aside in "
            f"{folder} as damaged. Move one back into {self._workdir / FOLDER} if it can be repaired, use "
            "another workdir, or start anew here with --start_anew."
        )

    def _set_aside_so_far(self) -> list[str]:
        """Lists the names of the checkpoints that were set aside."""
        folder = self._workdir / UNREADABLE
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def _restore(self, step: int, abstract: Any) -> Any:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), digests=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except ValueError as error:
            # The reader below raises this for a network or permissions too.
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
            taken = set(self._set_aside_so_far())
            names = itertools.chain(
                [str(step)], (f"{step}-{n}" for n in itertools.count(2))
            )
            name = next(name for name in names if name not in taken)
            (self._workdir / FOLDER / str(step)).rename(folder / name)

        processes.wait_for_all("checkpoint_set_aside")
        self._losses.pop(step, None)
        self._manager.reload()


def _reason(error: Exception) -> str:
    """First line of an error's text."""
    return str(error).strip().split("\n")[0][:300]


def _best(losses: Mapping[int, float], steps: Sequence[int]) -> int | None:
    known = [step for step in steps if step in losses]
    return min(known, key=lambda step: (losses[step], step)) if known else None


def _read_losses(workdir: epath.Path) -> dict[int, float]:
    path = workdir / LOSSES
    if not path.exists():
        return {}
    try:
        return {
            int(step): float(loss)
            for step, loss in json.loads(path.read_text()).items()
        }
    except (ValueError, AttributeError, TypeError):
        log.warning("%s is broken: which checkpoint was best is forgotten.", path)
        return {}
