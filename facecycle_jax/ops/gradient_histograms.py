"""Histograms of the directions of brightness gradients (HoG), as array functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from facecycle_jax.ops.normalisation import LUMA, to_unit

# Directions over the whole circle, and parts of a cell along each of its sides.
_DIRECTIONS = 16
_PARTS = 2
# Numbers of a cell.
HISTOGRAM_SIZE = _DIRECTIONS * _PARTS**2
# Mean gradient of a cell, pixels in 0..1, below which it counts as flat.
_FLAT = 0.006
# Largest share of one number in the length of a cell's histogram.
_LARGEST = 0.3


def gradient_histograms(images: jax.Array, *, side: int) -> jax.Array:
    """Computes histograms of gradients over side x side cells.

    Each cell has 2 x 2 parts of 16 directions. Its 64 numbers are divided by their
    length, cut at 0.3, and their square roots taken. They are targets to learn, so no
    gradient passes: a flat place has no direction.

    Args:
      images: [N, H, W, 3], normalised.
      side: cells along each side.

    Returns:
      float32 [N, side, side, 64], in 0..0.55.

    References:
      Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR
      2005.
    """
    unit = to_unit(lax.stop_gradient(images))
    luma = jnp.sum(unit * jnp.asarray(LUMA), axis=-1)
    brightness = jnp.sqrt(luma + 1e-4)

    # Central differences, 0 at the edges.
    across = brightness[:, :, 2:] - brightness[:, :, :-2]
    across = jnp.pad(across, ((0, 0), (0, 0), (1, 1)))
    down = brightness[:, 2:] - brightness[:, :-2]
    down = jnp.pad(down, ((0, 0), (1, 1), (0, 0)))
    strength = jnp.sqrt(across**2 + down**2 + 1e-12)

    # Each gradient counts in the two nearest directions, and in the nearest parts.
    direction = jnp.arctan2(down, across) / (2 * jnp.pi) * _DIRECTIONS
    apart = jnp.abs(direction[..., None] - jnp.arange(_DIRECTIONS)) % _DIRECTIONS
    apart = jnp.minimum(apart, _DIRECTIONS - apart)
    votes = strength[..., None] * jnp.maximum(0.0, 1 - apart)
    parts = side * _PARTS
    rows, columns = (_tents(length, parts) for length in luma.shape[1:])
    sums = jnp.einsum(
        "ih,nhwd,jw->nijd", rows, votes, columns, precision=lax.Precision.HIGHEST
    )

    # Parts of a cell behind each other.
    cells = sums.reshape(-1, side, _PARTS, side, _PARTS, _DIRECTIONS)
    cells = jnp.swapaxes(cells, 2, 3).reshape(-1, side, side, HISTOGRAM_SIZE)
    length = jnp.sqrt(jnp.sum(cells**2, axis=-1, keepdims=True) + _FLAT**2)
    return jnp.sqrt(jnp.minimum(cells / length, _LARGEST))


def _tents(length: int, parts: int) -> np.ndarray:
    """Computes weights [parts, length] of means that fall off linearly."""
    position = (np.arange(length) + 0.5) / length * parts - 0.5
    weights = np.maximum(0, 1 - np.abs(position - np.arange(parts)[:, None]))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
