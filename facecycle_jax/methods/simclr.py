"""SimCLR on FaceCycle's encoder, the contrastive baseline.

Two views of an image against all other images.

Images [B, 2, H, W, 3], normalised, two views of one image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.losses import contrast_accuracy, info_nce, mixed_logits
from facecycle_jax.methods.base import (
    BATCH_STATS,
    Aux,
    Method,
    apply_plain,
    apply_with_stats,
    init_with_stats,
)
from facecycle_jax.networks import Tree
from facecycle_jax.networks.batch_norm import Projector
from facecycle_jax.networks.encoder import EncoderFeatures


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
        logits = mixed_logits(
            projected.astype(jnp.float32), temperature=options.temperature
        )

        total = jnp.mean(info_nce(logits))
        terms = {"accuracy": jnp.mean(contrast_accuracy(logits)), "total": total}
        shown = {"input": images[:, 0], "other_view": images[:, 1]}
        return total, Aux(terms, shown, {BATCH_STATS: stats} if train else {})

    return Method(init, loss)
