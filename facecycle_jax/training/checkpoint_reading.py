"""Finding and reading the checkpoints of runs, and checking that they are whole."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import read_through
from facecycle_jax.networks import Tree
from facecycle_jax.training.digests import compare_digests, host_digests

log = logging.getLogger(__name__)

FOLDER = "checkpoints"

# The first words of tensorstore's errors about the content: a file is missing, too
# short or altered. All its other errors are about the storage.
_DAMAGE = (
    "NOT_FOUND",
    "DATA_LOSS",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
)


class DamagedCheckpointError(UserError):
    """A checkpoint is proven damaged.

    Its storage can be read, but a file in it is missing or altered.
    """


def absolute(path: epath.PathLike) -> epath.Path:
    """Makes a path absolute, as Orbax requires; a URL is absolute already."""
    path = epath.Path(path).expanduser()
    return path if "://" in str(path) else path.resolve()


def find_checkpoint(path: epath.PathLike) -> epath.Path:
    """Finds the checkpoint that a path stands for.

    Args:
      path: a run's directory, which stands for its newest checkpoint, or one
        checkpoint, DIR/checkpoints/STEP.

    Returns:
      Directory of the checkpoint.

    Raises:
      FileNotFoundError: If there is none.
    """
    return list_checkpoints(path)[0]


def list_checkpoints(path: epath.PathLike) -> list[epath.Path]:
    """Lists the checkpoints that a path stands for, the newest first.

    Args:
      path: a run's directory, or one checkpoint, which stands for itself alone.

    Returns:
      At least one directory.

    Raises:
      FileNotFoundError: If there is none.
    """
    path = absolute(path)
    if path.parent.name == FOLDER and path.is_dir():
        return [path]

    folder = path / FOLDER
    steps = []
    if folder.is_dir():
        steps = [step for step in folder.iterdir() if step.name.isdigit()]

    # In a bucket a checkpoint has its name before it is complete.
    complete = [step for step in steps if ocp.utils.is_checkpoint_finalized(step)]
    if not complete:
        raise FileNotFoundError(
            f"no checkpoint under {path}: give the workdir of a run that has saved "
            f"one, or one checkpoint, {path}/{FOLDER}/STEP."
        )
    return sorted(complete, key=lambda step: -int(step.name))


def newest_step(workdir: epath.PathLike) -> int:
    """Finds the step of the newest checkpoint of a run.

    Args:
      workdir: directory of the run; it need not exist.

    Returns:
      The step, or -1 if there is no checkpoint.
    """
    try:
        return int(find_checkpoint(workdir).name)
    except FileNotFoundError:
        return -1


def load_newest(path: epath.PathLike) -> tuple[epath.Path, Tree]:
    """Loads the networks of the newest checkpoint that is not damaged.

    Args:
      path: a run's directory, or one checkpoint, DIR/checkpoints/STEP.

    Returns:
      Directory of the checkpoint, and numpy arrays by network name. The weights are
      averaged ones if the run kept them.

    Raises:
      FileNotFoundError: If there is no checkpoint.
      DamagedCheckpointError: If the one checkpoint named, or every checkpoint of the
        run, is damaged.
      OSError: If the storage cannot be read.
    """
    found = list_checkpoints(path)

    for number, checkpoint in enumerate(found, start=1):
        try:
            trees = _read(checkpoint, ("params", "frozen", "ema"))
        except DamagedCheckpointError as error:
            if number == len(found):
                raise
            log.warning("%s Using the checkpoint before it.", error)
            continue

        trained = trees.get("ema") or trees["params"]
        return checkpoint, {**trees.get("frozen", {}), **trained}

    raise AssertionError("a path has at least one candidate")


def check_whole(checkpoint: epath.Path) -> None:
    """Reads a whole checkpoint into host memory and compares its checksums.

    Args:
      checkpoint: DIR/checkpoints/STEP; the optimiser's state is read too.

    Raises:
      DamagedCheckpointError: If anything in it is missing or altered, and only then.
      OSError: If the storage cannot be read.
      MemoryError: If the host has too little memory.
    """
    _read(checkpoint, None)


def check_shapes(checkpoint: epath.Path, abstract: Any) -> None:
    """Compares the arrays of a checkpoint with those of a state, by name and shape.

    Args:
      checkpoint: DIR/checkpoints/STEP.
      abstract: tree of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: If they differ, naming the first array that does.
    """
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(checkpoint / "state").tree

    difference = first_difference(saved, abstract)
    if difference:
        name, there, here = difference
        raise UserError(
            f"{checkpoint} has another state than this configuration: {name} has "
            f"shape {there} there and {here} here. Continue it with the "
            "configuration it was started with, or use another workdir; the "
            "checkpoint stays where it is."
        )


def first_difference(there: Any, here: Any) -> tuple[str, str, str] | None:
    """Finds the first array that is missing or has another shape in one of two trees.

    Args:
      there: tree of arrays or of what has their shapes.
      here: another one.

    Returns:
      The array's path, such as 'params/generator/kernel', and its shapes there and
      here, 'none' where it is missing. None if there is no difference.
    """
    found = _array_shapes(there)
    wanted = _array_shapes(here)
    for name in sorted({*found, *wanted}):
        shapes = [str(tree.get(name, "none")) for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            return name, shapes[0], shapes[1]
    return None


def storage_error(error: Exception) -> OSError | None:
    """Distinguishes an error of the storage from one of the content.

    Args:
      error: what a reader of checkpoints has raised.

    Returns:
      The error as an OSError if it is about the storage, such as a network or
      permissions; else None.
    """
    if isinstance(error, OSError):
        return error

    # tensorstore raises ValueError("STATUS: sentence").
    text = str(error).strip().split("\n")[0][:300]
    status = text.partition(":")[0]
    has_status = isinstance(error, ValueError) and status.isupper()
    if has_status and " " not in status and status not in _DAMAGE:
        return OSError(text)
    return None


def _read(checkpoint: epath.Path, names: Sequence[str] | None) -> Tree:
    """Reads parts of a state (None: all) as numpy arrays, without other processes.

    The content counts as damaged only if every byte of it can be read and two attempts
    have failed.
    """
    try:
        return _read_arrays(checkpoint, names)
    except (ValueError, LookupError, FileNotFoundError):
        # The error is about the content or about the storage. If the storage cannot be
        # read, this raises OSError.
        _read_bytes(checkpoint)

    try:
        return _read_arrays(checkpoint, names)
    except (ValueError, LookupError, FileNotFoundError) as error:
        text = str(error).strip()[:300]
        reason = f"{type(error).__name__}: {text}".split("\n")[0]

        # A missing file is damage, because the storage has just been read.
        failed = None if isinstance(error, FileNotFoundError) else storage_error(error)
        if failed is not None:
            raise OSError(f"cannot read {checkpoint} ({reason})") from error
        raise DamagedCheckpointError(f"{checkpoint} is damaged ({reason}).") from error


def _read_bytes(folder: epath.Path) -> None:
    """Reads every file below a folder; raises OSError if the storage fails."""
    for path in folder.iterdir():
        if path.is_dir():
            _read_bytes(path)
            continue
        with path.open("rb") as file:
            read_through(file)


def _read_arrays(checkpoint: epath.Path, names: Sequence[str] | None) -> Tree:
    """Reads parts of a state and compares their checksums.

    Raises whatever the reader raises.
    """
    item = checkpoint / "state"
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        wanted = dict(reader.metadata(item).tree)
        if names is not None:
            # Parts that are empty, such as an average that is not kept, are left out.
            wanted = {
                name: part for name, part in wanted.items() if name in names and part
            }

        # As numpy arrays, so that neither devices nor their memory are needed.
        restore_args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
        )
        args = ocp.args.PyTreeRestore(
            wanted, restore_args=restore_args, partial_restore=True
        )
        trees = reader.restore(item, args=args)

    recorded = checkpoint / "digests" / "metadata"
    expected: Mapping[str, int] = json.loads(recorded.read_text())
    found = host_digests(trees)
    compare_digests(found, dict(expected))

    # A whole state has every array that was saved.
    if names is None:
        missing = sorted(set(expected) - set(found))
        if missing:
            raise UserError(f"{missing[0]} is missing")

    return trees


def _array_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Lists the shapes of arrays by path, e.g. 'params/generator/kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
