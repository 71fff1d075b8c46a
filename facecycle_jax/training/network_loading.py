"""Networks of other runs: finding their checkpoints, reading them, copying by name."""

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
from facecycle_jax.networks import Tree
from facecycle_jax.storage import read_model
from facecycle_jax.storage.bundled import bundled_models, find_model_folder
from facecycle_jax.training.digests import compare_digests, host_digests

log = logging.getLogger(__name__)

FOLDER = "checkpoints"

# What tensorstore's errors begin with where the content itself is wrong: a file is
# missing, too short or altered. All its other errors tell of the storage, and of
# nothing else.
_DAMAGE = (
    "NOT_FOUND",
    "DATA_LOSS",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
)
_READ_BYTES = 2**20


class DamagedCheckpointError(UserError):
    """A checkpoint is proven damaged.

    Its storage can be read, and a file is missing or altered.
    """


def absolute(path: epath.PathLike) -> epath.Path:
    """Makes a path absolute, which Orbax wants; a URL is so already."""
    path = epath.Path(path).expanduser()
    return path if "://" in str(path) else path.resolve()


def find_checkpoint(path: epath.PathLike) -> epath.Path:
    """Finds the checkpoint a path means.

    Args:
      path: a run's directory (its newest checkpoint is meant), or one checkpoint,
        DIR/checkpoints/STEP.

    Returns:
      Directory of the checkpoint.

    Raises:
      FileNotFoundError: if there is none.
    """
    return _candidates(path)[0]


def _candidates(path: epath.PathLike) -> list[epath.Path]:
    """Lists the checkpoints a path means, the newest first.

    One alone if the path is a checkpoint's.
    """
    path = absolute(path)
    if path.parent.name == FOLDER and path.is_dir():
        return [path]

    folder = path / FOLDER
    named = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    # In a bucket a checkpoint has its name before it is complete.
    complete = [p for p in named if ocp.utils.is_checkpoint_finalized(p)]

    if not complete:
        raise FileNotFoundError(
            f"no checkpoint under {path}: give the workdir of a run that has saved one, or one "
            f"checkpoint, {path}/{FOLDER}/STEP."
        )
    return sorted(complete, key=lambda p: -int(p.name))


def load_newest(path: epath.PathLike) -> tuple[epath.Path, Tree]:
    """Loads the networks of the newest checkpoint that is not damaged.

    Args:
      path: a run's directory, or one checkpoint, DIR/checkpoints/STEP.

    Returns:
      Directory of the checkpoint, and numpy arrays by network name; averaged weights
      where they were kept.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if the one checkpoint named, or every checkpoint of the run, is
        damaged.
      OSError: if the storage cannot be read.
    """
    candidates = _candidates(path)

    for place, checkpoint in enumerate(candidates, start=1):
        try:
            trees = _read(checkpoint, ("params", "frozen", "ema"))
        except DamagedCheckpointError as error:
            if place == len(candidates):
                raise
            log.warning("%s Using the checkpoint before it.", error)
            continue
        return checkpoint, {
            **trees.get("frozen", {}),
            **(trees.get("ema") or trees["params"]),
        }

    raise AssertionError("a path has at least one candidate")


def load_trees(path: epath.PathLike) -> Tree:
    """Loads networks, without the optimiser's state.

    Args:
      path: a run's directory (its newest checkpoint is meant; the one before it if that
        is damaged) or one checkpoint, DIR/checkpoints/STEP; a model folder, or the name
        of a bundled model.

    Returns:
      numpy arrays by network name; averaged weights where they were kept. Of a VGG-19 a
      model folder holds conv1_1 .. conv3_1 alone.

    Raises:
      FileNotFoundError: if there is neither a checkpoint nor a model.
      ValueError: if it is damaged or is not one of this package.
      OSError: if the storage cannot be read.
    """
    folder = find_model_folder(path)
    if folder is not None:
        return read_model(folder).trees

    try:
        _candidates(path)
    except FileNotFoundError as error:
        known = ", ".join(bundled_models())
        raise FileNotFoundError(
            f"{error} A model folder will do too, or one of {known}."
        ) from None
    return load_newest(path)[1]


def check_whole(checkpoint: epath.Path) -> None:
    """Reads a checkpoint, the optimiser's state too, into host memory and compares its checksums.

    Args:
      checkpoint: DIR/checkpoints/STEP.

    Raises:
      DamagedCheckpointError: if anything in it is missing or altered, and only then.
      OSError: if the storage cannot be read.
      MemoryError: if the host has not the memory.
    """
    _read(checkpoint, None)


def check_shapes(checkpoint: epath.Path, abstract: Any) -> None:
    """Compares the arrays of a checkpoint with those of a state, by name and shape.

    Args:
      checkpoint: DIR/checkpoints/STEP.
      abstract: tree of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: naming the first array that differs.
    """
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        saved = _shapes(reader.metadata(checkpoint / "state").tree)
    wanted = _shapes(abstract)

    for name in sorted({*saved, *wanted}):
        there = saved.get(name, "none")
        here = wanted.get(name, "none")
        if there != here:
            raise UserError(
                f"{checkpoint} has another state than this configuration: {name} has shape {there} there and "
                f"{here} here. Continue it with the configuration it was started with, or use another "
                "workdir; the checkpoint stays where it is."
            )


