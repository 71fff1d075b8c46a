"""FAb-Net.

Reconstructs a frame by warping others of its track, from embeddings of both.

A batch holds n frames per item, of one track: the target first, then one source or
several. Images [B, n, H, W, 3] in 0..1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.losses import l1, windowed_mean
from facecycle_jax.methods.base import (
    BATCH_STATS,
    Aux,
    Method,
    apply_with_stats,
    carried_stats,
    record_from,
)
from facecycle_jax.methods.curriculum import (
    current_window,
    curriculum_of,
    init_of_pairs,
    move_with_evaluation,
)
from facecycle_jax.methods.peer_base import (
    Config,
    Peer,
    encode,
    network_options,
    random_crops,
)
from facecycle_jax.networks import FabNet, Tree, build_fab_net
from facecycle_jax.ops import clipped_grid, grid_sample, normalise, pixels_to_unit


class FabNetOptions(NamedTuple):
    """Switches of the loss.

    Attributes:
      curriculum: average the window of ranks that the curriculum has come to; otherwise
        all items.
    """

    curriculum: bool = True


class FabNetImages(NamedTuple):
    """What one forward pass computes; S sources an item.

    Attributes:
      target_embedding: [B, D].
      source_embeddings: [B, S, D].
      flows: [B, S, H, W, 2] in (-1, 1).
      grids: [B, S, H, W, 2], where the sources are sampled.
      mask_logits: [B, S, H, W, 1] in (-1, 1).
      weights: [B, S, H, W, 1], which add up to 1 over the sources.
      warped: [B, S, H, W, 3].
      combined: [B, H, W, 3], the reconstruction of the target.
    """

    target_embedding: jax.Array
    source_embeddings: jax.Array
    flows: jax.Array
    grids: jax.Array
    mask_logits: jax.Array
    weights: jax.Array
    warped: jax.Array
    combined: jax.Array


def fab_net_images(
    networks: FabNet, trees: Tree, stats: Tree, images: jax.Array, *, train: bool
) -> tuple[FabNetImages, Tree]:
    """Reconstructs targets from sources.

    The target and each source pass the encoder separately, and each source's pair the
    decoders: each pass is a batch of its own to the normalisation, as in the published
    program.

    Args:
      networks: the modules.
      trees: parameters by network name.
      stats: running statistics by network name.
      images: [B, 1 + S, H, W, 3] in 0..1, the target first.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      The embeddings, maps and images, and the statistics after it.
    """
    embeddings = []
    for number in range(images.shape[1]):
        embedding, stats = apply_with_stats(
            networks.encoder, "encoder", trees, stats, images[:, number], train=train
        )
        embeddings.append(embedding)
    target, sources = embeddings[0], embeddings[1:]

    flows, masks = [], []
    for source in sources:
        # The source comes first.
        both = jnp.concatenate([source, target], axis=-1)
        mask, stats = apply_with_stats(
            networks.mask_decoder, "mask_decoder", trees, stats, both, train=train
        )
        flow, stats = apply_with_stats(
            networks.flow_decoder, "flow_decoder", trees, stats, both, train=train
        )
        masks.append(mask)
        flows.append(flow)

    flow = jnp.stack(flows, axis=1).astype(jnp.float32)
    logits = jnp.stack(masks, axis=1).astype(jnp.float32)
    grids = clipped_grid(flow)
    warped = grid_sample(images[:, 1:], grids, align_corners=True)

    # Each pixel is a mean of the warped sources, weighted by a softmax of the masks.
    weights = jax.nn.softmax(logits, axis=1)
    combined = jnp.sum(weights * warped, axis=1)
    result = FabNetImages(
        target_embedding=target,
        source_embeddings=jnp.stack(sources, axis=1),
        flows=flow,
        grids=grids,
        mask_logits=logits,
        weights=weights,
        warped=warped,
        combined=combined,
    )
    return result, stats


def fab_net(networks: FabNet, options: FabNetOptions) -> Method:
    """Builds FAb-Net.

    With several sources the published program keeps the flow decoder as it is: start
    from a run with one source and set `freeze=("flow_decoder",)`. Its running
    statistics move all the same.

    Args:
      networks: the modules.
      options: switches of the loss.

    Returns:
      The method; trains encoder, flow_decoder and mask_decoder.

    References:
      Wiles et al., "Self-supervised learning of a facial attribute embedding from
      video", BMVC 2018.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        decoders = {
            "flow_decoder": networks.flow_decoder,
            "mask_decoder": networks.mask_decoder,
        }
        return init_of_pairs(networks.encoder, decoders, key)

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        train = key is not None
        trees = {**frozen, **params}
        found, stats = fab_net_images(
            networks, trees, frozen[BATCH_STATS], images, train=train
        )

        error = l1(found.combined, images[:, 0])
        windowed = train and options.curriculum
        if windowed:
            total = windowed_mean(error, current_window(frozen, len(error)))
        else:
            total = jnp.mean(error)

        terms = {"l1/reconstruction": jnp.mean(error), "total": total}
        if windowed:
            terms["window"] = curriculum_of(frozen).window.astype(jnp.float32)
        shown = {
            "input": normalise(images[:, 0]),
            "source": normalise(images[:, 1]),
            "flow": found.flows[:, 0],
            "warped": normalise(found.warped[:, 0]),
            "reconstruction": normalise(found.combined),
        }
        carried = carried_stats(stats, train=train)
        return total, Aux(terms, shown, carried, curriculum_of(frozen).rate)

    return Method(
        init,
        loss,
        after_evaluation=move_with_evaluation if options.curriculum else None,
    )


def _networks(config: Config) -> FabNet:
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    return build_fab_net(**options)


def _build(config: Config, *, weights: bool) -> Method:
    del weights
    options = record_from(FabNetOptions, config["loss"])
    method = fab_net(_networks(config), options)
    return method._replace(views=random_crops(config, normalised=False))


def _features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the embedding, or the map below it."""
    encoder = _networks(config).encoder
    found: jax.Array = encode(encoder, trees, pixels_to_unit(images), maps=maps)
    return found


FAB_NET = Peer(build=_build, features=_features, frames=(2, math.inf))
