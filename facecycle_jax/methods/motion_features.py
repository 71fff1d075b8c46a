"""A richer last map of the motion encoder, for probes. Not in the paper.

The cycle asks the last map for what flows need, and probes of emotion find little else
in it. Here local histograms of gradients must be predictable from it too. They need no
labels. Flows stay what they were.
"""

import functools

import jax
import jax.numpy as jnp

from facecycle_jax.networks.face_networks import FaceNetworks, Trees
from facecycle_jax.ops import gradient_histograms
from facecycle_jax.ops.resize import read_window

# Side of the smallest part that is enlarged: 64 of the 100 pixels of the linear
# protocol.
_SMALLEST = 0.64
# Variances below this are those of flat images.
_TINY = 1e-8
# Added to the features' variances, as a fraction of their mean.
_RIDGE = 1e-3


def histogram_term(
    networks: FaceNetworks, trees: Trees, images: jax.Array, key: jax.Array
) -> jax.Array:
    """Computes how badly the last map predicts the images' histograms of gradients.

    A random part of each image is enlarged to the size of the image, because probes
    show the encoder larger images. The prediction is that of the linear layer that fits
    this batch best, computed in closed form. The layer gets no gradient: at the best
    layer, the derivative of the error by the layer is zero, but for the small ridge.

    Args:
      networks: the networks.
      trees: parameters; motion_encoder is used.
      images: [N, H, H, 3], normalised.
      key: random key of the parts.

    Returns:
      Scalar: the fraction of the histograms' variance that the prediction leaves
      unexplained, 0 to 1.

    References:
      Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training",
      CVPR 2022, has the targets, and masks parts of the image.
    """
    parts = _enlarged(key, images)
    maps = networks.feature_map(trees, parts)
    target = gradient_histograms(parts, side=maps.shape[1])
    # Every place has a mean of its own; one layer serves all places.
    maps, target = maps - jnp.mean(maps, axis=0), target - jnp.mean(target, axis=0)
    maps = maps.reshape(-1, maps.shape[-1])
    target = target.reshape(-1, target.shape[-1])

    # TPUs and GPUs would round products to about the size of the ridge.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    gram = product(maps.T, maps)
    ridge = _RIDGE * jnp.trace(gram) / len(gram) + _TINY
    layer = jnp.linalg.solve(gram + ridge * jnp.eye(len(gram)), product(maps.T, target))
    left = target - maps @ jax.lax.stop_gradient(layer)
    return jnp.mean(left**2) / jnp.maximum(jnp.mean(target**2), _TINY)


def _enlarged(key: jax.Array, images: jax.Array) -> jax.Array:
    """Enlarges a random square part of each image [N, H, H, 3] to the image's size."""
    number, size = images.shape[:2]
    keys = jax.random.split(key)
    side = jax.random.uniform(keys[0], (number, 1), minval=_SMALLEST)
    low = jax.random.uniform(keys[1], (number, 2)) * (1 - side)

    def read(image: jax.Array, low: jax.Array, side: jax.Array) -> jax.Array:
        return read_window(image, low, jnp.broadcast_to(side, (2,)), size)

    return jax.vmap(read)(images, low, side)


def kept_term(flow: jax.Array, teacher_flow: jax.Array) -> jax.Array:
    """Computes how far flows are from a teacher's. Codes may change.

    Args:
      flow: [N, h, w, 2].
      teacher_flow: [N, h, w, 2], of the same images; it gets no gradient.

    Returns:
      Scalar: the squared error over the variance of the teacher's flows from image to
      image.
    """
    target = jax.lax.stop_gradient(teacher_flow)
    variance = jnp.mean(jnp.var(target, axis=0))
    return jnp.mean((flow - target) ** 2) / jnp.maximum(variance, _TINY)
