"""Stage 1, the motion cycle, which removes a face's motion and restores it.

An item of a batch is two images of one person. All images are [2B, H, W, 3],
normalised, the two of an item next to each other:

- X: the inputs.
- N, 'neutral': X without its motion, drawn by the generator.
- R, 'reconstruction': X's motion restored on the neutral face of the *other* image,
  or of X itself without `exchange_motion`.
- A, 'autoencoded': X drawn again without a flow.
- W, 'warped': X itself warped to be neutral.
- 'warped_back' and 'neutral_warped_back': W and N of that image, warped back.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.losses import (
    bending,
    folding,
    l1,
    mean_flow,
    saturation,
    ssim_loss,
    symmetry,
)
from facecycle_jax.methods.base import (
    START,
    Aux,
    LossOptions,
    Method,
    WeightedTerms,
    exchange,
    flatten_pairs,
    weighted_total,
)
from facecycle_jax.methods.motion_features import histogram_term, kept_term
from facecycle_jax.methods.perceptual_terms import perceptual_terms, stack_sets
from facecycle_jax.methods.turned_heads import frontal_term, turned_term
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceFeatures, FaceNetworks, init_motion
from facecycle_jax.ops import adaptive_average_pool, warp

# The networks that are trained without the generator.
FLOW_NETWORKS = ("motion_encoder", "flow_decoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionLossOptions(LossOptions):
    """Weights and switches of the motion cycle, in addition to those of both cycles.

    Only `autoencoding` and `exchange_motion` are in the paper; by default no other is
    used.

    Attributes:
      autoencoding: whether the generator also makes each image of its own maps. With
        `model.image_skip` that is not a task.
      exchange_motion: whether an image's motion is restored on the neutral face of the
        other image, as in the paper, or on that of the image itself. The second way
        needs frozen flows (`freeze`), because flows that move nothing would solve it.
        With the generator only.
      folding_weight: weight of `losses.folding`, which keeps flows invertible.
      bending_weight: weight of `losses.bending`, which keeps flows smooth.
      mean_flow_weight: weight of `losses.mean_flow` over the whole batch on all
        devices, or over a micro-batch with `optimiser.accumulate` above 1. It keeps
        faces where they are on average.
      saturation_weight: weight of `losses.saturation` of motion codes, which keeps
        their final tanh out of its flat parts.
      agreement_weight: weight of the L1 distance between the neutral faces of the two
        images of an item. Without the generator, both are warped images. With it, the
        generated neutral face of one image is compared with the other image, warped,
        which gets no gradient.
      warped_weight: weight of the L1 distance of neutral faces to the warped inputs,
        where the flow points into the image. Without it the generator blurs what
        differs between two images. With the generator only.
      turn_weight: weight of `turned_heads.turned_term`, which teaches the flows of
        heads that a warp has turned. This, `frontal_weight` and `keep_weight` take
        targets from a teacher: the networks that the run starts from. This and all
        options below: without the generator only.
      frontal_weight: weight of `turned_heads.frontal_term`, which teaches the flows
        that make faces symmetric.
      histogram_weight: weight of `motion_features.histogram_term`, which has the motion
        encoder's last map predict local histograms of gradients.
      keep_weight: weight of `motion_features.kept_term`, which keeps flows near the
        teacher's.
      keep_features: whether the motion encoder's convolutions stay as they are, so that
        only its two dense layers are trained.
      flow_side: side in pixels of the images that are warped and compared; 0: as they
        are. The encoder sees whole images in any case.
    """

    autoencoding: bool = True
    exchange_motion: bool = True
    folding_weight: float = 0.0
    bending_weight: float = 0.0
    mean_flow_weight: float = 0.0
    saturation_weight: float = 0.0
    agreement_weight: float = 0.0
    warped_weight: float = 0.0
    turn_weight: float = 0.0
    frontal_weight: float = 0.0
    histogram_weight: float = 0.0
    keep_weight: float = 0.0
    keep_features: bool = False
    flow_side: int = 0


# The options that work without the generator only.
_FLOW_OPTIONS = (
    "flow_side",
    "turn_weight",
    "frontal_weight",
    "histogram_weight",
    "keep_weight",
    "keep_features",
)


def motion_images(
    networks: FaceNetworks,
    trees: Mapping[str, Any],
    images: jax.Array,
    key: jax.Array | None,
    *,
    exchanged: bool = True,
) -> tuple[dict[str, jax.Array], FaceFeatures, FaceFeatures]:
    """Computes every image of the motion cycle.

    The trunk runs once over the inputs and once over the neutral faces. Its maps are
    exchanged instead of the images, so that the exchange costs no second pass.

    Args:
      networks: the networks.
      trees: parameters by network name.
      images: X, [2B, H, W, 3].
      key: random key of the generator's noise, or None.
      exchanged: whether the motion is restored on the other image's neutral face;
        otherwise on the image's own.

    Returns:
      The images by name, the maps of X, the maps of N.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    for_loss = networks.vgg is not None

    # X to N: remove the motion.
    code, flow, back = networks.motion(trees, images)
    of_images = networks.features(trees, images, for_loss=for_loss)
    neutral = networks.generate(trees, of_images, flow, key=keys[0])
    of_neutral = networks.features(trees, neutral, for_loss=for_loss)

    # The neutral face to restore the motion on.
    partner = exchange if exchanged else lambda x: x
    of_partner = FaceFeatures(jax.tree.map(partner, of_neutral.trunk), {})
    warped = warp(images, flow, clamp=True)

    by_name = {
        "input": images,
        "code": code,
        "flow": flow,
        "backward_flow": back,
        "neutral": neutral,
        "reconstruction": networks.generate(trees, of_partner, back, key=keys[1]),
        "autoencoded": networks.generate(trees, of_images, None),
        "warped": warped,
        "warped_back": warp(partner(warped), back, clamp=True),
        "neutral_warped_back": warp(partner(neutral), back, clamp=True),
    }
    return by_name, of_images, of_neutral


