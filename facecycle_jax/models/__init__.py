"""The networks of FaceCycle as Linen modules, NHWC."""

from facecycle_jax.models.encoder import LAYERS, CodeEncoder
from facecycle_jax.models.flow_decoder import FlowDecoder
from facecycle_jax.models.generator import Generator
from facecycle_jax.models.networks import Networks, build_networks
from facecycle_jax.models.normaliser import Normaliser
from facecycle_jax.models.vgg import LOSS_TAPS, TRUNK_TAPS, VGG19, random_vgg, read_vgg_npz

__all__ = [
    "LAYERS",
    "LOSS_TAPS",
    "TRUNK_TAPS",
    "VGG19",
    "CodeEncoder",
    "FlowDecoder",
    "Generator",
    "Networks",
    "Normaliser",
    "build_networks",
    "random_vgg",
    "read_vgg_npz",
]
