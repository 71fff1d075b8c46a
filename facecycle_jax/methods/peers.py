"""The methods that FaceCycle is compared with, by name."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import Method, check_micro_batches
from facecycle_jax.methods.fab_net import FAB_NET
from facecycle_jax.methods.pcl import PCL
from facecycle_jax.methods.peer_base import Peer
from facecycle_jax.methods.simclr import SIMCLR
from facecycle_jax.methods.tcae import TCAE
from facecycle_jax.methods.temporal_consistency import TEMPORAL_CONSISTENCY
from facecycle_jax.networks import Tree

# A new method is a file that defines its `Peer`, an entry here, and a config; see
# docs/contributing.md.
PEERS: dict[str, Peer] = {
    "fab_net": FAB_NET,
    "pcl": PCL,
    "simclr": SIMCLR,
    "tcae": TCAE,
    "temporal_consistency": TEMPORAL_CONSISTENCY,
}


def make_peer(config: Mapping[str, Any], *, weights: bool) -> Method:
    """Builds the method that FaceCycle is compared with that a configuration describes.

    Args:
      config: with `method`, `model`, `loss`, `augment`, `data` and `optimiser`.
      weights: whether to read files of weights.

    Returns:
      The method.

    Raises:
      UserError: If a value is out of range.
      FileNotFoundError: If a file of weights is missing.
    """
    peer = PEERS[config["method"]]
    fewest, most = peer.frames
    frames = config["data"]["item_frames"]
    if not fewest <= frames <= most:
        allowed = f"{fewest}" if fewest == most else f"{fewest} or more"
        raise UserError(
            f"data.item_frames must be {allowed} for {config['method']}, got {frames}."
        )
    if peer.compares_items:
        check_micro_batches(config)
    if config.get("remat", False):
        raise UserError(
            f"remat must be False for {config['method']}: only FaceCycle's networks "
            "can be recomputed."
        )
    return peer.build(config, weights=weights)


class PeerFeatures(Protocol):
    """A pure function from images to features or maps; see `peer_features`."""

    def __call__(
        self, trees: Tree, images: jax.Array, *, maps: bool = False
    ) -> jax.Array:
        """Computes features [N, D], or maps [N, h, w, C]."""


def peer_features(config: Mapping[str, Any]) -> PeerFeatures:
    """Builds the function from images to the features that a method is evaluated with.

    These are FAb-Net's embedding, TCAE's code of expression, temporal consistency's
    embedding of unit length, and the flattened maps of PCL's trunk and of SimCLR's
    encoder.

    Args:
      config: a run's configuration: method and model.

    Returns:
      `features(trees, images) -> [N, D]` of trees by network name, statistics included,
      and images [N, S, S, 3], uint8 or floating point in 0..1; pure. Nothing is
      cropped. With `maps=True` it returns maps [N, h, w, C] instead: the last
      convolutional map that is not yet one vector, of TCAE that of its branch of
      expression.
    """
    own = PEERS[config["method"]].features

    # bfloat16 networks give float32 features too.
    def features(trees: Tree, images: jax.Array, *, maps: bool = False) -> jax.Array:
        found = own(config, trees, images, maps=maps).astype(jnp.float32)
        return found if maps else found.reshape(len(found), -1)

    return features
