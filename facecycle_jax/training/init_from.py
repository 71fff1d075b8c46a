"""Starting from the networks of other runs and models: `config.init_from`."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree
from facecycle_jax.storage import read_model
from facecycle_jax.storage.bundled import bundled_models, find_model_folder
from facecycle_jax.training.checkpoint_reading import (
    first_difference,
    list_checkpoints,
    load_newest,
)


def init_paths(init_from: str | Sequence[str]) -> list[str]:
    """Lists the runs and models that an `init_from` names.

    Stages give a list, since a workdir may have a comma in its name.
    """
    if not isinstance(init_from, str):
        return list(init_from)
    return [path.strip() for path in init_from.split(",")] if init_from else []


def find_init_folder(path: epath.PathLike) -> epath.Path | None:
    """Finds what `load_trees` reads at a path.

    Args:
      path: see `load_trees`.

    Returns:
      The model folder; None for a run or a checkpoint.

    Raises:
      FileNotFoundError: If there is neither a checkpoint nor a model.
    """
    folder = find_model_folder(path)
    if folder is not None:
        return folder

    try:
        list_checkpoints(path)
    except FileNotFoundError as error:
        known = ", ".join(bundled_models())
        raise FileNotFoundError(
            f"{error} A model folder will do too, or one of {known}."
        ) from None
    return None


def load_trees(path: epath.PathLike) -> Tree:
    """Loads networks, without the optimiser's state.

    Args:
      path: a run's directory, one checkpoint (DIR/checkpoints/STEP), a model folder, or
        the name of a bundled model. A run's directory stands for its newest checkpoint,
        or the one before it if that is damaged.

    Returns:
      numpy arrays by network name. The weights are averaged ones if the run kept them.
      Of a VGG-19 a model folder holds conv1_1 .. conv3_1 alone.

    Raises:
      FileNotFoundError: If there is neither a checkpoint nor a model.
      UserError: If it is damaged or was not written by this package.
      OSError: If the storage cannot be read.
    """
    folder = find_init_folder(path)
    return load_newest(path)[1] if folder is None else read_model(folder).trees


def copy_trees(
    own: Tree, source: Tree, *, required: Sequence[str] = (), keep: Sequence[str] = ()
) -> tuple[Tree, list[str]]:
    """Replaces networks by those of the same name in another tree.

    Args:
      own: networks by name.
      source: networks by name.
      required: names that `source` must have if `own` has them.
      keep: names that are not replaced.

    Returns:
      `own` with the networks of `source` in place of its own, and their names.

    Raises:
      UserError: If a required network is missing or shapes differ, naming both.
    """
    result = dict(own)
    copied = []
    for name, tree in own.items():
        if name in keep:
            continue

        if name not in source:
            if name in required:
                raise UserError(
                    f"init_from has the networks {sorted(source)} and lacks {name!r}: "
                    "start from a run of configs/motion_cycle.py, or a model, with "
                    "the same config.model."
                )
            continue

        difference = first_difference(source[name], tree)
        if difference:
            key, there, here = difference
            raise UserError(
                f"init_from: {name}/{key} has shape {there} there and {here} "
                "here: config.model must be the same there and here."
            )

        result[name] = source[name]
        copied.append(name)

    return result, copied


def check_same_vgg(own: Tree, source: Tree) -> None:
    """Compares the VGG-19 of the losses with the layers that a model holds.

    Args:
      own: the VGG-19 of the configuration, by layer.
      source: the VGG-19 that the model was trained on, by layer.

    Raises:
      UserError: If `source` lacks layers and the first layers differ, because losses
        would then use a mixture of two networks.
    """
    if not set(own) - set(source):
        return

    here = np.asarray(own["conv1_1"]["kernel"])
    there = np.asarray(source["conv1_1"]["kernel"])
    # `copy_trees` reports shapes that differ.
    if here.shape != there.shape:
        return

    # Not exactly equal, because model folders may be of half precision.
    if np.abs(here - there).max() > 1e-2 * np.abs(there).max():
        raise UserError(
            "init_from has the first layers of another VGG-19 than loss.vgg: set "
            "--config.loss.vgg to the file that model was trained with, or "
            "--config.loss.perceptual=none."
        )
