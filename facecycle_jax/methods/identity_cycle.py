"""Stage 2, the identity cycle, which removes a neutral face's identity and restores it.

All images are [2B, H, W, 3], normalised:

- X: the inputs.
- N, 'neutral': their neutral faces, from the frozen stage 1.
- M, 'mean_face': N without identity.
- 'batch_mean', [1, H, W, 3]: the mean of M over the whole batch, on all devices. With
  `optimiser.accumulate` above 1 that is a micro-batch.
- N', 'restored': neutral faces made from the batch mean.
- R, 'reconstruction': N' with motion restored by the generator.
- 'restored_warped_back': N' with motion restored by a warp.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.losses import (
    contrast_accuracy,
    contrastive_logits,
    fine_detail,
    info_nce,
    l1,
    margin,
    ssim_loss,
    symmetry,
)
from facecycle_jax.methods.base import (
    Aux,
    LossOptions,
    Method,
    WeightedTerms,
    exchange,
    flatten_pairs,
    weighted_total,
)
from facecycle_jax.methods.mean_alignment import align
from facecycle_jax.methods.perceptual_terms import perceptual_terms, stack_sets
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import (
    FaceFeatures,
    FaceNetworks,
    init_identity,
    init_motion,
)
from facecycle_jax.ops import warp


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentityLossOptions(LossOptions):
    """Weights and switches of the identity cycle, in addition to those of both cycles.

    Only the margin's options and `restore_motion` are in the paper; by default no other
    is used.

    Attributes:
      margin_weight: weight of the margin.
      margin: width of the margin, normalised units.
      margin_hinge: whether to cut the margin at 0 as the paper describes; the original
        program does not.
      restore_motion: whether restored faces also get their motion back and are compared
        with the inputs. Without it they are compared with the neutral faces alone,
        which needs no gradient of the generator.
      align_mean: whether neutral faces are warped smoothly onto the batch's mean face
        before the margin compares them with it, see `mean_alignment.align`. The mean
        face is then sharp.
      consensus_weight: weight of the L1 distance of each mean face to the mean of the
        batch. No other term makes mean faces alike.
      mean_detail_weight: weight of the detail of a pixel or two in the batch's mean
        face, see `losses.fine_detail`.
      exchange_identity: whether pairs are two images of one track instead of two
        people's. Each neutral face is then restored from the code of the other image,
        so that the code can hold only what both share.
      contrast_weight: weight of the contrast between identity codes, which pulls the
        codes of two images of one track together and pushes all others of the batch
        away. Items are then pairs of one track.
      contrast_temperature: divisor of its cosines.
    """

    margin_weight: float = 1.0
    margin: float = 0.1
    margin_hinge: bool = False
    restore_motion: bool = True
    align_mean: bool = False
    consensus_weight: float = 0.0
    mean_detail_weight: float = 0.0
    exchange_identity: bool = False
    contrast_weight: float = 0.0
    contrast_temperature: float = 0.1


# The options of what the cycle draws, which work with the generator only.
_DRAWN_OPTIONS = (
    "consensus_weight",
    "mean_detail_weight",
    "align_mean",
    "exchange_identity",
    "restore_motion",
    "margin_weight",
    "margin",
    "margin_hinge",
)


def identity_images(
    networks: FaceNetworks,
    trees: Mapping[str, Any],
    images: jax.Array,
    key: jax.Array | None,
    *,
    exchanged: bool = False,
) -> tuple[dict[str, jax.Array], FaceFeatures]:
    """Computes every image of the identity cycle.

    What the frozen networks make of the inputs carries no gradient. The mean face of
    the batch is one image, whose trunk maps are computed once for all identities.

    Args:
      networks: the networks.
      trees: parameters by network name, those of stage 1 among them.
      images: X, [2B, H, W, 3].
      key: random key of the generator's noise, or None.
      exchanged: whether identity is restored from the code of the other image of an
        item, which must then show the same person.

    Returns:
      The images by name ('batch_mean' is [1, H, W, 3]), and the maps of X.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))

    # X to N, by the frozen stage 1.
    code, flow, back = networks.motion(trees, images)
    of_images = networks.features(trees, images, for_loss=networks.vgg is not None)
    neutral = networks.generate(trees, of_images, flow, key=keys[0])
    of_neutral = networks.features(trees, neutral)
    code, flow, back, of_images, neutral, of_neutral = jax.lax.stop_gradient(
        (code, flow, back, of_images, neutral, of_neutral)
    )

    # N to M: remove the identity. Then the mean over the batch.
    identity = networks.identity_code(trees, images)
    without_identity = networks.remove_identity(trees, of_neutral, identity)
    batch_mean = jnp.mean(without_identity, axis=0, keepdims=True)
    of_mean = networks.features(trees, batch_mean)

    # The batch mean to N': restore the identity.
    restoring = exchange(identity) if exchanged else identity
    restored = networks.restore_identity(trees, of_mean, restoring)
    of_restored = networks.features(trees, restored)

    by_name = {
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
        "reconstruction": networks.generate(trees, of_restored, back, key=keys[1]),
    }
    return by_name, of_images


