"""TCAE, the twin-cycle autoencoder.

Takes the change between two frames apart into pose and expression.

A batch holds two frames per item, of one track: target t and source s. Images [B, 2, H,
W, 3] in 0..1, the target first.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
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
from facecycle_jax.networks import Tcae, Tree, build_tcae
from facecycle_jax.ops import (
    at_least_float32,
    clipped_grid,
    grid_sample,
    identity_grid,
    normalise,
    pixels_to_unit,
)

WINDOWS = ("each", "common", "none")

# Weight of each term, in the order of the published program.
WEIGHTS = {
    "l1/reconstruction": 10.0,
    "code/pose_of_posed": 1.0,
    "code/expression_of_posed": 1.0,
    "flow/expression": 0.1,
    "code/pose_of_expressed": 1.0,
    "code/expression_of_expressed": 1.0,
    "code/pose_of_reconstruction": 1.0,
    "code/expression_of_reconstruction": 1.0,
    "l1/expressed_back": 1.0,
    "l1/posed_back": 1.0,
}


class TcaeOptions(NamedTuple):
    """Switches of the loss.

    Attributes:
      window: 'each' ranks and windows every term by itself, as the published program
        does, so that terms average different items; 'common' windows all by the
        reconstruction error; 'none' averages all items.
    """

    window: str = "each"


class Codes(NamedTuple):
    """Codes of one batch of images, [B, D] each."""

    pose: jax.Array
    expression: jax.Array


class TcaeImages(NamedTuple):
    """What one forward pass computes.

    Attributes:
      target: codes of t.
      source: codes of s.
      posed_codes: codes of I_p.
      expressed_codes: codes of I_e.
      reconstruction_codes: codes of I_o.
      pose_flow: F_p, [B, H, W, 2] in (-1, 1).
      expression_flow: F_e.
      pose_mask: m_p, [B, H, W, 1] in (-1, 1).
      expression_mask: m_e.
      flow: F, the mean of both flows, weighted by a softmax of the masks.
      posed: I_p, the source warped by F_p, [B, H, W, 3].
      expressed: I_e, the source warped by F_e.
      reconstruction: I_o, the source warped by F.
      pose_flow_back: flow from I_p back to s.
      expression_flow_back: flow from I_e back to s.
      posed_back: I_p', I_p warped back.
      expressed_back: I_e', I_e warped back.
    """

    target: Codes
    source: Codes
    posed_codes: Codes
    expressed_codes: Codes
    reconstruction_codes: Codes
    pose_flow: jax.Array
    expression_flow: jax.Array
    pose_mask: jax.Array
    expression_mask: jax.Array
    flow: jax.Array
    posed: jax.Array
    expressed: jax.Array
    reconstruction: jax.Array
    pose_flow_back: jax.Array
    expression_flow_back: jax.Array
    posed_back: jax.Array
    expressed_back: jax.Array


class _Passes:
    """The passes of TCAE's networks in one step, in order.

    Each set of images and of pairs of codes is a batch of its own to the normalisation,
    so the running statistics change with every pass.

    Attributes:
      stats: running statistics by network name, after the passes so far.
    """

    def __init__(self, networks: Tcae, trees: Tree, stats: Tree, *, train: bool):
        self._networks = networks
        self._trees = trees
        self._train = train
        self.stats = stats

    def encode(self, images: jax.Array) -> Codes:
        """Encodes images [B, H, W, 3]."""
        codes, self.stats = apply_with_stats(
            self._networks.encoder,
            "encoder",
            self._trees,
            self.stats,
            images,
            train=self._train,
        )
        return Codes(*codes)

    def decode(
        self, name: str, start: jax.Array, end: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes the codes of two images into flow and mask, float32 [B, H, W, ...].

        Args:
          name: 'pose_decoder' or 'expression_decoder'.
          start: codes [B, D] of the images that are to be warped.
          end: codes [B, D] of what they are to look like.
        """
        maps, self.stats = apply_with_stats(
            getattr(self._networks, name),
            name,
            self._trees,
            self.stats,
            jnp.concatenate([start, end], axis=-1),
            train=self._train,
        )
        maps = maps.astype(jnp.float32)
        return maps[..., :2], maps[..., 2:]


