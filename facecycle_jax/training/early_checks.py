"""Checks of a run's stages before the first one starts.

A later stage starts after hours. What is wrong with it, and can be found without its
data, is reported at once.
"""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from facecycle_jax import methods
from facecycle_jax.devices import make_mesh
from facecycle_jax.errors import MissingExtraError
from facecycle_jax.training.checkpoint_reading import FOLDER
from facecycle_jax.training.init_from import find_init_folder, init_paths
from facecycle_jax.training.metrics import hide_accelerators_from_tensorflow
from facecycle_jax.training.sharding import check_batch


def check_stage(
    config: Mapping[str, Any], workdir: epath.Path, *, own_method: bool = False
) -> None:
    """Checks a stage's batch, backend, method, the weights it reads, and `init_from`.

    In a job of several processes it may be called only once they have met, because it
    uses the devices.

    Args:
      config: configuration of the stage.
      workdir: directory of the stage. If it has checkpoints, the stage continues from
        them and needs no `init_from`.
      own_method: whether the method is the caller's own, which is not checked.

    Raises:
      MissingExtraError: If TensorFlow is to read the data and is missing.
      UserError: If the batch cannot be split over the devices, or if the method or a
        choice of it is wrong.
      FileNotFoundError: If a file of weights, or what `init_from` names, is missing.
    """
    check_batch(
        config["batch_size"],
        accumulate=config["optimiser"]["accumulate"],
        mesh=make_mesh(),
    )
    _check_backend(config)
    if not own_method:
        _check_method(config)

    if not (workdir / FOLDER).is_dir():
        for path in init_paths(config["init_from"]):
            find_init_folder(path)


def _check_backend(config: Mapping[str, Any]) -> None:
    """Raises MissingExtraError if TensorFlow is to read the data and is missing."""
    if config["data"]["backend"] != "tf":
        return

    reason = hide_accelerators_from_tensorflow()
    if reason:
        raise MissingExtraError(
            f"data.backend='tf' needs tensorflow: {reason}, or set "
            "data.backend='threads', which needs nothing."
        )


def _check_method(config: Mapping[str, Any]) -> None:
    """Builds the method, to raise what is wrong with it.

    Weights are read if they are in a file, and not drawn if they are random.
    """
    files = [config["loss"].get(name, "random") for name in ("vgg", "resnet")]
    reads_files = any(path != "random" for path in files)
    method = methods.make(config, weights=reads_files)

    # The names of the networks, which `freeze` chooses from, come with their shapes.
    if config.get("freeze", ()):
        jax.eval_shape(method.init, jax.random.key(0))
