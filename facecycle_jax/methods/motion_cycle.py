"""Stage 1, the motion cycle: remove a face's motion, put it back.

A batch holds two pictures per item, of one person. X: all pictures; N: neutral faces;
R: faces with their motion put back onto the *other* picture's neutral face; A: redrawn
without motion; W: the picture itself warped; b: warped back. Pictures [2B, H, W, 3],
normalised, the two of an item side by side.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.losses import folding, l1, saturation, ssim_loss, symmetry
from facecycle_jax.methods.base import (
    Aux,
    LossOptions,
    Method,
    exchange,
    weighted_total,
)
from facecycle_jax.methods.perceptual_terms import perceptual_terms, stack_sets
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceFeatures, FaceNetworks, init_motion
from facecycle_jax.ops import warp

# What is trained without the generator.
FLOW_NETWORKS = ("motion_encoder", "flow_decoder")


def motion_pictures(
    forward: FaceNetworks,
    trees: Mapping[str, Any],
    images: jax.Array,
    key: jax.Array | None,
) -> tuple[dict[str, jax.Array], FaceFeatures, FaceFeatures]:
    """Computes every picture of the motion cycle.

    The trunk runs once over the inputs and once over the neutral faces; the exchange is
    done on its maps, so exchanged pictures cost no second pass.

    Args:
      forward: the networks.
      trees: parameters by network name.
      images: X, [2B, H, W, 3].
      key: random key of the generator's noise, or None.

    Returns:
      The pictures by name, the maps of X, the maps of N.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    for_loss = forward.vgg is not None
    code, flow, back = forward.motion(trees, images)
    of_images = forward.features(trees, images, for_loss=for_loss)
    neutral = forward.draw(trees, of_images, flow, key=keys[0])
    of_neutral = forward.features(trees, neutral, for_loss=for_loss)
    exchanged = FaceFeatures(jax.tree.map(exchange, of_neutral.trunk), {})
    warped = warp(images, flow, clamp=True)
    pictures = {
        "input": images,
        "code": code,
        "flow": flow,
        "backward_flow": back,
        "neutral": neutral,
        "reconstruction": forward.draw(trees, exchanged, back, key=keys[1]),
        "autoencoded": forward.draw(trees, of_images, None),
        "warped": warped,
        "warped_back": warp(exchange(warped), back, clamp=True),
        "neutral_warped_back": warp(exchange(neutral), back, clamp=True),
    }
    return pictures, of_images, of_neutral


def flow_pictures(
    forward: FaceNetworks, trees: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    """Computes the images of the motion cycle that need no generator.

    Args:
      forward: the networks.
      trees: parameters by network name; motion_encoder and flow_decoder are used.
      images: X, [2B, H, W, 3].

    Returns:
      The images by name, as `motion_pictures` names them.
    """
    code, flow, back = forward.motion(trees, images)
    warped = warp(images, flow, clamp=True)
    return {
        "input": images,
        "code": code,
        "flow": flow,
        "backward_flow": back,
        "warped": warped,
        "warped_back": warp(exchange(warped), back, clamp=True),
    }


def motion_cycle(
    forward: FaceNetworks, vgg: Tree | None, options: LossOptions
) -> Method:
    """Builds the motion cycle.

    Args:
      forward: the networks.
      vgg: the VGG-19's parameters, or None where none is used.
      options: loss weights and switches.

    Returns:
      The method; trains motion_encoder, flow_decoder, generator and, if learned, trunk.
      Without `options.generator` it trains the first two.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    if not options.generator:
        return _flow_cycle(forward, options)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        return init_motion(forward, key), {} if vgg is None else {"vgg": vgg}

    def loss(
        params: Tree, frozen: Tree, pictures: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        trees = {**frozen, **params}
        x = pictures.reshape(-1, *pictures.shape[2:])
        p, of_x, of_neutral = motion_pictures(
            forward, trees, x, key if options.noise else None
        )

        def dissimilarity(name: str) -> jax.Array:
            return ssim_loss(x, p[name], value_range=options.ssim_range)

        terms = {
            "l1/reconstruction": l1(p["reconstruction"], x),
            "l1/autoencoded": l1(p["autoencoded"], x),
            "l1/neutral_warped_back": l1(p["neutral_warped_back"], x),
            "l1/warped_back": l1(p["warped_back"], x),
            "ssim/reconstruction": dissimilarity("reconstruction"),
            "ssim/autoencoded": dissimilarity("autoencoded"),
            "ssim/warped_back": dissimilarity("warped_back"),
            "symmetry/neutral": symmetry(p["neutral"]),
            "symmetry/warped": symmetry(p["warped"]),
        }
        if options.folding_weight:
            terms["folding/flow"] = folding(p["flow"])
        if options.saturation_weight:
            terms["saturation/code"] = saturation(p["code"])
        if options.perceptual != "none":
            # One pass over the three sets whose maps are not known yet.
            sets = [p["neutral_warped_back"], p["warped_back"], p["reconstruction"]]
            maps = forward.loss_features(trees, stack_sets(sets))
            terms |= perceptual_terms([of_neutral.loss, maps], of_x.loss, options)
        terms = {name: jnp.mean(value) for name, value in terms.items()}
        total = weighted_total(terms, _weights(options))
        return total, Aux({**terms, "total": total}, p)

    return Method(init, loss)


def _flow_cycle(forward: FaceNetworks, options: LossOptions) -> Method:
    """Builds the part of the motion cycle that only warps.

    No generator, no trunk, no Gram loss.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        trees = init_motion(forward, key)
        return {name: trees[name] for name in FLOW_NETWORKS}, {}

    def loss(
        params: Tree, frozen: Tree, pictures: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        del frozen, key
        x = pictures.reshape(-1, *pictures.shape[2:])
        p = flow_pictures(forward, params, x)

        terms = {
            "l1/warped_back": l1(p["warped_back"], x),
            "ssim/warped_back": ssim_loss(
                x, p["warped_back"], value_range=options.ssim_range
            ),
            "symmetry/warped": symmetry(p["warped"]),
        }
        if options.folding_weight:
            terms["folding/flow"] = folding(p["flow"])
        if options.saturation_weight:
            terms["saturation/code"] = saturation(p["code"])
        terms = {name: jnp.mean(value) for name, value in terms.items()}

        # The weights of the whole cycle, so that a later stage with the generator goes
        # on from here.
        weights = _weights(options)
        total = weighted_total(terms, {name: weights[name] for name in terms})
        return total, Aux({**terms, "total": total}, p)

    return Method(init, loss)


def _weights(options: LossOptions) -> dict[str, float]:
    """Weight of every term of the motion cycle."""
    pixel, ssim, symmetry_ = (
        options.pixel_weight,
        options.ssim_weight,
        options.symmetry_weight,
    )
    weights = {
        "l1/reconstruction": pixel,
        "l1/autoencoded": pixel,
        "l1/neutral_warped_back": pixel,
        "l1/warped_back": 1.5 * pixel,
        "ssim/reconstruction": ssim,
        "ssim/autoencoded": ssim,
        "ssim/warped_back": 1.5 * ssim,
        "symmetry/neutral": symmetry_,
        "symmetry/warped": 0.5 * symmetry_,
    }
    if options.folding_weight:
        weights["folding/flow"] = options.folding_weight
    if options.saturation_weight:
        weights["saturation/code"] = options.saturation_weight
    if options.perceptual != "none":
        for tap in ("conv2_1", "conv3_1", "conv4_1"):
            weights[f"{options.perceptual}/{tap}"] = options.perceptual_weight
    return weights