def _sample(images: jax.Array, flow: jax.Array) -> jax.Array:
    """Warps images by a flow that is cut at the images' edges."""
    return grid_sample(images, clipped_grid(flow), align_corners=True)


def tcae_images(
    networks: Tcae, trees: Tree, stats: Tree, images: jax.Array, *, train: bool
) -> tuple[TcaeImages, Tree]:
    """Runs both cycles.

    The five sets of images pass the encoder separately, each a batch of its own to the
    normalisation, in the order t, s, I_p, I_e, I_o.

    Args:
      networks: the modules.
      trees: parameters by network name.
      stats: running statistics by network name.
      images: [B, 2, H, W, 3] in 0..1, target and source.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      The codes, maps and images, and the statistics after it.
    """
    target, source = images[:, 0], images[:, 1]
    passes = _Passes(networks, trees, stats, train=train)

    # 1. From the source to the target, by either branch and by both.
    target_codes = passes.encode(target)
    source_codes = passes.encode(source)
    pose_flow, pose_mask = passes.decode(
        "pose_decoder", source_codes.pose, target_codes.pose
    )
    expression_flow, expression_mask = passes.decode(
        "expression_decoder", source_codes.expression, target_codes.expression
    )

    # A softmax of two logits is a sigmoid of their difference.
    share = jax.nn.sigmoid(pose_mask - expression_mask)
    flow = share * pose_flow + (1 - share) * expression_flow
    posed = _sample(source, pose_flow)
    expressed = _sample(source, expression_flow)
    reconstruction = _sample(source, flow)

    # 2. The codes of what came out.
    posed_codes = passes.encode(posed)
    expressed_codes = passes.encode(expressed)
    reconstruction_codes = passes.encode(reconstruction)

    # 3. Back to the source. Only the pixels that are warped are detached; the codes are
    # not.
    pose_back, _ = passes.decode("pose_decoder", posed_codes.pose, source_codes.pose)
    expression_back, _ = passes.decode(
        "expression_decoder", expressed_codes.expression, source_codes.expression
    )
    found = TcaeImages(
        target=target_codes,
        source=source_codes,
        posed_codes=posed_codes,
        expressed_codes=expressed_codes,
        reconstruction_codes=reconstruction_codes,
        pose_flow=pose_flow,
        expression_flow=expression_flow,
        pose_mask=pose_mask,
        expression_mask=expression_mask,
        flow=flow,
        posed=posed,
        expressed=expressed,
        reconstruction=reconstruction,
        pose_flow_back=pose_back,
        expression_flow_back=expression_back,
        posed_back=_sample(jax.lax.stop_gradient(posed), pose_back),
        expressed_back=_sample(jax.lax.stop_gradient(expressed), expression_back),
    )
    return found, passes.stats


