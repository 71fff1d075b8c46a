"""The perceptual terms of both cycles.

Several picture sets against the maps of the inputs.

Maps [N, h, w, C] by layer. The inputs' side is one computation to XLA, however many
sets there are.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.losses import feature_loss, gram_loss
from facecycle_jax.methods.base import LossOptions
from facecycle_jax.networks import LOSS_TAPS
from facecycle_jax.networks.face_networks import Features


def stack_sets(sets: list[jax.Array]) -> jax.Array:
    """Stacks k versions of N pictures to [N k, ...], the versions of a picture side by side.

    One set after the other would do for one device; of a batch that is split over
    devices it would move nearly all pictures, and their maps, to other devices.
    """
    return jnp.stack(sets, axis=1).reshape(-1, *sets[0].shape[1:])


def perceptual_terms(
    sets: list[Features], targets: Features, options: LossOptions
) -> dict[str, jax.Array]:
    """Computes one term per layer, over all pictures of all sets.

    Args:
      sets: maps [N k, h, w, C] by layer; each holds k versions of the N inputs, as
        `stack_sets` has them.
      targets: maps of the inputs, [N, h, w, C] by layer; they get no gradient.
      options: chooses Gram or feature loss and its normalisation.

    Returns:
      {'<kind>/<layer>': [N, versions]}.
    """
    terms = {}
    for tap in LOSS_TAPS:
        target = targets[tap]
        values = []
        for maps in sets:
            stacked = maps[tap].reshape(target.shape[0], -1, *maps[tap].shape[1:])
            if options.perceptual == "feature":
                value = feature_loss(stacked, target[:, None])
            else:
                value = gram_loss(
                    stacked, target[:, None], divide_by_channels=options.gram_normalise
                )
            values.append(value)
        terms[f"{options.perceptual}/{tap}"] = jnp.concatenate(values, axis=1)
    return terms
