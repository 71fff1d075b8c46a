"""Builds the methods that FaceCycle is compared with.

Networks, losses, views and features.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from facecycle_jax import ops
from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import BATCH_STATS, Method, Views, apply_plain
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


def _fab_net(config: Config, *, weights: bool) -> Method:
    del weights
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    method = fab_net(build_fab_net(**options), _record(FabNetOptions, config["loss"]))
    return method._replace(views=_crops(config, normalised=False))


def _tcae(config: Config, *, weights: bool) -> Method:
    del weights
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    method = tcae(build_tcae(**options), _record(TcaeOptions, config["loss"]))
    return method._replace(views=_crops(config, normalised=False))


def _temporal_consistency(config: Config, *, weights: bool) -> Method:
    encoder = TemporalEncoder(**network_options(config["model"], "code_dim"))
    path = config["loss"].get("resnet", "random")

    def trunk() -> tuple[Tree, Tree]:
        return read_resnet18_npz(path)

    from_file = weights and path != "random"
    options = _record(TemporalOptions, config["loss"])
    method = temporal_consistency(encoder, options, trunk=trunk if from_file else None)
    return method._replace(views=_crops(config, normalised=True))


def _pcl(config: Config, *, weights: bool) -> Method:
    del weights
    if config["model"].get("image_size", 64) != 64:
        raise UserError(
            f"model.image_size must be 64 for PCL, got {config['model']['image_size']}."
        )
    networks = build_pcl(**network_options(config["model"]))
    method = pcl(networks, _record(PclOptions, config["loss"]))
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


# Each builds a method from a configuration; without `weights` no file is read.
PEERS: dict[str, Callable[..., Method]] = {
    "fab_net": _fab_net,
    "pcl": _pcl,
    "simclr": _simclr,
    "tcae": _tcae,
    "temporal_consistency": _temporal_consistency,
}


# Views of batches.


def _crops(config: Config, *, normalised: bool) -> Views:
    """Random crops that share a side (FAb-Net, TCAE, temporal consistency)."""
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

    def frames_of(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        frames = batch["frames"]
        last = frames.shape[1] - 1
        return frames[:, 0], frames[:, min(1, last)], frames[:items, min(2, last)]

    def augment(key: jax.Array, batch: Batch) -> PclViews:
        first, second, third = frames_of(batch)
        keys = jax.random.split(key, 3)
        recoloured = functools.partial(
            views.recoloured_views, size=size, colours=colours
        )
        return PclViews(
            reconstruction=views.whole_frames(first, size=size),
            face=views.distant_views(keys[0], second, size=size, colours=colours),
            pose=recoloured(keys[1], third, count=2),
            pose_negatives=recoloured(keys[2], third, count=count, mirrored=True),
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
    name, model = config["method"], config["model"]

    def encode(
        module: Any, trees: Tree, images: jax.Array, *, maps: bool = False
    ) -> Any:
        variables = {
            "params": trees["encoder"],
            "batch_stats": trees[BATCH_STATS]["encoder"],
        }
        return module.apply(variables, images, train=False, maps=maps)

    def features(trees: Tree, images: jax.Array, *, maps: bool = False) -> jax.Array:
        if name == "temporal_consistency":
            module = TemporalEncoder(**network_options(model, "code_dim"))
            embedding, below = encode(module, trees, ops.normalise(images), maps=maps)
            found = below if maps else embedding
        elif name == "simclr":
            found = apply_plain(
                _simclr_encoder(config), trees["encoder"], ops.normalise(images)
            )
        else:
            # Pixels in 0..1, which floating point already is.
            unit = images.astype(jnp.float32)
            if jnp.issubdtype(images.dtype, jnp.integer):
                unit = unit / 255.0

            if name == "pcl":
                trunk = build_pcl(**network_options(model)).trunk
                found = apply_plain(trunk, trees["trunk"], unit)
            else:
                options = network_options(
                    model, "image_size", "code_dim", "align_corners"
                )
                if name == "tcae":
                    both = encode(build_tcae(**options).encoder, trees, unit, maps=maps)
                    found = both[1]
                else:
                    fab_net_encoder = build_fab_net(**options).encoder
                    found = encode(fab_net_encoder, trees, unit, maps=maps)

        found = found.astype(jnp.float32)
        return found if maps else found.reshape(len(found), -1)

    return features
