"""Structural similarity. Layout [..., H, W, C]; the value range is the caller's, see `value_range`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def _blur_matrix(size: int, window: int, sigma: float) -> np.ndarray:
    """Banded matrix [size, size] of a Gaussian window with zeros beyond the ends."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2.0 * sigma**2))
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, weight in zip(offsets, weights, strict=True):
            if 0 <= row + offset < size:
                matrix[row, row + offset] = weight
    return matrix.astype(np.float32)


def _blur(x: jax.Array, *, window: int, sigma: float) -> jax.Array:
    rows = jnp.asarray(_blur_matrix(x.shape[-3], window, sigma))
    columns = jnp.asarray(_blur_matrix(x.shape[-2], window, sigma))
    # The variances below are differences of close numbers: a TPU's or a GPU's default reduced precision
    # would make them negative.
    x = jnp.einsum("hi,...iwc->...hwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("wj,...hjc->...hwc", columns, x, precision=jax.lax.Precision.HIGHEST)


def ssim(
    a: jax.Array,
    b: jax.Array,
    *,
    window: int = 11,
    sigma: float = 1.5,
    value_range: float = 1.0,
) -> jax.Array:
    """Computes the mean structural similarity of each pair of pictures.

    The Gaussian window is applied with zero padding, and the constants are (0.01 L)^2 and (0.03 L)^2
    for L = `value_range`.

    Args:
      a: [..., H, W, C] floating point.
      b: same shape as `a`.
      window: width of the Gaussian window in pixels, odd.
      sigma: standard deviation of the window in pixels.
      value_range: L, the span of the pictures' values. FaceCycle's program uses 1 on pictures that were
        normalised to a span of about 4.7.

    Returns:
      float32 [...], between -1 and 1; 1 for equal pictures.

    Raises:
      ValueError: if the shapes differ or the window is even.

    References:
      Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
      2004, equation 13.
    """
    if a.shape != b.shape:
        raise ValueError(f"ssim needs two arrays of one shape, got {a.shape} and {b.shape}.")
    if window % 2 == 0:
        raise ValueError(f"ssim needs an odd window, got {window}.")
    blur = functools.partial(_blur, window=window, sigma=sigma)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a**2
    variance_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))