def flow_images(
    networks: FaceNetworks, trees: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    """Computes the images of the motion cycle that need no generator.

    Args:
      networks: the networks.
      trees: parameters by network name; motion_encoder and flow_decoder are used.
      images: X, [2B, H, W, 3].

    Returns:
      The images by name, as `motion_images` names them.
    """
    code, flow, back = networks.motion(trees, images)
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
    networks: FaceNetworks,
    vgg: Tree | None,
    options: MotionLossOptions = MotionLossOptions(),
) -> Method:
    """Builds the motion cycle.

    Args:
      networks: the networks.
      vgg: the VGG-19's parameters, or None where none is used.
      options: loss weights and switches.

    Returns:
      The method. It trains motion_encoder, flow_decoder, generator and, if learned,
      trunk; without `options.generator` only the first two.

    Raises:
      UserError: If an option that works without the generator alone is set with it, or
        one that needs the generator without it.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    if not options.generator:
        return _flow_cycle(networks, options)
    for name in _FLOW_OPTIONS:
        if getattr(options, name):
            raise UserError(
                f"loss.{name} is for training flows alone: set loss.generator=False, "
                f"or leave loss.{name} out."
            )

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        return init_motion(networks, key), {} if vgg is None else {"vgg": vgg}

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        trees = {**frozen, **params}
        x = flatten_pairs(images)
        noise_key = key if options.noise else None
        outputs, of_x, of_neutral = motion_images(
            networks, trees, x, noise_key, exchanged=options.exchange_motion
        )

        terms = {
            **_drawn_terms(outputs, x, options),
            **_flow_terms(outputs, x, options),
            **_neutral_terms(outputs, x, options),
        }
        if options.perceptual != "none":
            # One pass over the three sets whose maps are not known yet.
            sets = [
                outputs["neutral_warped_back"],
                outputs["warped_back"],
                outputs["reconstruction"],
            ]
            maps = networks.loss_features(trees, stack_sets(sets))
            terms |= perceptual_terms([of_neutral.loss, maps], of_x.loss, options)

        total, reported = weighted_total(terms)
        return total, Aux(reported, outputs)

    return Method(init, loss)


def _drawn_terms(
    outputs: Mapping[str, jax.Array], x: jax.Array, options: MotionLossOptions
) -> WeightedTerms:
    """Computes weight and value of the paper's terms of what the generator draws.

    Args:
      outputs: images by name, as `motion_images` names them.
      x: the inputs, [2B, H, W, 3].
      options: weights and switches.

    Returns:
      (weight, value) by name.
    """
    pixel = options.pixel_weight
    ssim = options.ssim_weight

    def dissimilarity(name: str) -> jax.Array:
        return ssim_loss(x, outputs[name], value_range=options.ssim_range)

    terms: WeightedTerms = {
        "l1/reconstruction": (pixel, l1(outputs["reconstruction"], x)),
        "l1/neutral_warped_back": (pixel, l1(outputs["neutral_warped_back"], x)),
        "symmetry/neutral": (options.symmetry_weight, symmetry(outputs["neutral"])),
    }
    if options.autoencoding:
        terms["l1/autoencoded"] = (pixel, l1(outputs["autoencoded"], x))
    if ssim:
        terms["ssim/reconstruction"] = (ssim, dissimilarity("reconstruction"))
    if ssim and options.autoencoding:
        terms["ssim/autoencoded"] = (ssim, dissimilarity("autoencoded"))
    return terms


def _neutral_terms(
    outputs: Mapping[str, jax.Array], x: jax.Array, options: MotionLossOptions
) -> WeightedTerms:
    """Computes the terms that compare neutral faces with warped images.

    They are not in the paper. Arguments and result are those of `_drawn_terms`.
    """
    terms: WeightedTerms = {}
    if options.agreement_weight:
        # What the other image shows where the warp is right.
        other = jax.lax.stop_gradient(exchange(outputs["warped"]))
        distance = l1(outputs["neutral"], other)
        terms["l1/agreement"] = (options.agreement_weight, distance)
    if options.warped_weight:
        # Where the flow points outside the image, the warped input shows nothing.
        inside = warp(jnp.ones_like(x[..., :1]), outputs["flow"], clamp=True)
        shown = jax.lax.stop_gradient(inside * outputs["warped"])
        generated = jax.lax.stop_gradient(inside) * outputs["neutral"]
        terms["l1/neutral_warped"] = (options.warped_weight, l1(generated, shown))
    return terms


def _flow_cycle(networks: FaceNetworks, options: MotionLossOptions) -> Method:
    """Builds the part of the motion cycle that only warps.

    It has no generator, no trunk and no perceptual loss. The weights are those of the
    whole cycle, so that a later stage with the generator goes on from here.
    """
    if options.warped_weight or not options.exchange_motion:
        raise UserError(
            "loss.warped_weight and loss.exchange_motion=False are for the generator, "
            "which loss.generator=False leaves out: set neither of them."
        )
    if options.histogram_weight and options.keep_features:
        raise UserError(
            "loss.histogram_weight trains the layers that loss.keep_features=True "
            "keeps: set one of them."
        )

    # Some terms have the networks at the start as a teacher, which stays as it is.
    needs_teacher = bool(
        options.turn_weight or options.frontal_weight or options.keep_weight
    )

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        trees = init_motion(networks, key)
        params = {name: trees[name] for name in FLOW_NETWORKS}
        if not needs_teacher:
            return params, {}
        return params, {START + name: tree for name, tree in params.items()}

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        x = flatten_pairs(images)
        trees = {**frozen, **params}
        if options.keep_features:
            trees = _without_features(trees)
        outputs = flow_images(networks, trees, x)

        compared, target = outputs, x
        if options.flow_side:
            target, compared = _smaller(outputs, x, side=options.flow_side)

        terms = _flow_terms(compared, target, options)
        if options.agreement_weight:
            # The two images of an item show one person, who has one neutral face.
            distance = l1(compared["warped"], exchange(compared["warped"]))
            terms["l1/agreement"] = (options.agreement_weight, distance)
        if options.histogram_weight:
            # The same key as that of the pitches of `turned_term`. Another would change
            # what facecycle-base was trained with.
            parts = jax.random.key(1) if key is None else jax.random.fold_in(key, 1)
            error = histogram_term(networks, trees, x, parts)
            terms["histogram/features"] = (options.histogram_weight, error)
        if needs_teacher:
            teacher = {name: frozen[START + name] for name in FLOW_NETWORKS}
            terms |= _taught_terms(networks, trees, teacher, outputs, key, options)

        total, reported = weighted_total(terms)
        return total, Aux(reported, outputs)

    return Method(init, loss)


def _smaller(
    outputs: Mapping[str, jax.Array], x: jax.Array, *, side: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Warps smaller images by the same flows.

    Small images have no details that hide the way to a large displacement.

    Args:
      outputs: images, flows and codes by name, as `flow_images` names them.
      x: the inputs, [2B, H, W, 3].
      side: side of the smaller images in pixels.

    Returns:
      The smaller inputs, and the outputs with warped images made of them.
    """
    small = adaptive_average_pool(x, side=side)
    warped = warp(small, outputs["flow"], clamp=True)
    back = warp(exchange(warped), outputs["backward_flow"], clamp=True)
    return small, {**outputs, "warped": warped, "warped_back": back}


