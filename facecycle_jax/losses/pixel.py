"""Differences between pictures, per example. Layout [..., H, W, C], normalised values."""

import jax
import jax.numpy as jnp


def l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of each pair of pictures.

    Args:
      a: [..., H, W, C].
      b: [..., H, W, C], broadcast against `a`.

    Returns:
      float32 [...], 0 or more.
    """
    return jnp.mean(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)), axis=(-3, -2, -1))


def symmetry(images: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of the left half and the mirrored right half.

    Neutral faces are frontal, hence nearly symmetric. A middle column of an odd width is left out.

    Args:
      images: [..., H, W, C].

    Returns:
      float32 [...], 0 for pictures that equal their mirror image.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    half = images.shape[-2] // 2
    left = images[..., :half, :]
    right = jnp.flip(images[..., images.shape[-2] - half :, :], axis=-2)
    return l1(left, right)


def margin(a: jax.Array, b: jax.Array, *, width: float = 0.1, hinge: bool = False) -> jax.Array:
    """Computes the mean of |a - b| - width, the margin term of the identity cycle.

    Args:
      a: [..., H, W, C].
      b: [..., H, W, C], broadcast against `a`.
      width: the margin, in normalised units.
      hinge: whether differences below the margin count as 0. The paper describes this; its program
        does not cut, so that pictures are drawn together beyond the margin too (the gradient is that
        of plain L1). The program's behaviour is the default.

    Returns:
      float32 [...], at least -width (0 with the hinge).

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """
    excess = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)) - width
    if hinge:
        excess = jnp.maximum(excess, 0.0)
    return jnp.mean(excess, axis=(-3, -2, -1))
