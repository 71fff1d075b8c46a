"""Stage 2, the identity cycle: remove a neutral face's identity, put it back.

X: all pictures; N: their neutral faces from the frozen stage 1; M: faces without
identity; M_bar: the mean of M over the whole (global) batch; N': neutral faces made
from M_bar; R: their motion put back by the generator, Nb by a warp. Pictures [2B, H, W,
3], normalised.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.losses import l1, margin, ssim_loss, symmetry
from facecycle_jax.methods.base import (
    Aux,
    LossOptions,
    Method,
    exchange,
    weighted_total,
)
from facecycle_jax.methods.perceptual_terms import perceptual_terms, stack_sets
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import (
    FaceFeatures,
    FaceNetworks,
    init_identity,
    init_motion,
)
from facecycle_jax.ops import warp


def identity_pictures(
    forward: FaceNetworks,
    trees: Mapping[str, Any],
    images: jax.Array,
    key: jax.Array | None,
    *,
    exchanged: bool = False,
) -> tuple[dict[str, jax.Array], FaceFeatures]:
    """Computes every picture of the identity cycle.

    What the frozen networks make of the inputs carries no gradient. The mean face is
    one picture: its trunk maps are computed once, for all identities.

    Args:
      forward: the networks.
      trees: parameters by network name, those of stage 1 among them.
      images: X, [2B, H, W, 3].
      key: random key of the generator's noise, or None.
      exchanged: whether identity is put back from the code of the other picture of an
        item, which must then show the same person.

    Returns:
      The pictures by name ('batch_mean' is [1, H, W, 3]), and the maps of X.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    code, flow, back = forward.motion(trees, images)
    of_images = forward.features(trees, images, for_loss=forward.vgg is not None)
    neutral = forward.draw(trees, of_images, flow, key=keys[0])
    of_neutral = forward.features(trees, neutral)
    code, flow, back, of_images, neutral, of_neutral = jax.lax.stop_gradient(
        (code, flow, back, of_images, neutral, of_neutral)
    )
    identity = forward.identity_code(trees, images)
    without_identity = forward.remove_identity(trees, of_neutral, identity)
    batch_mean = jnp.mean(without_identity, axis=0, keepdims=True)
    of_mean = forward.features(trees, batch_mean)
    restoring = exchange(identity) if exchanged else identity
    restored = forward.restore_identity(trees, of_mean, restoring)
    of_restored = forward.features(trees, restored)
    pictures = {
        "input": images,
        "code": code,
        "identity_code": identity,
        "flow": flow,
        "backward_flow": back,
        "neutral": neutral,
        "mean_face": without_identity,
        "batch_mean": batch_mean,
        "restored": restored,
        "restored_warped_back": warp(restored, back, clamp=True),
        "reconstruction": forward.draw(trees, of_restored, back, key=keys[1]),
    }
    return pictures, of_images


def identity_cycle(
    forward: FaceNetworks, vgg: Tree | None, options: LossOptions
) -> Method:
    """Builds the identity cycle.

    Args:
      forward: the networks.
      vgg: the VGG-19's parameters, or None where none is used.
      options: loss weights and switches.

    Returns:
      The method; trains identity_encoder and normaliser. `init` draws the frozen
      networks of stage 1 at random: training replaces them by those of a stage 1 run.

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        frozen = init_motion(forward, keys[0])
        if vgg is not None:
            frozen["vgg"] = vgg
        return init_identity(forward, keys[1]), frozen

    def loss(
        params: Tree, frozen: Tree, pictures: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        trees = {**frozen, **params}
        x = pictures.reshape(-1, *pictures.shape[2:])
        key = key if options.noise else None
        p, of_x = identity_pictures(
            forward, trees, x, key, exchanged=options.exchange_identity
        )

        def dissimilarity(name: str) -> jax.Array:
            return ssim_loss(x, p[name], value_range=options.ssim_range)

        terms = {
            "l1/reconstruction": l1(p["reconstruction"], x),
            "l1/restored_warped_back": l1(p["restored_warped_back"], x),
            "l1/restored": l1(p["restored"], p["neutral"]),
            "ssim/reconstruction": dissimilarity("reconstruction"),
            "ssim/restored_warped_back": dissimilarity("restored_warped_back"),
            "symmetry/restored": symmetry(p["restored"]),
            "margin": margin(
                p["batch_mean"],
                p["neutral"],
                width=options.margin,
                hinge=options.margin_hinge,
            ),
        }
        if options.consensus_weight:
            terms["l1/consensus"] = l1(p["mean_face"], p["batch_mean"])
        if options.perceptual != "none":
            sets = [p["restored_warped_back"], p["reconstruction"]]
            maps = forward.loss_features(trees, stack_sets(sets))
            terms |= perceptual_terms([maps], of_x.loss, options)
        terms = {name: jnp.mean(value) for name, value in terms.items()}
        total = weighted_total(terms, _weights(options))
        return total, Aux({**terms, "total": total}, p)

    return Method(init, loss)


def _weights(options: LossOptions) -> dict[str, float]:
    """Weight of every term of the identity cycle."""
    pixel, ssim = options.pixel_weight, options.ssim_weight
    weights = {
        "l1/reconstruction": pixel,
        "l1/restored_warped_back": 0.8 * pixel,
        "l1/restored": pixel,
        "ssim/reconstruction": ssim,
        "ssim/restored_warped_back": 0.8 * ssim,
        "symmetry/restored": options.symmetry_weight,
        "margin": options.margin_weight,
    }
    if options.consensus_weight:
        weights["l1/consensus"] = options.consensus_weight
    if options.perceptual != "none":
        for tap in ("conv2_1", "conv3_1", "conv4_1"):
            weights[f"{options.perceptual}/{tap}"] = options.perceptual_weight
    return weights
