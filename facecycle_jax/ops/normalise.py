"""Pixel values: uint8 pictures to the ImageNet-normalised space of all networks and losses, and back.

Layout [..., H, W, 3], RGB. uint8 is 0..255; the normalised space has about zero mean and unit variance
over natural pictures and spans about -2.1 to 2.6.
"""

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: jax.Array) -> jax.Array:
    """Maps pictures into the space of the networks: (x / 255 - mean) / std.

    Args:
      images: [..., H, W, 3] uint8 0..255, or floating point in 0..1.

    Returns:
      float32 [..., H, W, 3].

    Raises:
      ValueError: if the last axis is not 3.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"normalise takes RGB pictures [..., H, W, 3], got shape {images.shape}.")
    scale = 255.0 if jnp.issubdtype(images.dtype, jnp.integer) else 1.0
    images = jnp.asarray(images, jnp.float32) / scale
    return (images - jnp.asarray(MEAN, jnp.float32)) / jnp.asarray(STD, jnp.float32)


def denormalise(images: jax.Array) -> jax.Array:
    """Maps normalised pictures back to uint8, clipping what lies outside 0..255.

    Args:
      images: [..., H, W, 3] floating point, normalised.

    Returns:
      uint8 [..., H, W, 3].
    """
    images = images.astype(jnp.float32) * jnp.asarray(STD) + jnp.asarray(MEAN)
    # NaN has no uint8: show it as black instead of whatever the backend's cast gives.
    images = jnp.nan_to_num(jnp.clip(images, 0.0, 1.0), nan=0.0)
    return jnp.round(images * 255.0).astype(jnp.uint8)
