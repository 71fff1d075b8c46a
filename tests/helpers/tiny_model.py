"""The smallest model of both stages, with random weights and without compiling."""

import jax
from drawn import drawn, unit_gain

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
    networks = make_face_networks(model, vgg_for_loss=False)

    def both(key):
        return init_motion(networks, key) | init_identity(networks, key)

    return jax.device_get(drawn(both, deviation=unit_gain))


def write(path, networks=None):
    """Writes it, or other networks, as a model folder and returns the folder's name."""
    networks = trees() if networks is None else networks
    write_model(path, networks, model=MODEL, licence="CC0", source="random numbers")
    return str(path)
