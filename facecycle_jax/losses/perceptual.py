"""Distances between feature maps, per example. Layout [..., H, W, C], rectified maps."""

import jax
import jax.numpy as jnp


def gram_matrix(features: jax.Array, *, divide_by_channels: bool = False) -> jax.Array:
    """Computes F^T F / (H W), the channels' correlations.

    Args:
      features: [..., H, W, C].
      divide_by_channels: also divide by C, as many style losses do and FaceCycle's program does not;
        the entries then no longer grow with the layer's activation energy times its width.

    Returns:
      float32 [..., C, C].

    References:
      Gatys et al., "Image style transfer using convolutional neural networks", CVPR 2016, section 2.2.
    """
    *lead, height, width, channels = features.shape
    flat = features.reshape(*lead, height * width, channels)
    gram = jnp.einsum("...pc,...pd->...cd", flat, flat, preferred_element_type=jnp.float32)
    return gram / (height * width * (channels if divide_by_channels else 1))


def gram_loss(features: jax.Array, target_gram: jax.Array, *, divide_by_channels: bool = False) -> jax.Array:
    """Computes the mean squared difference to given Gram matrices, which get no gradient.

    The target is a Gram matrix, not a map, so that it is computed once for several comparisons.

    Args:
      features: [..., H, W, C].
      target_gram: [..., C, C], broadcast against the Gram matrices of `features`.
      divide_by_channels: see `gram_matrix`; must be as in the target.

    Returns:
      float32 [...], 0 or more.
    """
    gram = gram_matrix(features, divide_by_channels=divide_by_channels)
    return jnp.mean((gram - jax.lax.stop_gradient(target_gram)) ** 2, axis=(-2, -1))


def feature_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the mean squared difference of maps at each place; the target gets no gradient.

    Unlike the Gram loss it compares content where it stands, so it also sees misplaced features.

    Args:
      features: [..., H, W, C].
      target: [..., H, W, C], broadcast against `features`.

    Returns:
      float32 [...], 0 or more.

    References:
      Johnson et al., "Perceptual losses for real-time style transfer", ECCV 2016, equation 2.
    """
    difference = features.astype(jnp.float32) - jax.lax.stop_gradient(target).astype(jnp.float32)
    return jnp.mean(difference**2, axis=(-3, -2, -1))
