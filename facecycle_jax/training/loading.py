"""Networks of other runs: finding their checkpoints, reading them, copying by name."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from facecycle_jax.convert import read_model
from facecycle_jax.convert.shipped import find_model_folder, shipped_models
from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import Tree
from facecycle_jax.training.digests import check_digests

FOLDER = "checkpoints"


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
    path = absolute(path)
    if path.parent.name == FOLDER and path.is_dir():
        return path
    folder = path / FOLDER
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint under {path}: give the workdir of a run that has saved one, or one "
            f"checkpoint, {path}/{FOLDER}/STEP."
        )
    return folder / str(max(steps))


def load_trees(path: epath.PathLike) -> Tree:
    """Loads networks, without the optimiser's state.

    Args:
      path: a run's directory (its newest checkpoint is meant) or one checkpoint, DIR/checkpoints/STEP; a
        model folder, or the name of a model that comes with the package.

    Returns:
      numpy arrays by network name; averaged weights where they were kept. Of a VGG-19 a model folder holds
      conv1_1 .. conv3_1 alone.

    Raises:
      FileNotFoundError: if there is neither a checkpoint nor a model.
      ValueError: if it cannot be read or is not one of this package.
    """
    folder = find_model_folder(path)
    if folder is not None:
        return read_model(folder).trees
    try:
        checkpoint = find_checkpoint(path)
    except FileNotFoundError as error:
        known = ", ".join(shipped_models())
        raise FileNotFoundError(f"{error} A model folder will do too, or one of {known}.") from None
    trees = _read(checkpoint, ("params", "frozen", "ema"))
    return {**trees.get("frozen", {}), **(trees.get("ema") or trees["params"])}


def check_whole(checkpoint: epath.Path) -> None:
    """Reads a checkpoint, the optimiser's state too, and compares it with its checksums.

    Args:
      checkpoint: DIR/checkpoints/STEP.

    Raises:
      ValueError: if anything in it is missing or damaged.
    """
    _read(checkpoint, None)


def _read(checkpoint: epath.Path, names: Sequence[str] | None) -> Tree:
    """Reads parts of a state (None: all) as numpy arrays; a process does so by itself."""
    item = checkpoint / "state"
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            metadata = reader.metadata(item).tree
            wanted = {k: v for k, v in metadata.items() if names is None or (k in names and v)}
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            trees = reader.restore(
                item,
                args=ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True),
            )
        check_digests(trees, json.loads((checkpoint / "digests" / "metadata").read_text()))
        return trees
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(f"cannot read {checkpoint} ({type(error).__name__}: {reason}).") from error


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
                    f"init_from: {name}{key} has shape {found.get(key, 'none')} there and "
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
      ValueError: if layers are lacking and the first ones differ: losses would look through a mixture.
    """
    if not set(own) - set(source):
        return
    here, there = (np.asarray(tree["conv1_1"]["kernel"]) for tree in (own, source))
    # Model folders may be of half precision. Shapes are compared, and told, by `copy_trees`.
    if here.shape == there.shape and np.abs(here - there).max() > 1e-2 * np.abs(there).max():
        raise UserError(
            "init_from has the first layers of another VGG-19 than loss.vgg: set --config.loss.vgg to the "
            "file that model was trained with, or --config.loss.perceptual=none."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
