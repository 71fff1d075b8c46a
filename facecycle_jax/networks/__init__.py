"""The networks as Linen modules, and their forward passes.

Layout NHWC. The forward passes are pure functions of parameter trees.
"""

from facecycle_jax.networks.build import FaceModules, build_modules
from facecycle_jax.networks.encoder import (
    FEATURE_SIDE,
    FEATURE_SIZE,
    LAYERS,
    CodeEncoder,
    check_layer,
)
from facecycle_jax.networks.fab_net import FabNet, build_fab_net
from facecycle_jax.networks.face_networks import FaceNetworks, Tree, make_face_networks
from facecycle_jax.networks.flow_decoder import FlowDecoder
from facecycle_jax.networks.generator import Generator
from facecycle_jax.networks.normaliser import Normaliser
from facecycle_jax.networks.pcl import Pcl, build_pcl
from facecycle_jax.networks.tcae import Tcae, build_tcae
from facecycle_jax.networks.temporal_consistency import (
    TemporalEncoder,
    read_resnet18_npz,
    resnet18_trees,
)
from facecycle_jax.networks.vgg import (
    LOSS_TAPS,
    TRUNK_TAPS,
    VGG19,
    random_vgg,
    read_vgg_npz,
)
from facecycle_jax.networks.widening import widen

__all__ = [
    "FEATURE_SIDE",
    "FEATURE_SIZE",
    "LAYERS",
    "LOSS_TAPS",
    "TRUNK_TAPS",
    "VGG19",
    "CodeEncoder",
    "FabNet",
    "FaceModules",
    "FaceNetworks",
    "FlowDecoder",
    "Generator",
    "Normaliser",
    "Pcl",
    "Tcae",
    "TemporalEncoder",
    "Tree",
    "build_fab_net",
    "build_modules",
    "build_pcl",
    "build_tcae",
    "check_layer",
    "make_face_networks",
    "random_vgg",
    "read_resnet18_npz",
    "read_vgg_npz",
    "resnet18_trees",
    "widen",
]
