"""Builds the methods that FaceCycle is compared with.

Networks, losses, views and features.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from facecycle_jax import ops
from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import (
    BATCH_STATS,
    Method,
    Views,
    apply_plain,
    check_micro_batches,
)
from facecycle_jax.methods.fab_net import FabNetOptions, fab_net
from facecycle_jax.methods.pcl import PclOptions, PclViews, pcl
from facecycle_jax.methods.peer_options import network_options
from facecycle_jax.methods.simclr import SimclrOptions, simclr
from facecycle_jax.methods.tcae import TcaeOptions, tcae
from facecycle_jax.methods.temporal_consistency import (
    TemporalOptions,
    temporal_consistency,
)
from facecycle_jax.networks import (
    FabNet,
    Pcl,
    Tcae,
    TemporalEncoder,
    Tree,
    build_fab_net,
    build_pcl,
    build_tcae,
    read_resnet18_npz,
)
from facecycle_jax.networks.batch_norm import Projector
from facecycle_jax.networks.blocks import scaled
from facecycle_jax.networks.encoder import EncoderFeatures
from facecycle_jax.ops import views

Config = Mapping[str, Any]
Batch = Mapping[str, jax.Array]


def _record(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Builds an options record from the fields of its names.

    Others keep their defaults.
    """
    names: type[NamedTuple] = kind
    return kind(**{name: fields[name] for name in names._fields if name in fields})


# Networks and losses.


def _fab_net_networks(config: Config) -> FabNet:
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    return build_fab_net(**options)


def _fab_net(config: Config, *, weights: bool) -> Method:
    del weights
    networks = _fab_net_networks(config)
    method = fab_net(networks, _record(FabNetOptions, config["loss"]))
    return method._replace(views=_crops(config, normalised=False))


def _tcae_networks(config: Config) -> Tcae:
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    return build_tcae(**options)


def _tcae(config: Config, *, weights: bool) -> Method:
    del weights
    networks = _tcae_networks(config)
    method = tcae(networks, _record(TcaeOptions, config["loss"]))
    return method._replace(views=_crops(config, normalised=False))


def _temporal_encoder(config: Config) -> TemporalEncoder:
    return TemporalEncoder(**network_options(config["model"], "code_dim"))


def _temporal_consistency(config: Config, *, weights: bool) -> Method:
    encoder = _temporal_encoder(config)
    path = config["loss"].get("resnet", "random")

    def trunk() -> tuple[Tree, Tree]:
        return read_resnet18_npz(path)

    if path != "random" and encoder.width != 1:
        raise UserError(
            f"model.width must be 1 with loss.resnet, whose ResNet-18 has that width, "
            f"got {encoder.width}."
        )
    order = config["data"].get("item_order", "ordered")
    if order != "ordered":
        raise UserError(
            "data.item_order must be 'ordered' for temporal_consistency, which "
            f"compares frames by their time, got {order!r}."
        )

    from_file = weights and path != "random"
    options = _record(TemporalOptions, config["loss"])
    method = temporal_consistency(encoder, options, trunk=trunk if from_file else None)
    return method._replace(views=_crops(config, normalised=True))


def _pcl_networks(config: Config) -> Pcl:
    return build_pcl(**network_options(config["model"]))


def _pcl(config: Config, *, weights: bool) -> Method:
    del weights
    if config["model"].get("image_size", 64) != 64:
        raise UserError(
            f"model.image_size must be 64 for PCL, got {config['model']['image_size']}."
        )
    if config.get("optimiser", {}).get("accumulate", 1) > 1:
        raise UserError(
            "optimiser.accumulate must be 1 for PCL, which contrasts each item with "
            "all others of its batch."
        )
    method = pcl(
        _pcl_networks(config),
        _record(PclOptions, config["loss"]),
        pose_negatives=config["augment"]["pose_negatives"],
    )
    return method._replace(views=_pcl_views(config))


def _simclr_encoder(config: Config) -> EncoderFeatures:
    return EncoderFeatures(**network_options(config["model"], "image_size"))


def _simclr(config: Config, *, weights: bool) -> Method:
    del weights
    encoder = _simclr_encoder(config)
    projector = Projector(
        scaled(2048, encoder.width), scaled(512, encoder.width), encoder.dtype
    )
    method = simclr(encoder, projector, _record(SimclrOptions, config["loss"]))
    return method._replace(views=_simclr_views(config))


# Views of batches.


def _crops(config: Config, *, normalised: bool) -> Views:
    """Random crops that share a side (FAb-Net, TCAE, temporal consistency)."""
    sides = [config["augment"][name] for name in ("smallest", "largest", "side")]
    if sides != sorted(sides):
        raise UserError(
            "augment.smallest, augment.largest and augment.side must not fall in this "
            f"order, got {', '.join(map(str, sides))}."
        )
    for edge in ("left", "top"):
        end = config["augment"][edge] + config["augment"]["side"]
        if end > 256:
            raise UserError(
                f"augment.{edge} and augment.side must add up to 256 at most, the side "
                f"of the image, got {end}."
            )
    options = {
        "size": config["model"]["image_size"],
        "crop": views.CropOptions(**config["augment"]),
        "normalised": normalised,
    }
    return Views(
        augment=functools.partial(views.crop_frames, **options),
        plain=functools.partial(views.centre_crop_frames, **options),
    )


