"""Structural dissimilarity, per example. Layout [..., H, W, C], normalised values."""

import jax

from facecycle_jax.ops import ssim


def ssim_loss(a: jax.Array, b: jax.Array, *, value_range: float = 1.0) -> jax.Array:
    """Computes 1 - SSIM of each pair of pictures.

    Args:
      a: [..., H, W, C].
      b: same shape as `a`.
      value_range: L of the SSIM constants. FaceCycle's program uses 1 although normalised pictures
        span about 4.7; the larger value makes flat regions count less.

    Returns:
      float32 [...], between 0 and 2.
    """
    return 1.0 - ssim(a, b, value_range=value_range)
