"""The networks of FaceCycle, and of the methods it is compared with, as Linen modules, NHWC."""

from facecycle_jax.models.encoder import FEATURE_SIDE, FEATURE_SIZE, LAYERS, CodeEncoder, check_layer
from facecycle_jax.models.fab_net import FabNet, build_fab_net
from facecycle_jax.models.flow_decoder import FlowDecoder
from facecycle_jax.models.generator import Generator
from facecycle_jax.models.networks import Networks, build_networks
from facecycle_jax.models.normaliser import Normaliser
from facecycle_jax.models.pcl import Pcl, build_pcl
from facecycle_jax.models.tcae import Tcae, build_tcae
from facecycle_jax.models.temporal_consistency import (
    TemporalEncoder,
    read_resnet18_npz,
    resnet18_trees,
    unit_length,
)
from facecycle_jax.models.vgg import LOSS_TAPS, TRUNK_TAPS, VGG19, random_vgg, read_vgg_npz

__all__ = [
    "FEATURE_SIDE",
    "FEATURE_SIZE",
    "LAYERS",
    "LOSS_TAPS",
    "TRUNK_TAPS",
    "VGG19",
    "CodeEncoder",
    "FabNet",
    "FlowDecoder",
    "Generator",
    "Networks",
    "Normaliser",
    "Pcl",
    "Tcae",
    "TemporalEncoder",
    "build_fab_net",
    "build_networks",
    "build_pcl",
    "build_tcae",
    "check_layer",
    "random_vgg",
    "read_resnet18_npz",
    "read_vgg_npz",
    "resnet18_trees",
    "unit_length",
]
