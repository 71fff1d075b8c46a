"""Checkpoints: saved in the background, the last few and the best kept, restored with care.

A run's directory holds checkpoints/<step>/ (Orbax) and losses.json (held-out loss by step).
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.training import processes
from facecycle_jax.training.digests import check_digests, digests
from facecycle_jax.training.loading import FOLDER, absolute, check_whole
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
      keep_last: number of newest checkpoints to keep, beside the best.
    """

    def __init__(self, workdir: epath.PathLike, *, keep_last: int = 3) -> None:
        if keep_last < 1:
            raise UserError(f"keep_last must be at least 1, got {keep_last}.")
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
        if loss is not None and loss == loss:
            self._losses[step] = float(loss)
            if jax.process_index() == 0:
                # Only of steps that still exist, so the file does not grow.
                kept = {s: v for s, v in self._losses.items() if s in {*self._manager.all_steps(), step}}
                write_whole(self._workdir / LOSSES, json.dumps(kept).encode())
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), digests=ocp.args.JsonSave(digests(state))
        )
        # Orbax would wait too; a failure is told with the step it belongs to.
        self.wait()
        with self._telling(step):
            self._manager.save(step, args=args, force=True)
        self._saving = step

    def restore(self, abstract: Any) -> Any | None:
        """Restores the newest checkpoint that can be read.

        One that cannot is reported loudly, moved to checkpoints_unreadable/, and the one before it
        is used.

        Args:
          abstract: tree of `jax.ShapeDtypeStruct` with shardings, the structure of the state.

        Returns:
          The state, or None where the run has no checkpoint.

        Raises:
          ValueError: if there are checkpoints and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if jax.process_count() > 1:
            return self._restore_together(steps, abstract)
        for step in steps:
            try:
                return self._restore(step, abstract)
            except Exception as error:
                # Any damage to a file ends here, whatever the reader below raises for it.
                self._report(step, error)
            self._set_aside(step)
        self._check_any(steps)
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
        """Restores the checkpoint that process 0 has found whole; all processes use the same.

        One process alone reads before: were each to find damage by itself, those that find none would
        wait for the others forever.
        """
        chosen = -1
        for step in steps if jax.process_index() == 0 else ():
            try:
                check_whole(self._manager.directory / str(step))
            except ValueError as error:
                self._report(step, error)
                continue
            chosen = step
            break
        chosen = processes.agree(chosen)
        for step in steps:
            if step <= chosen:
                return self._restore(chosen, abstract)
            self._set_aside(step)
        self._check_any(steps)
        return None

    def _report(self, step: int, error: Exception) -> None:
        log.error(
            "CHECKPOINT %s IS UNREADABLE (%s: %s): using the one before it.",
            self._manager.directory / str(step), type(error).__name__, _reason(error),
        )  # fmt: skip

    def _check_any(self, steps: Sequence[int]) -> None:
        """Raises ValueError if there were checkpoints, all of them unreadable."""
        if steps:
            raise UserError(
                f"none of the checkpoints {sorted(steps)} could be read; they are in "
                f"{self._workdir / UNREADABLE} now. Start anew elsewhere, or move one back."
            )

    def _restore(self, step: int, abstract: Any) -> Any:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digests=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        check_digests(restored["state"], restored["digests"])
        return restored["state"]

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            folder = self._workdir / UNREADABLE
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / str(step)
            if target.exists():
                target.rmtree()
            (self._workdir / FOLDER / str(step)).rename(target)
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
        return {int(step): float(loss) for step, loss in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError):
        log.warning("%s is broken: which checkpoint was best is forgotten.", path)
        return {}
