"""Pixel values: from uint8 to the ImageNet-normalised space, and back.

Precision and length of vectors are changed here too.

All networks and losses work in the normalised space. Layout [..., H, W, 3], RGB. uint8
is 0..255; the normalised space has about zero mean and unit variance over natural
images and spans about -2.1 to 2.6.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# The smallest standard deviation that is stretched, about 5 of 255. A flatter image
# holds noise only.
_FLAT = 0.02


def normalise(images: jax.Array) -> jax.Array:
    """Maps images into the space of the networks: (x / 255 - mean) / std.

    Args:
      images: [..., H, W, 3] uint8 0..255, or floating point in 0..1.

    Returns:
      float32 [..., H, W, 3].

    Raises:
      ValueError: if the last axis is not 3.
    """
    _check_rgb(images, "normalise")
    unit = pixels_to_unit(images)
    mean = jnp.asarray(MEAN, jnp.float32)
    std = jnp.asarray(STD, jnp.float32)
    return (unit - mean) / std


def normalise_lighting(images: jax.Array, *, strength: float) -> jax.Array:
    """Normalises brightness and contrast of each image.

    Let m and s be the mean and standard deviation of an image's luma, and M and S the
    means of `MEAN` and `STD`. Then all three channels become (x - m) (S / s)^strength +
    m^(1 - strength) M^strength. One gain for all channels keeps the colours.

    Args:
      images: [..., H, W, 3] uint8 0..255, or floating point in 0..1.
      strength: 0 leaves images as they are, 1 gives all the same mean and standard
        deviation, 0.5 goes half-way.

    Returns:
      [..., H, W, 3], clipped: uint8 0..255 for uint8, else float32 in 0..1.

    Raises:
      ValueError: if the last axis is not 3, or `strength` is not in 0..1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be 0 to 1, got {strength}.")
    _check_rgb(images, "normalise_lighting")
    unit = pixels_to_unit(images)

    # Statistics of each image [..., 1, 1, 1].
    luma = jnp.sum(unit * jnp.asarray(LUMA, jnp.float32), axis=-1, keepdims=True)
    mean = jnp.mean(luma, axis=(-3, -2), keepdims=True)
    variance = jnp.var(luma, axis=(-3, -2), keepdims=True)
    std = jnp.maximum(_above_zero(jnp.sqrt, variance, at_zero=0.0), _FLAT)

    # Both statistics move as ratios: half-way is the geometric mean.
    gain = (sum(STD) / 3 / std) ** strength
    rest = 1 - strength
    share = _above_zero(lambda x: x**rest, mean, at_zero=0.0**rest)
    new_mean = share * (sum(MEAN) / 3) ** strength
    normalised = jnp.clip((unit - mean) * gain + new_mean, 0.0, 1.0)
    return _to_bytes(normalised) if _is_whole(images) else normalised


def to_unit(images: jax.Array) -> jax.Array:
    """Maps normalised images back to 0..1, clipping what lies outside.

    Args:
      images: [..., H, W, 3] floating point, normalised.

    Returns:
      float32 [..., H, W, 3]. NaN stays.
    """
    unit = images.astype(jnp.float32) * jnp.asarray(STD) + jnp.asarray(MEAN)
    return jnp.clip(unit, 0.0, 1.0)


def denormalise(images: jax.Array) -> jax.Array:
    """Maps normalised images back to uint8, clipping what lies outside 0..255.

    Args:
      images: [..., H, W, 3] floating point, normalised.

    Returns:
      uint8 [..., H, W, 3].
    """
    # NaN has no uint8: show it as black instead of whatever the backend's cast gives.
    return _to_bytes(jnp.nan_to_num(to_unit(images), nan=0.0))


def pixels_to_unit(images: jax.Array) -> jax.Array:
    """Converts pixels to float32 in 0..1.

    Args:
      images: uint8 0..255, or floating point, which is in 0..1 already.

    Returns:
      float32, the same shape.
    """
    pixels = jnp.asarray(images, jnp.float32)
    return pixels / 255.0 if _is_whole(images) else pixels


def at_least_float32(x: jax.Array) -> jax.Array:
    """Casts lower precision to float32, before distances, lengths and means.

    Args:
      x: floating point, any shape.

    Returns:
      float32, or float64 for float64.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit_length(x: jax.Array) -> jax.Array:
    """Scales vectors to length 1; zero stays zero, with a gradient of zero.

    Args:
      x: [..., D].

    Returns:
      [..., D], float32, or float64 for float64: in bfloat16 a distance of two such
      vectors would have two correct digits.
    """
    x = at_least_float32(x)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The lower bound is the square of PyTorch's. It keeps the gradient of the root
    # finite.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def _above_zero(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, *, at_zero: float
) -> jax.Array:
    """Applies a function to numbers above 0; those at 0 have a gradient of zero.

    The derivative of a root at 0 is infinite, so the gradient of an image of one colour
    would be NaN.
    """
    is_zero = x <= 0
    return jnp.where(is_zero, at_zero, function(jnp.where(is_zero, 1.0, x)))


def _check_rgb(images: jax.Array, function: str) -> None:
    """Raises ValueError unless images are RGB; it names the calling `function`."""
    if images.shape[-1] != 3:
        raise ValueError(
            f"{function} takes RGB images [..., H, W, 3], got shape {images.shape}."
        )


def _is_whole(images: jax.Array) -> bool:
    """Checks whether pixels are integers 0..255, not 0..1."""
    return bool(jnp.issubdtype(images.dtype, jnp.integer))


def _to_bytes(unit: jax.Array) -> jax.Array:
    """Rounds pixels in 0..1 to uint8."""
    return jnp.round(unit * 255.0).astype(jnp.uint8)
