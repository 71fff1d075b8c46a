"""Averages over areas. Layout [..., H, W, C], any value range."""

import jax
import jax.numpy as jnp
import numpy as np


def _averages(length: int, parts: int) -> np.ndarray:
    """Computes weights [parts, length]: part i is the mean from floor(i L / n) to ceil((i + 1) L / n)."""
    low = np.arange(parts) * length // parts
    high = -(-(np.arange(parts) + 1) * length // parts)
    place = np.arange(length)
    inside = (place >= low[:, None]) & (place < high[:, None])
    return (inside / (high - low)[:, None]).astype(np.float32)


def adaptive_average_pool(x: jax.Array, *, side: int) -> jax.Array:
    """Averages a map over side x side areas that cover it evenly, overlapping by a pixel where they must.

    Args:
      x: [..., H, W, C].
      side: height and width of the result, at least 1; a map that is smaller already keeps its size.

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
    rows, columns = (_averages(length, min(side, length)).astype(x.dtype) for length in (height, width))
    return jnp.einsum("ih,jw,...hwc->...ijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)
