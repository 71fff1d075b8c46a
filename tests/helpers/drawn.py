"""Parameters drawn by numpy: compiling what draws them takes seconds a network."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.methods import Method
from facecycle_jax.methods.base import SCHEDULE
from facecycle_jax.networks.face_networks import FaceNetworks, init_motion

# Standard deviation of an initial kernel, by its path and shape.
Deviation = Callable[[tuple[str, ...], tuple[int, ...]], float]


def unit_gain(path: tuple[str, ...], shape: tuple[int, ...]) -> float:
    """Of kernels that keep the size of what passes them, about."""
    del path
    return float(np.sqrt(1.5 / np.prod(shape[:-1])))


def initial(path: tuple[str, ...], shape: tuple[int, ...]) -> float:
    """As the networks draw them: small codes and small flows, else of unit gain."""
    if path[-2] in ("hidden", "code"):
        return 0.01
    return 0.05 if "flow_decoder" in path else unit_gain(path, shape)


def drawn(
    init: Callable[[jax.Array], Any], *, seed: int = 0, deviation: Deviation = initial
) -> Any:
    """Fills the trees of `init(key)` with numbers; compiles nothing.

    Kernels are normal, biases and means 0, scales and variances 1.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = tuple(entry.key for entry in path if hasattr(entry, "key"))
        # Random numbers are taken for every array, so that each has its own.
        normal = rng.normal(0, 1, leaf.shape)
        values = {
            "kernel": lambda: normal * deviation(names, leaf.shape),
            "bias": lambda: np.zeros(leaf.shape),
            "image": lambda: normal,
            "mean": lambda: np.zeros(leaf.shape),
            "scale": lambda: np.ones(leaf.shape),
            "var": lambda: np.ones(leaf.shape),
        }
        return jnp.asarray(values[names[-1]](), np.float32)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def drawn_state(
    method: Method, *, seed: int = 0, deviation: Deviation = initial
) -> tuple[Any, Any]:
    """Draws what `method.init` returns: parameters, and the rest of the state."""

    def networks(key: jax.Array) -> Any:
        params, frozen = method.init(key)
        return params, {name: frozen[name] for name in frozen if name != SCHEDULE}

    def schedule(key: jax.Array) -> Any:
        _, frozen = method.init(key)
        return {name: frozen[name] for name in frozen if name == SCHEDULE}

    params, frozen = drawn(networks, seed=seed, deviation=deviation)
    return params, {**frozen, **jax.jit(schedule)(jax.random.key(0))}


def init_with_vgg(networks: FaceNetworks, key: jax.Array) -> dict[str, Any]:
    """Initialises the networks of stage 1 and their VGG-19."""
    size = networks.modules.encoder.image_size
    vgg = networks.vgg.init(key, jnp.zeros((1, size, size, 3)))["params"]
    return {**init_motion(networks, key), "vgg": vgg}


def drawn_with_vgg(networks: FaceNetworks) -> dict[str, Any]:
    """Draws the networks of stage 1 and their VGG-19."""
    return drawn(functools.partial(init_with_vgg, networks))