def identity_cycle(
    networks: FaceNetworks,
    vgg: Tree | None,
    options: IdentityLossOptions = IdentityLossOptions(),
) -> Method:
    """Builds the identity cycle.

    Args:
      networks: the networks.
      vgg: the VGG-19's parameters, or None where none is used.
      options: loss weights and switches.

    Returns:
      The method. It trains identity_encoder and normaliser; without
      `options.generator` only the first, by contrast alone. `init` draws the frozen
      networks of stage 1 at random; training replaces them by those of a stage 1 run.

    Raises:
      UserError: If nothing would be trained: no generator and no contrast. If an option
        of what is drawn is set without the generator. Or if there is a perceptual loss,
        and no image for it.

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """
    if not options.generator:
        if not options.contrast_weight:
            raise UserError(
                "loss.generator=False trains the identity encoder by contrast alone: "
                "set loss.contrast_weight above 0, or leave loss.generator out."
            )
        for name in _DRAWN_OPTIONS:
            if getattr(options, name) != getattr(IdentityLossOptions, name):
                raise UserError(
                    f"loss.{name} is for what the generator draws, which "
                    "loss.generator=False leaves out: leave one of them out."
                )
        return _identity_contrast(networks, options)
    if not options.restore_motion and options.perceptual != "none":
        raise UserError(
            "loss.restore_motion=False leaves no image for the perceptual loss: set "
            "loss.perceptual=none, or leave loss.restore_motion out."
        )

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        frozen = init_motion(networks, keys[0])
        if vgg is not None:
            frozen["vgg"] = vgg
        return init_identity(networks, keys[1]), frozen

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        trees = {**frozen, **params}
        x = flatten_pairs(images)
        noise_key = key if options.noise else None
        outputs, of_x = identity_images(
            networks, trees, x, noise_key, exchanged=options.exchange_identity
        )

        terms = {
            **_restored_terms(outputs, options),
            **_mean_face_terms(outputs, options),
        }
        if options.restore_motion:
            terms |= _motion_terms(x, outputs, options)
        if options.contrast_weight:
            terms |= _contrast_terms(outputs["identity_code"], options)
        if options.perceptual != "none":
            sets = [outputs["restored_warped_back"], outputs["reconstruction"]]
            maps = networks.loss_features(trees, stack_sets(sets))
            terms |= perceptual_terms([maps], of_x.loss, options)

        total, reported = weighted_total(terms)
        return total, Aux(reported, outputs)

    return Method(init, loss)


def _restored_terms(
    outputs: Mapping[str, jax.Array], options: IdentityLossOptions
) -> WeightedTerms:
    """Compares restored faces with the neutral faces, before motion comes back.

    Args:
      outputs: images by name, as `identity_images` names them.
      options: weights and switches.

    Returns:
      (weight, value) by name.
    """
    distance = l1(outputs["restored"], outputs["neutral"])
    asymmetry = symmetry(outputs["restored"])
    return {
        "l1/restored": (options.pixel_weight, distance),
        "symmetry/restored": (options.symmetry_weight, asymmetry),
    }


def _mean_face_terms(
    outputs: Mapping[str, jax.Array], options: IdentityLossOptions
) -> WeightedTerms:
    """Computes the margin, and the terms of mean faces that are not in the paper.

    Arguments and result are those of `_restored_terms`.
    """
    compared = outputs["neutral"]
    if options.align_mean:
        compared = align(compared, outputs["batch_mean"])
    beyond = margin(
        outputs["batch_mean"],
        compared,
        width=options.margin,
        hinge=options.margin_hinge,
    )

    terms: WeightedTerms = {"margin": (options.margin_weight, beyond)}
    if options.consensus_weight:
        distance = l1(outputs["mean_face"], outputs["batch_mean"])
        terms["l1/consensus"] = (options.consensus_weight, distance)
    if options.mean_detail_weight:
        detail = fine_detail(outputs["batch_mean"])
        terms["detail/mean_face"] = (options.mean_detail_weight, detail)
    return terms


def _motion_terms(
    x: jax.Array, outputs: Mapping[str, jax.Array], options: IdentityLossOptions
) -> WeightedTerms:
    """Compares restored faces that have their motion back with the inputs."""
    terms: WeightedTerms = {}
    for name, factor in (("reconstruction", 1.0), ("restored_warped_back", 0.8)):
        image = outputs[name]
        unlike = ssim_loss(x, image, value_range=options.ssim_range)
        terms[f"l1/{name}"] = (factor * options.pixel_weight, l1(image, x))
        terms[f"ssim/{name}"] = (factor * options.ssim_weight, unlike)
    return terms


def _identity_contrast(networks: FaceNetworks, options: IdentityLossOptions) -> Method:
    """Builds the part of the identity cycle that only compares codes.

    It draws nothing, so batches can be large. A later stage with the normaliser goes on
    from its encoder.
    """

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        # The same draw as that of the whole cycle.
        _, identity_key = jax.random.split(key)
        trees = init_identity(networks, identity_key)
        return {"identity_encoder": trees["identity_encoder"]}, {}

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        del frozen, key
        x = flatten_pairs(images)
        code = networks.identity_code(params, x)

        total, reported = weighted_total(_contrast_terms(code, options))
        return total, Aux(reported, {"input": x})

    return Method(init, loss)


def _contrast_terms(code: jax.Array, options: IdentityLossOptions) -> WeightedTerms:
    """Compares the codes of the two images of an item with those of all other items.

    Args:
      code: identity codes, [2B, D], the two images of an item next to each other.
      options: weight and temperature.

    Returns:
      (weight, value) of the loss, and of the share of images whose nearest code is that
      of the other image of their item.
    """
    # First images before second ones.
    views = jnp.swapaxes(code.reshape(-1, 2, code.shape[-1]), 0, 1)
    logits = contrastive_logits(
        views.reshape(code.shape).astype(jnp.float32),
        temperature=options.contrast_temperature,
    )

    return {
        "contrast/identity": (options.contrast_weight, info_nce(logits)),
        # A metric, not a loss.
        "contrast/accuracy": (0.0, contrast_accuracy(logits)),
    }
