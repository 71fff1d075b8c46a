"""Pooling: averages over areas, and the maximum of 2x2 cells.

Layout [..., H, W, C], any value range.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from facecycle_jax.ops.portable import by_platform


def _averages(length: int, parts: int) -> np.ndarray:
    """Computes weights [parts, length] of means over parts of an axis.

    Part i is the mean from floor(i L / n) to ceil((i + 1) L / n).
    """
    low = np.arange(parts) * length // parts
    high = -(-(np.arange(parts) + 1) * length // parts)

    position = np.arange(length)
    inside = (position >= low[:, None]) & (position < high[:, None])
    return (inside / (high - low)[:, None]).astype(np.float32)


def adaptive_average_pool(x: jax.Array, *, side: int) -> jax.Array:
    """Averages a map over side x side areas that cover it evenly.

    Where the sizes do not divide, neighbouring areas overlap by a pixel.

    Args:
      x: [..., H, W, C].
      side: height and width of the result, at least 1; a map that is smaller already
        keeps its size.

    Returns:
      [..., min(side, H), min(side, W), C].

    Raises:
      ValueError: if side is below 1.

    References:
      PyTorch's AdaptiveAvgPool2d, which uses the same areas.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}.")

    height, width = x.shape[-3:-1]
    rows = _averages(height, min(side, height)).astype(x.dtype)
    columns = _averages(width, min(side, width)).astype(x.dtype)
    return jnp.einsum(
        "ih,jw,...hwc->...ijc", rows, columns, x, precision=lax.Precision.HIGHEST
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Halves height and width by the maximum of each 2x2 cell.

    The gradient goes to the first maximum of a cell.

    Args:
      x: [N, H, W, C]; an odd last row or column is left out.

    Returns:
      [N, H // 2, W // 2, C].
    """
    # onnxruntime pools the last axes only, so windows are not a portable form.
    return by_platform(
        x,
        cpu=_largest_by_pairs,
        portable=_largest_of_cells,
        default=_largest_of_windows,
    )


def _largest_of_windows(x: jax.Array) -> jax.Array:
    """Pools by the library's function, which accelerators have kernels for."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _largest_of_cells(x: jax.Array) -> jax.Array:
    """Takes the maximum over two axes of the cells."""
    return jnp.max(_cells(x), axis=(2, 4))


def _cells(x: jax.Array) -> jax.Array:
    """Splits a map into cells [N, H / 2, row of the cell, W / 2, column, C]."""
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    even = x[:, : 2 * height, : 2 * width]
    return even.reshape(n, height, 2, width, 2, channels)


def _largest_by_pairs(x: jax.Array) -> jax.Array:
    """Takes the maximum within rows, then across rows.

    XLA's CPU backend carries an index with every value of a windowed maximum, which is
    slow.
    """
    cells = _cells(x)
    upper = _larger(cells[:, :, 0, :, 0], cells[:, :, 0, :, 1])
    lower = _larger(cells[:, :, 1, :, 0], cells[:, :, 1, :, 1])
    return _larger(upper, lower)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Takes the elementwise maximum. Ties take `a`; NaN propagates."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
