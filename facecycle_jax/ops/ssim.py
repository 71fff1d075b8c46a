"""Structural similarity of images.

Layout [..., H, W, C]. The caller states the value range, see `value_range`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def _blur_matrix(size: int, window: int, sigma: float) -> np.ndarray:
    """Computes the banded matrix [size, size] of a Gaussian window.

    Values beyond the ends count as zeros.
    """
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2.0 * sigma**2))
    weights /= weights.sum()

    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, weight in zip(offsets, weights, strict=True):
            if 0 <= row + offset < size:
                matrix[row, row + offset] = weight
    return matrix.astype(np.float32)


@functools.cache
def _missing_weight(height: int, width: int, window: int, sigma: float) -> np.ndarray:
    """Computes the window's weight beyond the border for each pixel.

    Returns:
      float32 [height, width, 1], 0 inside the image.
    """
    rows = _blur_matrix(height, window, sigma).astype(np.float64).sum(axis=1)
    columns = _blur_matrix(width, window, sigma).astype(np.float64).sum(axis=1)
    missing = 1.0 - rows[:, None] * columns[None, :]

    # Inside the image nothing is missing but for the rounding of the matrices.
    missing[missing < 1e-6] = 0.0
    return missing[..., None].astype(np.float32)


def _blur(x: jax.Array, *, window: int, sigma: float) -> jax.Array:
    """Blurs images [..., H, W, C] by a Gaussian window with zero padding."""
    rows = jnp.asarray(_blur_matrix(x.shape[-3], window, sigma))
    columns = jnp.asarray(_blur_matrix(x.shape[-2], window, sigma))

    # The variances below are differences of close numbers: a TPU's or a GPU's default
    # reduced precision would make them negative.
    x = jnp.einsum("hi,...iwc->...hwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum(
        "wj,...hjc->...hwc", columns, x, precision=jax.lax.Precision.HIGHEST
    )


def _level(x: jax.Array) -> jax.Array:
    """Computes the mean [..., 1, 1, C] of an image.

    Results do not depend on it, so it has no gradient.
    """
    return jax.lax.stop_gradient(jnp.mean(x, axis=(-3, -2), keepdims=True))


def ssim(
    a: jax.Array,
    b: jax.Array,
    *,
    window: int = 11,
    sigma: float = 1.5,
    value_range: float = 1.0,
) -> jax.Array:
    """Computes the mean structural similarity of each pair of images.

    The Gaussian window is applied with zero padding, and the constants are (0.01 L)^2
    and (0.03 L)^2 for L = `value_range`.

    Args:
      a: [..., H, W, C] floating point.
      b: same shape as `a`.
      window: width of the Gaussian window in pixels, odd.
      sigma: standard deviation of the window in pixels.
      value_range: L, the span of the images' values. FaceCycle's program uses 1 on
        images that were normalised to a span of about 4.7.

    Returns:
      float32 [...], between -1 and 1; 1 for equal images.

    Raises:
      ValueError: if the shapes differ or the window is even.

    References:
      Wang et al., "Image quality assessment: from error visibility to structural
      similarity", IEEE TIP 2004, equation 13.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"ssim needs two arrays of one shape, got {a.shape} and {b.shape}."
        )
    if window % 2 == 0:
        raise ValueError(f"ssim needs an odd window, got {window}.")

    blur = functools.partial(_blur, window=window, sigma=sigma)
    a = a.astype(jnp.float32)
    b = b.astype(jnp.float32)
    c1 = (0.01 * value_range) ** 2
    c2 = (0.03 * value_range) ** 2

    # Local moments are taken about each image's own level. Otherwise the difference
    # E[x^2] - E[x]^2 of a nearly flat image far from zero would be all rounding.
    level_a = _level(a)
    level_b = _level(b)
    rest_a = a - level_a
    rest_b = b - level_b
    blurred_a = blur(rest_a)
    blurred_b = blur(rest_b)

    # The window's weights sum to 1 - missing, so a level contributes to the local
    # variance at the border. With x = level + rest and m = missing, E[x^2] - E[x]^2 is
    # that of the rest plus m * level * ((1 - m) * level + 2 * E[rest]).
    missing = jnp.asarray(_missing_weight(a.shape[-3], a.shape[-2], window, sigma))

    def variance(rest: jax.Array, blurred: jax.Array, level: jax.Array) -> jax.Array:
        at_border = missing * level * ((1 - missing) * level + 2 * blurred)
        return blur(rest**2) - blurred**2 + at_border

    # Moments of a - b stand in for the covariance. Each factor is 1 minus a term for
    # the difference of the images, which is exactly 0 for equal images.
    difference = variance(rest_a - rest_b, blurred_a - blurred_b, level_a - level_b)
    variance_a = variance(rest_a, blurred_a, level_a)
    variance_b = variance(rest_b, blurred_b, level_b)
    variances = variance_a + variance_b

    mean_a = (1 - missing) * level_a + blurred_a
    mean_b = (1 - missing) * level_b + blurred_b
    mean_difference = (1 - missing) * (level_a - level_b) + (blurred_a - blurred_b)

    # Equation 13, pixel by pixel, then its mean.
    luminance = 1 - mean_difference**2 / (mean_a**2 + mean_b**2 + c1)
    structure = 1 - jnp.maximum(difference, 0) / (variances + c2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))