def _taught_terms(
    networks: FaceNetworks,
    trees: Tree,
    teacher: Tree,
    outputs: Mapping[str, jax.Array],
    key: jax.Array | None,
    options: MotionLossOptions,
) -> WeightedTerms:
    """Computes the terms whose targets come from a teacher.

    Args:
      networks: the networks.
      trees: parameters by network name.
      teacher: motion_encoder and flow_decoder as they were at the start.
      outputs: images and flows by name, as `flow_images` names them.
      key: random key of turns. None, for evaluation, draws the same ones every time.
      options: weights and switches.

    Returns:
      (weight, value) by name.
    """
    x = outputs["input"]
    flow = outputs["flow"]
    teacher_flow = jax.lax.stop_gradient(
        networks.flow(teacher, networks.motion_code(teacher, x))
    )

    terms: WeightedTerms = {}
    if options.turn_weight:
        turns = jax.random.key(0) if key is None else key
        distance = turned_term(networks, trees, x, flow, teacher_flow, turns)
        terms["turned/flow"] = (options.turn_weight, distance)
    if options.frontal_weight:
        distance = frontal_term(networks, teacher, x, flow)
        terms["frontal/flow"] = (options.frontal_weight, distance)
    if options.keep_weight:
        terms["kept/flow"] = (options.keep_weight, kept_term(flow, teacher_flow))
    return terms


