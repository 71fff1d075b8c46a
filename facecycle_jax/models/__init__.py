"""The networks of FaceCycle as Linen modules, NHWC."""

from facecycle_jax.models.encoder import FEATURE_SIDE, FEATURE_SIZE, LAYERS, CodeEncoder, check_layer
from facecycle_jax.models.flow_decoder import FlowDecoder
from facecycle_jax.models.generator import Generator
from facecycle_jax.models.networks import Networks, build_networks
from facecycle_jax.models.normaliser import Normaliser
from facecycle_jax.models.vgg import LOSS_TAPS, TRUNK_TAPS, VGG19, random_vgg, read_vgg_npz

__all__ = [
    "FEATURE_SIDE",
    "FEATURE_SIZE",
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
    "check_layer",
    "random_vgg",
    "read_vgg_npz",
]
