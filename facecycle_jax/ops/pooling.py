"""Averages over areas and the largest of 2x2 cells.

Layout [..., H, W, C], any value range.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _averages(length: int, parts: int) -> np.ndarray:
    """Computes weights [parts, length].

    Part i is the mean from floor(i L / n) to ceil((i + 1) L / n).
    """
    low = np.arange(parts) * length // parts
    high = -(-(np.arange(parts) + 1) * length // parts)
    place = np.arange(length)
    inside = (place >= low[:, None]) & (place < high[:, None])
    return (inside / (high - low)[:, None]).astype(np.float32)


def adaptive_average_pool(x: jax.Array, *, side: int) -> jax.Array:
    """Averages a map over side x side areas that cover it evenly, overlapping by a pixel where they must.

    Args:
      x: [..., H, W, C].
      side: height and width of the result, at least 1; a map that is smaller already
        keeps its size.

    Returns:
      [..., min(side, H), min(side, W), C].

    Raises:
      ValueError: if side is below 1.

    References:
      PyTorch's AdaptiveAvgPool2d, whose areas these are.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}.")
    height, width = x.shape[-3:-1]
    rows, columns = (
        _averages(length, min(side, length)).astype(x.dtype)
        for length in (height, width)
    )
    return jnp.einsum(
        "ih,jw,...hwc->...ijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Halves height and width by the largest of each 2x2 cell.

    Its gradient goes to the cell's first largest.

    Args:
      x: [N, H, W, C]; an odd last row or column is left out.

    Returns:
      [N, H // 2, W // 2, C].
    """
    return lax.platform_dependent(x, cpu=_largest_by_pairs, default=_largest_of_windows)


def _largest_of_windows(x: jax.Array) -> jax.Array:
    """The library form, which accelerators have kernels for."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _largest_by_pairs(x: jax.Array) -> jax.Array:
    """Within rows, then of both rows.

    For windows XLA's CPU backend keeps a place beside every value.
    """
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    cells = x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels)
    upper, lower = (
        _larger(cells[:, :, row, :, 0], cells[:, :, row, :, 1]) for row in (0, 1)
    )
    return _larger(upper, lower)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The first one of two that are equal, and what is no number of two of which one is none."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
