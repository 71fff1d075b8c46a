"""Smoothing over neighbours."""

from typing import Any

import jax
import jax.numpy as jnp


def smooth_neighbours(x: jax.Array, weight: float, **padding: Any) -> jax.Array:
    """Averages each place with its neighbours, along rows and along columns.

    Args:
      x: floating point [..., H, W, C].
      weight: of each of the two neighbours along an axis, 0 to 0.5; the place itself
        has the rest.
      **padding: how `jnp.pad` goes on beyond the edges, such as mode="edge".

    Returns:
      The same shape.
    """
    for axis in (x.ndim - 3, x.ndim - 2):
        edges = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, edges, **padding)
        size = x.shape[axis]
        parts = [jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3)]
        x = weight * parts[0] + (1 - 2 * weight) * parts[1] + weight * parts[2]
    return x
