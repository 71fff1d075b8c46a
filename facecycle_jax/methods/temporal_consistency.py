"""Temporal consistency.

The farther a frame in time, the farther its embedding from the anchor's.

A batch holds n frames per item, in order of time: the anchor, its sibling and the
followers. Images [B, n, H, W, 3], normalised by ImageNet's mean and standard deviation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import (
    BATCH_STATS,
    Aux,
    Method,
    apply_with_stats,
    carried_stats,
    init_with_stats,
    record_from,
)
from facecycle_jax.methods.peer_base import (
    Config,
    Peer,
    encode,
    network_options,
    random_crops,
)
from facecycle_jax.networks import TemporalEncoder, Tree, read_resnet18_npz
from facecycle_jax.ops import at_least_float32, normalise


class TemporalOptions(NamedTuple):
    """Switches of the loss.

    Attributes:
      margin: by which a frame is to be farther from the anchor than the frame before
        it, in squared distances of unit vectors.
    """

    margin: float = 0.03


def temporal_embeddings(
    encoder: TemporalEncoder,
    trees: Tree,
    stats: Tree,
    images: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, Tree]:
    """Encodes anchors, siblings and followers.

    These are three passes, each a batch of its own to the normalisation, as in the
    published program.

    Args:
      encoder: the network.
      trees: parameters by network name.
      stats: running statistics by network name.
      images: [B, n, H, W, 3], normalised, in order of time.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      Embeddings [B, n, D] of unit length, and the statistics after it.
    """
    items, frames = images.shape[:2]
    parts = []
    for part in (images[:, :1], images[:, 1:2], images[:, 2:]):
        flat = part.reshape(-1, *part.shape[2:])
        (embedding, _), stats = apply_with_stats(
            encoder, "encoder", trees, stats, flat, train=train
        )
        parts.append(embedding.reshape(items, -1, embedding.shape[-1]))
    found = jnp.concatenate(parts, axis=1)
    assert found.shape[1] == frames
    return found, stats


def temporal_hinges(
    embeddings: jax.Array, *, margin: float
) -> tuple[jax.Array, jax.Array]:
    """Compares each frame with the next.

    Args:
      embeddings: [B, n, D] of unit length, the anchor first.
      margin: see `TemporalOptions`.

    Returns:
      Hinges [B, n - 2] and squared distances to the anchor [B, n - 1].
    """
    # Distances of near vectors would be lost in bfloat16.
    embeddings = at_least_float32(embeddings)
    anchor = embeddings[:, :1]
    distances = jnp.sum(jnp.square(embeddings[:, 1:] - anchor), axis=-1)
    hinges = jnp.maximum(0.0, distances[:, :-1] - distances[:, 1:] + margin)
    return hinges, distances


def temporal_consistency(
    encoder: TemporalEncoder,
    options: TemporalOptions,
    *,
    trunk: Callable[[], tuple[Tree, Tree]] | None = None,
) -> Method:
    """Builds temporal consistency.

    Args:
      encoder: the network.
      options: switches of the loss.
      trunk: returns the parameters and statistics of ResNet-18 to start from,
        ImageNet's as published; None: random ones.

    Returns:
      The method; trains encoder.

    References:
      Lu et al., "Self-supervised learning for facial action unit recognition through
      temporal consistency", BMVC 2020.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = init_with_stats(
            {"encoder": (encoder, jnp.zeros((1, 64, 64, 3)))}, key
        )
        if trunk is not None:
            given_params, given_stats = trunk()
            params = {"encoder": {**params["encoder"], **given_params}}
            stats = {"encoder": {**stats["encoder"], **given_stats}}
        return params, {BATCH_STATS: stats}

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        train = key is not None
        trees = {**frozen, **params}
        embeddings, stats = temporal_embeddings(
            encoder, trees, frozen[BATCH_STATS], images, train=train
        )

        # The hinges of an item are added up, those of items averaged.
        hinges, distances = temporal_hinges(embeddings, margin=options.margin)
        total = jnp.mean(jnp.sum(hinges, axis=1))

        right = distances[:, 1:] > distances[:, :-1]
        terms = {
            "ranking_accuracy": jnp.mean(right.astype(jnp.float32)),
            "total": total,
        }
        frames = images.shape[1]
        shown = {
            "input": images[:, 0],
            "sibling": images[:, 1],
            "middle": images[:, frames // 2],
            "last": images[:, -1],
        }
        return total, Aux(terms, shown, carried_stats(stats, train=train))

    return Method(init, loss)


def _encoder(config: Config) -> TemporalEncoder:
    return TemporalEncoder(**network_options(config["model"], "code_dim"))


def _build(config: Config, *, weights: bool) -> Method:
    encoder = _encoder(config)
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
    options = record_from(TemporalOptions, config["loss"])
    method = temporal_consistency(encoder, options, trunk=trunk if from_file else None)
    return method._replace(views=random_crops(config, normalised=True))


def _features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the embedding of unit length, or the map below it."""
    encoder = _encoder(config)
    embedding, below = encode(encoder, trees, normalise(images), maps=maps)
    found: jax.Array = below if maps else embedding
    return found


TEMPORAL_CONSISTENCY = Peer(
    build=_build,
    features=_features,
    frames=(3, math.inf),
    # Frames are compared with those of their own track alone.
    compares_items=False,
)