def _pcl_views(config: Config) -> Views:
    """Views of an item: one to reconstruct, one face and one pose to contrast."""
    options = config["augment"]
    size = config["model"]["image_size"]
    items, count = options["pose_items"], options["pose_negatives"]
    colours = _record(views.ColourOptions, options)

    def split(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        # One frame for each step. Where an item has fewer, its last one serves again.
        last = frames.shape[1] - 1
        return frames[:, 0], frames[:, min(1, last)], frames[:items, min(2, last)]

    def augment(key: jax.Array, batch: Batch) -> PclViews:
        frames = batch["frames"]
        first, second, third = split(frames)
        keys = jax.random.split(key, 3)
        return PclViews(
            reconstruction=views.whole_frames(first, size=size),
            face=views.distant_views(keys[0], second, size=size, colours=colours),
            pose=views.recoloured_views(
                keys[1], third, size=size, count=2, colours=colours
            ),
            pose_negatives=views.spread_views(
                keys[2], third, frames, size=size, count=count, colours=colours
            ),
        )

    def plain(batch: Batch) -> PclViews:
        # The same views at every evaluation: contrasts need some.
        return augment(jax.random.key(0), batch)

    return Views(augment, plain)


def _simclr_views(config: Config) -> Views:
    options, size = config["augment"], config["model"]["image_size"]
    colours = _record(views.ColourOptions, options)

    def augment(key: jax.Array, batch: Batch) -> jax.Array:
        made = views.cropped_views(
            key,
            batch["frames"][:, 0],
            size=size,
            scale=tuple(options["scale"]),
            mirror_probability=options["mirror_probability"],
            colours=colours,
        )
        return ops.normalise(made)

    def plain(batch: Batch) -> jax.Array:
        return augment(jax.random.key(0), batch)

    return Views(augment, plain)


# What each method is evaluated with.


class PeerFeatures(Protocol):
    """A pure function from images to features or maps; see `peer_features`."""

    def __call__(
        self, trees: Tree, images: jax.Array, *, maps: bool = False
    ) -> jax.Array:
        """Computes features [N, D], or maps [N, h, w, C]."""


def _with_stats(module: Any, trees: Tree, images: jax.Array, *, maps: bool) -> Any:
    """Applies an encoder with its running statistics."""
    variables = {
        "params": trees["encoder"],
        "batch_stats": trees[BATCH_STATS]["encoder"],
    }
    return module.apply(variables, images, train=False, maps=maps)


def _fab_net_features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the embedding."""
    encoder = _fab_net_networks(config).encoder
    found: jax.Array = _with_stats(
        encoder, trees, ops.pixels_to_unit(images), maps=maps
    )
    return found


def _tcae_features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the code of expression, or the map of its branch."""
    encoder = _tcae_networks(config).encoder
    # The pose is what the method takes out of the code.
    _, expression = _with_stats(encoder, trees, ops.pixels_to_unit(images), maps=maps)
    found: jax.Array = expression
    return found


def _temporal_consistency_features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the embedding of unit length."""
    encoder = _temporal_encoder(config)
    embedding, below = _with_stats(encoder, trees, ops.normalise(images), maps=maps)
    found: jax.Array = below if maps else embedding
    return found


def _pcl_features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the maps of the trunk."""
    # They are maps already, and flattened where features are requested.
    del maps
    trunk = _pcl_networks(config).trunk
    found: jax.Array = apply_plain(trunk, trees["trunk"], ops.pixels_to_unit(images))
    return found


def _simclr_features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the maps of the encoder."""
    # As for PCL.
    del maps
    encoder = _simclr_encoder(config)
    found: jax.Array = apply_plain(encoder, trees["encoder"], ops.normalise(images))
    return found


class Peer(NamedTuple):
    """A method that FaceCycle is compared with.

    Attributes:
      build: `build(config, *, weights) -> Method`; without `weights` no file is read.
      features: `features(config, trees, images, *, maps) -> [N, ...]`, see
        `peer_features`.
      frames: smallest and largest number of frames of an item.
    """

    build: Callable[..., Method]
    features: Callable[..., jax.Array]
    frames: tuple[int, float] = (1, math.inf)


# A new method is one more entry, a file of its own and a config; docs/contributing.md.
PEERS: dict[str, Peer] = {
    "fab_net": Peer(_fab_net, _fab_net_features, frames=(2, math.inf)),
    "pcl": Peer(_pcl, _pcl_features),
    "simclr": Peer(_simclr, _simclr_features),
    "tcae": Peer(_tcae, _tcae_features, frames=(2, 2)),
    "temporal_consistency": Peer(
        _temporal_consistency, _temporal_consistency_features, frames=(3, math.inf)
    ),
}


def make_peer(config: Config, *, weights: bool) -> Method:
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
    # Ranks and negatives are those of a micro-batch. Temporal consistency has neither.
    if config["method"] != "temporal_consistency":
        check_micro_batches(config)
    if config.get("remat", False):
        raise UserError(
            f"remat must be False for {config['method']}: only FaceCycle's networks "
            "can be recomputed."
        )
    return peer.build(config, weights=weights)


def peer_features(config: Config) -> PeerFeatures:
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
