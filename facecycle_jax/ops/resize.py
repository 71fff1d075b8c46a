"""Bilinear resizing with aligned corners, doubling with or without, and windows.

Layout [..., H, W, C], any value range.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _precision(x: jax.Array) -> lax.Precision | None:
    """Returns the precision of products with x.

    TPUs multiply float32 in bfloat16 by default, which would round flows and pixels.
    """
    return None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST


@functools.cache
def _interpolation_matrix(source: int, target: int) -> np.ndarray:
    """Computes weights [target, source] of linear interpolation between end points."""
    # A single output sample sits on the first input sample, as PyTorch's align_corners
    # has it.
    positions = np.linspace(0.0, source - 1, target) if target > 1 else np.zeros(1)
    distance = np.abs(positions[:, None] - np.arange(source)[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def resize_bilinear(images: jax.Array, *, height: int, width: int) -> jax.Array:
    """Resizes so that the corner samples of input and output coincide.

    This is PyTorch's align_corners=True. `jax.image.resize` aligns the outer edges of
    the corner samples instead, which gives other values.

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
        raise ValueError(
            f"resize_bilinear needs sizes of at least 1, got {height} x {width}."
        )
    source_height, source_width = images.shape[-3:-1]

    # A letter for each leading axis: onnxruntime takes an ellipsis for the axes of the
    # first operand, which has none.
    lead = "klmnopqrst"[: images.ndim - 3]
    if source_height != height:
        rows = jnp.asarray(_interpolation_matrix(source_height, height), images.dtype)
        images = jnp.einsum(
            f"hi,{lead}iwc->{lead}hwc", rows, images, precision=_precision(images)
        )

    if source_width != width:
        columns = jnp.asarray(_interpolation_matrix(source_width, width), images.dtype)
        images = jnp.einsum(
            f"wj,{lead}hjc->{lead}hwc", columns, images, precision=_precision(images)
        )
    return images


def double_bilinear(images: jax.Array, *, align_corners: bool = False) -> jax.Array:
    """Doubles height and width bilinearly.

    Args:
      images: [..., H, W, C] floating point.
      align_corners: whether corner samples coincide (see `resize_bilinear`) or outer
        edges do; samples beyond an edge are those on it.

    Returns:
      [..., 2 H, 2 W, C], dtype of `images`.
    """
    if align_corners:
        height, width = images.shape[-3:-1]
        return resize_bilinear(images, height=2 * height, width=2 * width)

    tall = _double_axis(images, axis=images.ndim - 3)
    return _double_axis(tall, axis=images.ndim - 2)


def _double_axis(x: jax.Array, *, axis: int) -> jax.Array:
    """Doubles one axis.

    New samples lie a quarter of a step on either side of the old ones.
    """
    size = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)

    # The neighbours of every sample; the ends are their own.
    all_but_last = jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
    before = jnp.concatenate([first, all_but_last], axis=axis)
    all_but_first = jax.lax.slice_in_dim(x, 1, size, axis=axis)
    after = jnp.concatenate([all_but_first, last], axis=axis)

    # Even samples lie towards the neighbour before, odd ones towards that after.
    even = 0.75 * x + 0.25 * before
    odd = 0.75 * x + 0.25 * after
    doubled = jnp.stack([even, odd], axis=axis + 1)
    return doubled.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def read_window(
    image: jax.Array, low: jax.Array, extent: jax.Array, size: int
) -> jax.Array:
    """Reads a window of an image at another size, bilinearly.

    Each result pixel is interpolated between the nearest four of the source. Nothing is
    smoothed before, so a window of more pixels than the result has leaves some of them
    out: fine patterns alias.

    Args:
      image: [H, W, C].
      low: [2], (y, x) where the window begins, as fractions of the image.
      extent: [2], its height and width as fractions of the image.
      size: side of the result in pixels.

    Returns:
      [size, size, C].
    """
    for axis in (0, 1):
        source = image.shape[axis]

        # Where the centre of each result pixel lies, in pixels of the source.
        centres = (jnp.arange(size) + 0.5) / size
        position = (low[axis] + extent[axis] * centres) * source - 0.5
        position = jnp.clip(position, 0.0, source - 1.0)

        # Interpolation as a product with weights [size, source]: no gathers.
        weights = jnp.maximum(
            0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(source))
        )
        read = jnp.tensordot(
            weights, image, axes=(1, axis), precision=_precision(image)
        )
        image = jnp.moveaxis(read, 0, axis)
    return image
