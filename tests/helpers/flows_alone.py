"""The part of the motion cycle that only warps, and images for it."""

import golden as reference
import jax.numpy as jnp
import tiny_model

from facecycle_jax import methods
from facecycle_jax.ops import normalise


def images():
    """Reference images, normalised: [B, 2, 64, 64, 3]."""
    return normalise(jnp.asarray(reference.input_images()))


def made(*, freeze=(), **loss):
    """The method of a tiny model; `loss` holds further options."""
    return methods.make(
        {
            "method": "motion_cycle",
            "model": tiny_model.MODEL,
            "freeze": freeze,
            "loss": {"perceptual": "none", "generator": False, **loss},
        }
    )
