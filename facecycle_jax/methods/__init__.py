"""Training methods as pure functions: FaceCycle's two and its peers."""

from facecycle_jax.methods.base import Aux, Method, Objective
from facecycle_jax.methods.build import (
    METHODS,
    make,
    uses_vgg,
    vgg_parameters,
    vgg_width,
)
from facecycle_jax.methods.identity_cycle import IdentityLossOptions, identity_cycle
from facecycle_jax.methods.motion_cycle import MotionLossOptions, motion_cycle
from facecycle_jax.methods.peers import PEERS

__all__ = [
    "METHODS",
    "PEERS",
    "Aux",
    "IdentityLossOptions",
    "Method",
    "MotionLossOptions",
    "Objective",
    "identity_cycle",
    "make",
    "motion_cycle",
    "uses_vgg",
    "vgg_parameters",
    "vgg_width",
]
