"""Networks of a multiple of the width that compute the same as narrower ones."""

from collections.abc import Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from facecycle_jax.errors import UserError
from facecycle_jax.networks.face_networks import Tree

# The two halves of a weight differ by this fraction of it, or the copies of a channel
# would stay equal for ever.
_SPREAD = 0.3


def widen(narrow: Tree, shapes: Tree, *, seed: int = 0) -> Tree:
    """Widens networks without changing what they compute.

    Every channel is copied, and the weights that read it are shared out among its
    copies in random parts, so that the copies learn different things.

    Args:
      narrow: networks by name.
      shapes: the wider networks by name, arrays or `jax.ShapeDtypeStruct`.
      seed: of the random parts.

    Returns:
      The networks of `narrow` as numpy arrays, in the shapes of `shapes`. A network
      that `shapes` lacks or that has other layers there is returned as it is.

    Raises:
      UserError: If a size is not a multiple of the narrow one, naming the array.

    References:
      Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 3.1.
    """
    generator = np.random.default_rng(seed)

    wide = dict(narrow)
    for name, tree in narrow.items():
        # What a run keeps beside networks may be a single array.
        if not isinstance(tree, dict):
            continue

        layers = flatten_dict(tree, sep="/")
        wanted = flatten_dict(shapes.get(name, {}), sep="/")
        if layers.keys() != wanted.keys():
            continue

        widened = {
            layer: _widen_array(
                np.asarray(value), wanted[layer].shape, f"{name}/{layer}", generator
            )
            for layer, value in layers.items()
        }
        wide[name] = unflatten_dict(widened, sep="/")
    return wide


def _widen_array(
    value: np.ndarray,
    shape: Sequence[int],
    name: str,
    generator: np.random.Generator,
) -> np.ndarray:
    """Widens a kernel [..., C, D] or a bias [D] to a shape."""
    if value.shape == tuple(shape):
        return value

    # Only the last two axes, in- and outputs, may grow.
    factors = [1] * value.ndim
    if value.ndim == len(shape):
        factors = [
            large // small for small, large in zip(value.shape, shape, strict=True)
        ]
    grown = tuple(
        small * factor for small, factor in zip(value.shape, factors, strict=True)
    )
    if grown != tuple(shape) or any(factor > 1 for factor in factors[:-2]):
        raise UserError(
            f"init_widen: {name} has shape {value.shape} and cannot be widened to "
            f"{tuple(shape)}; the width must be a multiple of that of init_from."
        )

    # The seed of the flow is shuffled to 4 x 4 pixels: 16 numbers are one channel.
    group = 16 if "/seed/" in name else 1
    outputs = value.shape[-1] // group
    wide = value.reshape(*value.shape[:-1], outputs, group)
    wide = np.repeat(wide, factors[-1], axis=-2).reshape(*value.shape[:-1], shape[-1])
    if value.ndim == 1 or factors[-2] == 1:
        return wide

    # What reads a channel is shared out among its copies; the parts add up to 1.
    copies = factors[-2]
    wide = np.repeat(wide[..., None, :], copies, axis=-2)
    parts = _SPREAD * generator.standard_normal(wide.shape)
    parts = 1.0 / copies + parts - parts.mean(axis=-2, keepdims=True)
    wide = (wide * parts).reshape(*value.shape[:-2], shape[-2], shape[-1])
    return wide.astype(value.dtype)
