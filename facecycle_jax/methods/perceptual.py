"""The perceptual terms of both cycles: several picture sets against the maps of the inputs.

Maps [N, h, w, C] by layer. The inputs' side is computed once and reused for every set.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.losses import feature_loss, gram_loss, gram_matrix
from facecycle_jax.methods.base import LossOptions
from facecycle_jax.methods.forward import Features
from facecycle_jax.models import LOSS_TAPS


def gram_targets(maps: Features, options: LossOptions) -> Features:
    """Computes what sets are compared with: Gram matrices [N, C, C] of maps, or the maps themselves."""
    if options.perceptual == "feature":
        return maps
    return {tap: gram_matrix(maps[tap], divide_by_channels=options.gram_normalise) for tap in LOSS_TAPS}


def perceptual_terms(sets: list[Features], targets: Features, options: LossOptions) -> dict[str, jax.Array]:
    """Computes one term per layer, over all pictures of all sets.

    Args:
      sets: maps [k N, h, w, C] by layer; each holds k stacked sets of the N inputs' versions.
      targets: from `gram_targets`.
      options: chooses Gram or feature loss and its normalisation.

    Returns:
      {'<kind>/<layer>': [pictures]}.
    """
    terms = {}
    for tap in LOSS_TAPS:
        target = targets[tap]
        values = []
        for maps in sets:
            stacked = maps[tap].reshape(-1, target.shape[0], *maps[tap].shape[1:])
            if options.perceptual == "feature":
                value = feature_loss(stacked, target)
            else:
                value = gram_loss(stacked, target, divide_by_channels=options.gram_normalise)
            values.append(value.reshape(-1))
        terms[f"{options.perceptual}/{tap}"] = jnp.concatenate(values)
    return terms
