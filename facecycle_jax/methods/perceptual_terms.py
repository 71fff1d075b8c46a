"""The perceptual terms of both cycles, which compare sets of images with the inputs.

Maps are [N, h, w, C] by layer. XLA computes what belongs to the inputs once, however
many sets there are.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.losses import feature_loss, gram_loss
from facecycle_jax.methods.base import LossOptions, WeightedTerms
from facecycle_jax.networks import LOSS_TAPS
from facecycle_jax.networks.face_networks import Features


def stack_sets(sets: list[jax.Array]) -> jax.Array:
    """Stacks sets of images so that the versions of an image are next to each other.

    Stacking one set after the other would move nearly all images of a batch that is
    split over devices, and their maps, to other devices.

    Args:
      sets: k versions of N images, each [N, H, W, 3].

    Returns:
      [N k, H, W, 3].
    """
    # [N, k, H, W, 3], then the first two axes become one.
    stacked = jnp.stack(sets, axis=1)
    return stacked.reshape(-1, *sets[0].shape[1:])


def perceptual_terms(
    sets: list[Features], targets: Features, options: LossOptions
) -> WeightedTerms:
    """Computes one term per layer, over all images of all sets.

    Args:
      sets: maps [N k, h, w, C] by layer; each holds k versions of the N inputs, as
        `stack_sets` orders them.
      targets: maps of the inputs, [N, h, w, C] by layer; they get no gradient.
      options: weight, Gram or feature loss, and its normalisation.

    Returns:
      {'<kind>/<layer>': (weight, [N, versions])}.
    """
    terms = {}
    for tap in LOSS_TAPS:
        # [N, 1, h, w, C] against [N, k, h, w, C] of each set.
        target = targets[tap][:, None]
        values = []
        for maps in sets:
            versions = maps[tap].reshape(len(target), -1, *maps[tap].shape[1:])
            if options.perceptual == "feature":
                value = feature_loss(versions, target)
            else:
                value = gram_loss(
                    versions, target, divide_by_channels=options.gram_normalise
                )
            values.append(value)

        value = jnp.concatenate(values, axis=1)
        terms[f"{options.perceptual}/{tap}"] = (options.perceptual_weight, value)
    return terms
