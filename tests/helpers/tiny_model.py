"""The smallest model of both stages, with random weights and without compiling."""

import jax
import numpy as np

from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.storage import write_model

MODEL = {
    "width": 0.0625,
    "image_size": 64,
    "code_dim": 16,
    "dtype": "float32",
    "trunk": "learned",
}


def trees(model=MODEL):
    """Parameters by network name."""
    forward = make_face_networks(model, vgg_for_loss=False)

    def both(key):
        return init_motion(forward, key) | init_identity(forward, key)

    rng = np.random.default_rng(0)

    def draw(path, shape):
        # Drawing them as the networks do compiles for minutes on a busy machine.
        scale = (
            0.0 if path[-1].key == "bias" else np.sqrt(1.5 / np.prod(shape.shape[:-1]))
        )
        return rng.normal(0, scale, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(both, jax.random.key(0))
    )


def write(path):
    """Writes it as a model folder and returns the folder's name."""
    write_model(path, trees(), model=MODEL, licence="CC0", source="random numbers")
    return str(path)