def storage_error(error: Exception) -> OSError | None:
    """Tells an error of the storage from one of the content.

    Args:
      error: what a reader of checkpoints has raised.

    Returns:
      The error as an OSError if it tells of the storage, such as a network or
      permissions; else None.
    """
    if isinstance(error, OSError):
        return error

    text = str(error).strip().split("\n")[0][:300]
    status = text.partition(":")[0]
    named = isinstance(error, ValueError) and status.isupper() and " " not in status
    return OSError(text) if named and status not in _DAMAGE else None


def _read(checkpoint: epath.Path, names: Sequence[str] | None) -> Tree:
    """Reads parts of a state (None: all) as numpy arrays; a process does so by itself.

    The content is called damaged only if every byte of it can be read and two attempts
    have failed.
    """
    try:
        return _read_arrays(checkpoint, names)
    except (ValueError, LookupError, FileNotFoundError):
        # One of these tells of the content or of the storage; which, is found out
        # below.
        _read_bytes(checkpoint)

    try:
        return _read_arrays(checkpoint, names)
    except (ValueError, LookupError, FileNotFoundError) as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}".split("\n")[0]
        failed = None if isinstance(error, FileNotFoundError) else storage_error(error)
        if failed is not None:
            raise OSError(f"cannot read {checkpoint} ({reason})") from error
        raise DamagedCheckpointError(f"{checkpoint} is damaged ({reason}).") from error


def _read_bytes(folder: epath.Path) -> None:
    """Reads every file below a folder.

    Raises OSError if the storage does not let it.
    """
    for path in folder.iterdir():
        if path.is_dir():
            _read_bytes(path)
            continue
        with path.open("rb") as file:
            while file.read(_READ_BYTES):
                pass


def _read_arrays(checkpoint: epath.Path, names: Sequence[str] | None) -> Tree:
    """Reads parts of a state and compares their checksums, raising whatever the reader raises."""
    item = checkpoint / "state"
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        metadata = reader.metadata(item).tree
        wanted = {
            k: v for k, v in metadata.items() if names is None or (k in names and v)
        }
        restore_args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
        )
        trees = reader.restore(
            item,
            args=ocp.args.PyTreeRestore(
                wanted, restore_args=restore_args, partial_restore=True
            ),
        )

    expected: Mapping[str, int] = json.loads(
        (checkpoint / "digests" / "metadata").read_text()
    )
    found = host_digests(trees)
    compare_digests(found, dict(expected))

    missing = sorted(set(expected) - set(found)) if names is None else []
    if missing:
        raise UserError(f"{missing[0]} is missing")
    return trees


def copy_trees(
    own: Tree, source: Tree, *, required: Sequence[str] = (), keep: Sequence[str] = ()
) -> tuple[Tree, list[str]]:
    """Replaces networks by those of the same name from elsewhere.

    Args:
      own: networks by name.
      source: networks by name.
      required: names that `source` must have if `own` has them.
      keep: names that are not replaced.

    Returns:
      `own` with what was found replaced by numpy arrays, and the names replaced.

    Raises:
      ValueError: if a required network is missing or shapes differ, naming both.
    """
    result, copied = dict(own), []
    for name, tree in own.items():
        if name in keep:
            continue
        if name not in source:
            if name in required:
                raise UserError(
                    f"init_from has the networks {sorted(source)} and lacks {name!r}: start from a "
                    "run of configs/motion_cycle.py, or a model, with the same config.model."
                )
            continue
        shapes, found = _shapes(tree), _shapes(source[name])
        for key in sorted({*shapes, *found}):
            if shapes.get(key) != found.get(key):
                raise UserError(
                    f"init_from: {name}/{key} has shape {found.get(key, 'none')} there and "
                    f"{shapes.get(key, 'none')} here: config.model must be the same there and here."
                )
        result[name] = source[name]
        copied.append(name)
    return result, copied


def check_same_vgg(own: Tree, source: Tree) -> None:
    """Compares the VGG-19 of the losses with the part of one that came with a model.

    Args:
      own: the VGG-19 of the configuration, by layer.
      source: the VGG-19 that the model was trained on, by layer.

    Raises:
      ValueError: if layers are lacking and the first ones differ: losses would look
        through a mixture.
    """
    if not set(own) - set(source):
        return
    here, there = (np.asarray(tree["conv1_1"]["kernel"]) for tree in (own, source))
    # Model folders may be of half precision. Shapes are compared, and told, by
    # `copy_trees`.
    if (
        here.shape == there.shape
        and np.abs(here - there).max() > 1e-2 * np.abs(there).max()
    ):
        raise UserError(
            "init_from has the first layers of another VGG-19 than loss.vgg: set --config.loss.vgg to the "
            "file that model was trained with, or --config.loss.perceptual=none."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Lists the shapes of arrays by path, e.g. 'params/generator/kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