def _without_features(trees: Tree) -> Tree:
    """Cuts the gradient of the motion encoder's convolutions."""
    encoder = trees["motion_encoder"]
    kept = jax.lax.stop_gradient(encoder["features"])
    return {**trees, "motion_encoder": {**encoder, "features": kept}}


def _flow_terms(
    outputs: Mapping[str, jax.Array], x: jax.Array, options: MotionLossOptions
) -> WeightedTerms:
    """Computes weight and value of the terms that need no generator.

    Args:
      outputs: images, flows and codes by name, as `flow_images` names them.
      x: the inputs, [2B, H, W, 3].
      options: weights and switches.

    Returns:
      (weight, value) by name.
    """
    pixel = options.pixel_weight
    ssim = options.ssim_weight

    terms: WeightedTerms = {
        "l1/warped_back": (1.5 * pixel, l1(outputs["warped_back"], x)),
        "symmetry/warped": (0.5 * options.symmetry_weight, symmetry(outputs["warped"])),
    }
    if ssim:
        dissimilarity = ssim_loss(
            x, outputs["warped_back"], value_range=options.ssim_range
        )
        terms["ssim/warped_back"] = (1.5 * ssim, dissimilarity)
    if options.folding_weight:
        terms["folding/flow"] = (options.folding_weight, folding(outputs["flow"]))
    if options.bending_weight:
        terms["bending/flow"] = (options.bending_weight, bending(outputs["flow"]))
    if options.mean_flow_weight:
        terms["mean_flow/flow"] = (options.mean_flow_weight, mean_flow(outputs["flow"]))
    if options.saturation_weight:
        terms["saturation/code"] = (
            options.saturation_weight,
            saturation(outputs["code"]),
        )
    return terms
