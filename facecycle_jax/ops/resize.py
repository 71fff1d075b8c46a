"""Bilinear resizing with aligned corners, as two matrix products. Layout [..., H, W, C], any value range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def _interpolation_matrix(source: int, target: int) -> np.ndarray:
    """Weights [target, source] of linear interpolation that maps end points onto end points."""
    # A single output sample sits on the first input sample, as PyTorch's align_corners has it.
    positions = np.linspace(0.0, source - 1, target) if target > 1 else np.zeros(1)
    distance = np.abs(positions[:, None] - np.arange(source)[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def resize_bilinear(images: jax.Array, *, height: int, width: int) -> jax.Array:
    """Resizes so that the corner samples of input and output coincide (align_corners=True).

    `jax.image.resize` aligns the outer edges of the corner samples instead, which is another function.

    Args:
      images: [..., H, W, C] floating point.
      height: target height in samples, at least 1.
      width: target width in samples, at least 1.

    Returns:
      [..., height, width, C], dtype of `images`.

    Raises:
      ValueError: if a target size is below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"resize_bilinear needs sizes of at least 1, got {height} x {width}.")
    source_height, source_width = images.shape[-3:-1]
    if source_height != height:
        rows = jnp.asarray(_interpolation_matrix(source_height, height), images.dtype)
        images = jnp.einsum("hi,...iwc->...hwc", rows, images)
    if source_width != width:
        columns = jnp.asarray(_interpolation_matrix(source_width, width), images.dtype)
        images = jnp.einsum("wj,...hjc->...hwc", columns, images)
    return images