def tcae_terms(found: TcaeImages, images: jax.Array) -> dict[str, jax.Array]:
    """Computes the ten terms, unweighted, [B] each, by the names of `WEIGHTS`.

    The targets of the code terms are not detached, as in the published program.
    """
    target, source = images[:, 0], images[:, 1]

    def codes(a: jax.Array, b: jax.Array) -> jax.Array:
        # Differences of near codes would be lost in bfloat16.
        difference = at_least_float32(a) - at_least_float32(b)
        return jnp.mean(jnp.square(difference), axis=1)

    # How far the expression moves pixels, after the grid is cut.
    height, width = images.shape[2:4]
    moved = clipped_grid(found.expression_flow) - identity_grid(
        height=height, width=width
    )
    return {
        "l1/reconstruction": l1(found.reconstruction, target),
        "code/pose_of_posed": codes(found.posed_codes.pose, found.target.pose),
        "code/expression_of_posed": codes(
            found.posed_codes.expression, found.source.expression
        ),
        "flow/expression": jnp.mean(jnp.abs(moved), axis=(1, 2, 3)),
        "code/pose_of_expressed": codes(found.expressed_codes.pose, found.source.pose),
        "code/expression_of_expressed": codes(
            found.expressed_codes.expression, found.target.expression
        ),
        "code/pose_of_reconstruction": codes(
            found.reconstruction_codes.pose, found.target.pose
        ),
        "code/expression_of_reconstruction": codes(
            found.reconstruction_codes.expression, found.target.expression
        ),
        "l1/expressed_back": l1(found.expressed_back, source),
        "l1/posed_back": l1(found.posed_back, source),
    }


def tcae(networks: Tcae, options: TcaeOptions) -> Method:
    """Builds TCAE.

    Args:
      networks: the modules.
      options: switches of the loss.

    Returns:
      The method; trains encoder, pose_decoder and expression_decoder.

    Raises:
      UserError: If the kind of window is unknown.

    References:
      Li et al., "Self-supervised representation learning from videos for facial action
      unit detection", CVPR 2019.
    """
    if options.window not in WINDOWS:
        raise UserError(
            f"loss.window must be one of {WINDOWS}, got {options.window!r}."
        )

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        decoders = {
            "pose_decoder": networks.pose_decoder,
            "expression_decoder": networks.expression_decoder,
        }
        return init_of_pairs(networks.encoder, decoders, key)

    def reduction(
        frozen: Tree, terms: dict[str, jax.Array], *, train: bool
    ) -> Callable[[jax.Array], jax.Array]:
        """Chooses how items are averaged."""
        if not train or options.window == "none":
            return jnp.mean
        error = terms["l1/reconstruction"]
        bounds = current_window(frozen, len(error))
        ranking = error if options.window == "common" else None
        return lambda losses: windowed_mean(losses, bounds, ranking=ranking)

    def loss(
        params: Tree, frozen: Tree, images: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        train = key is not None
        trees = {**frozen, **params}
        found, stats = tcae_images(
            networks, trees, frozen[BATCH_STATS], images, train=train
        )

        per_item = tcae_terms(found, images)
        reduce = reduction(frozen, per_item, train=train)
        terms = {name: reduce(values) for name, values in per_item.items()}
        total = sum(
            (terms[name] * weight for name, weight in WEIGHTS.items()),
            start=jnp.zeros(()),
        )

        shown = {
            "input": normalise(images[:, 0]),
            "source": normalise(images[:, 1]),
            "pose_flow": found.pose_flow,
            "posed": normalise(found.posed),
            "expression_flow": found.expression_flow,
            "expressed": normalise(found.expressed),
            "reconstruction": normalise(found.reconstruction),
        }
        carried = carried_stats(stats, train=train)
        rate = curriculum_of(frozen).rate
        return total, Aux({**terms, "total": total}, shown, carried, rate)

    return Method(
        init,
        loss,
        after_evaluation=None if options.window == "none" else move_with_evaluation,
    )


def _networks(config: Config) -> Tcae:
    options = network_options(
        config["model"], "image_size", "code_dim", "align_corners"
    )
    return build_tcae(**options)


def _build(config: Config, *, weights: bool) -> Method:
    del weights
    options = record_from(TcaeOptions, config["loss"])
    method = tcae(_networks(config), options)
    return method._replace(views=random_crops(config, normalised=False))


def _features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the code of expression, or the map of its branch."""
    encoder = _networks(config).encoder
    # The pose is what the method takes out of the code.
    _, expression = encode(encoder, trees, pixels_to_unit(images), maps=maps)
    found: jax.Array = expression
    return found


TCAE = Peer(build=_build, features=_features, frames=(2, 2))
