"""Pixel values.

Uint8 pictures to the ImageNet-normalised space of all networks and losses, and back.

Layout [..., H, W, 3], RGB. uint8 is 0..255; the normalised space has about zero mean
and unit variance over natural pictures and spans about -2.1 to 2.6.
"""

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Luma of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)
# The smallest deviation that is stretched, about 5 of 255: what is flatter is noise.
_FLAT = 0.02


def normalise(images: jax.Array) -> jax.Array:
    """Maps pictures into the space of the networks: (x / 255 - mean) / std.

    Args:
      images: [..., H, W, 3] uint8 0..255, or floating point in 0..1.

    Returns:
      float32 [..., H, W, 3].

    Raises:
      ValueError: if the last axis is not 3.
    """
    return (_unit(images, "normalise") - jnp.asarray(MEAN, jnp.float32)) / jnp.asarray(
        STD, jnp.float32
    )


def even_light(images: jax.Array, *, strength: float) -> jax.Array:
    """Moves brightness and contrast of each picture towards those that `normalise` expects.

    With m and s the mean and deviation of a picture's luma, and M and S the means of
    `MEAN` and `STD`, all three channels become (x - m) (S / s)^strength + m^(1 -
    strength) M^strength: colours stay what they are beside each other.

    Args:
      images: [..., H, W, 3] uint8 0..255, or floating point in 0..1.
      strength: 0 leaves pictures as they are, 1 gives all the same mean and deviation,
        0.5 goes half-way.

    Returns:
      [..., H, W, 3], clipped: uint8 0..255 for uint8, else float32 in 0..1.

    Raises:
      ValueError: if the last axis is not 3, or `strength` is not in 0..1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be 0 to 1, got {strength}.")
    unit = _unit(images, "even_light")
    luma = jnp.sum(unit * jnp.asarray(_LUMA, jnp.float32), axis=-1, keepdims=True)
    mean = jnp.mean(luma, axis=(-3, -2), keepdims=True)
    deviation = jnp.maximum(jnp.std(luma, axis=(-3, -2), keepdims=True), _FLAT)
    gain = (sum(STD) / 3 / deviation) ** strength
    moved = mean ** (1 - strength) * (sum(MEAN) / 3) ** strength
    even = jnp.clip((unit - mean) * gain + moved, 0.0, 1.0)
    return _to_bytes(even) if _is_whole(images) else even


def denormalise(images: jax.Array) -> jax.Array:
    """Maps normalised pictures back to uint8, clipping what lies outside 0..255.

    Args:
      images: [..., H, W, 3] floating point, normalised.

    Returns:
      uint8 [..., H, W, 3].
    """
    images = images.astype(jnp.float32) * jnp.asarray(STD) + jnp.asarray(MEAN)
    # NaN has no uint8: show it as black instead of whatever the backend's cast gives.
    return _to_bytes(jnp.nan_to_num(jnp.clip(images, 0.0, 1.0), nan=0.0))


def _unit(images: jax.Array, function: str) -> jax.Array:
    """Converts RGB pictures of either kind to float32 in 0..1, for the function of that name."""
    if images.shape[-1] != 3:
        raise ValueError(
            f"{function} takes RGB pictures [..., H, W, 3], got shape {images.shape}."
        )
    return jnp.asarray(images, jnp.float32) / (255.0 if _is_whole(images) else 1.0)


def _is_whole(images: jax.Array) -> bool:
    """Says whether pixels are 0..255, not 0..1."""
    return bool(jnp.issubdtype(images.dtype, jnp.integer))


def _to_bytes(unit: jax.Array) -> jax.Array:
    """Rounds pixels in 0..1 to uint8."""
    return jnp.round(unit * 255.0).astype(jnp.uint8)
