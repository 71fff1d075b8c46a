"""SimCLR on FaceCycle's encoder, the contrastive baseline.

Two views of an image against all other images.

Images [B, 2, H, W, 3], normalised, two views of one image.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.losses import contrast_accuracy, contrastive_logits, info_nce
from facecycle_jax.methods.base import (
    BATCH_STATS,
    Aux,
    Method,
    Views,
    apply_plain,
    apply_with_stats,
    carried_stats,
    init_with_stats,
    record_from,
)
from facecycle_jax.methods.peer_base import Config, Peer, network_options, random_views
from facecycle_jax.networks import Tree
from facecycle_jax.networks.batch_norm import Projector
from facecycle_jax.networks.blocks import scaled
from facecycle_jax.networks.encoder import EncoderFeatures
from facecycle_jax.ops import normalise
from facecycle_jax.ops.views import ColourOptions, cropped_views


class SimclrOptions(NamedTuple):
    """Switches of the loss.

    Attributes:
      temperature: what cosines are divided by.
    """

    temperature: float = 0.07


def simclr(
    encoder: EncoderFeatures, projector: Projector, options: SimclrOptions
) -> Method:
    """Builds the baseline.

    Args:
      encoder: the convolutional part of FaceCycle's encoder; its flattened map is the
        feature.
      projector: the layers between feature and loss.
      options: switches of the loss.

    Returns:
      The method; trains encoder and projector.

    References:
      Chen et al., "A simple framework for contrastive learning of visual
      representations", ICML 2020.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        image = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
        params = {"encoder": encoder.init(keys[0], image)["params"]}

        maps = apply_plain(encoder, params["encoder"], image)
        flat = jnp.zeros_like(maps).reshape(1, -1)
        projecting, stats = init_with_stats({"projector": (projector, flat)}, keys[1])
        return {**params, **projecting}, {BATCH_STATS: stats}

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        train = key is not None
        trees = {**frozen, **params}
        views = jnp.concatenate([images[:, 0], images[:, 1]])

        maps = apply_plain(encoder, trees["encoder"], views)
        projected, stats = apply_with_stats(
            projector,
            "projector",
            trees,
            frozen[BATCH_STATS],
            maps.reshape(len(maps), -1),
            train=train,
        )
        logits = contrastive_logits(
            projected.astype(jnp.float32), temperature=options.temperature
        )

        total = jnp.mean(info_nce(logits))
        terms = {"accuracy": jnp.mean(contrast_accuracy(logits)), "total": total}
        shown = {"input": images[:, 0], "other_view": images[:, 1]}
        return total, Aux(terms, shown, carried_stats(stats, train=train))

    return Method(init, loss)


def _encoder(config: Config) -> EncoderFeatures:
    return EncoderFeatures(**network_options(config["model"], "image_size"))


def _build(config: Config, *, weights: bool) -> Method:
    del weights
    encoder = _encoder(config)
    projector = Projector(
        scaled(2048, encoder.width), scaled(512, encoder.width), encoder.dtype
    )
    options = record_from(SimclrOptions, config["loss"])
    return simclr(encoder, projector, options)._replace(views=_views(config))


def _views(config: Config) -> Views:
    """Two random crops of each image, with colours of their own."""
    options = config["augment"]
    colours = record_from(ColourOptions, options)

    def augment(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        made = cropped_views(
            key,
            batch["frames"][:, 0],
            size=config["model"]["image_size"],
            scale=tuple(options["scale"]),
            mirror_probability=options["mirror_probability"],
            colours=colours,
        )
        return normalise(made)

    return random_views(augment)


def _features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the maps of the encoder."""
    # They are maps already, and flattened where features are requested.
    del maps
    found: jax.Array = apply_plain(
        _encoder(config), trees["encoder"], normalise(images)
    )
    return found


SIMCLR = Peer(build=_build, features=_features)
