"""The interface of training methods, and what several of them share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree


@flax.struct.dataclass
class Aux:
    """What a loss reports in addition to its total.

    Attributes:
      terms: scalars by name, before weighting, and 'total'.
      images: what was computed on the way by name, for panels and tests: normalised
        images and flows [2B, h, w, 3 or 2], the two images of an item next to each
        other, or [B, ...]; codes [2B, D]; and the identity cycle's 'batch_mean' [1, H,
        W, 3]. Unused ones cost nothing under jit.
      carried: new values of entries of `frozen`, by name of the entry (see `CARRIED`).
        These are batch statistics, curricula and the like, which change from step to
        step but not by gradients.
      rate: factor on this step's learning rate, or None for 1.
    """

    terms: dict[str, jax.Array]
    images: dict[str, jax.Array]
    carried: Tree = flax.struct.field(default_factory=dict)
    rate: jax.Array | None = None


# Entries of `frozen` that are not networks but state, which losses renew.
# Running statistics of batch normalisation, by network name.
BATCH_STATS = "batch_stats"
# What a method counts to schedule its own weights.
SCHEDULE = "schedule"
CARRIED = (BATCH_STATS, SCHEDULE)

# Prefix of entries of `frozen` that are networks as `init_from` has them. The same
# networks are trained on from there.
START = "start_"

Loss = Callable[[Tree, Tree, Any, jax.Array | None], tuple[jax.Array, Aux]]


class Objective(NamedTuple):
    """One gradient step of an update.

    Attributes:
      name: prefix, before a slash, of the names of its terms; '' for none.
      loss: as `Method.loss`.
      networks: names of the networks that the loss uses, or None for all. Optimisers
        that count steps for each network need them.
    """

    name: str
    loss: Loss
    networks: tuple[str, ...] | None = None


class Views(NamedTuple):
    """The functions that turn a batch into a method's images.

    Attributes:
      augment: `augment(key, batch) -> images`, pure, for training.
      plain: `plain(batch) -> images`, its deterministic counterpart, for evaluation.
    """

    augment: Callable[[jax.Array, Mapping[str, jax.Array]], Any]
    plain: Callable[[Mapping[str, jax.Array]], Any]


class Method(NamedTuple):
    """A training method.

    Attributes:
      init: `init(key) -> (params, frozen)`, two trees by network name. `params` is
        trained. `frozen` holds networks that are only used, and the entries in
        `CARRIED`.
      loss: `loss(params, frozen, images, key) -> (total, Aux)`; images float32 [B, n,
        H, W, 3], or what the method's views make of a batch. A key of None means
        evaluation, without noise and with running statistics instead of the batch's.
      objectives: the losses of an update of several gradient steps, in order. Each
        starts from the parameters and statistics that the one before it left. Empty:
        the update is one step, of `loss`.
      evaluated: `evaluated(frozen, total) -> frozen`, called after every evaluation
        with its mean 'total', for schedules that follow held-out losses. None: no
        schedule does.
      views: the functions that turn a batch into images, or None for the pairs of
        `ops.augment_pairs`.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Loss
    objectives: tuple[Objective, ...] = ()
    evaluated: Callable[[Tree, jax.Array], Tree] | None = None
    views: Views | None = None

    @property
    def steps(self) -> tuple[Objective, ...]:
        """The gradient steps of an update, at least one."""
        return self.objectives or (Objective("", self.loss),)


def check_micro_batches(config: Mapping[str, Any]) -> None:
    """Checks that a micro-batch has two items, for losses that compare items.

    Args:
      config: with `batch_size` and `optimiser`; without them nothing is checked.

    Raises:
      UserError: If it has one item.
    """
    batch = config.get("batch_size", 2)
    accumulate = config.get("optimiser", {}).get("accumulate", 1)
    if batch // accumulate < 2:
        raise UserError(
            f"{config['method']} compares the items of a micro-batch and needs two of "
            f"them: batch_size={batch} in optimiser.accumulate={accumulate} "
            "micro-batches has fewer."
        )


def apply_plain(module: Any, params: Tree, *arguments: Any) -> Any:
    """Applies a module that has parameters only."""
    return module.apply({"params": params}, *arguments)


def apply_with_stats(
    module: Any,
    name: str,
    trees: Tree,
    stats: Tree,
    *arguments: Any,
    train: bool,
    **options: Any,
) -> tuple[Any, Tree]:
    """Applies a module that has batch normalisation.

    Args:
      module: the Linen module.
      name: the network's name.
      trees: parameters by network name.
      stats: running statistics by network name.
      *arguments: of the module.
      train: whether to use the batch's statistics and to update the running ones.
      **options: of the module.

    Returns:
      What the module returns, and the statistics by network name after it.
    """
    variables = {"params": trees[name], "batch_stats": stats[name]}
    if not train:
        return module.apply(variables, *arguments, train=False, **options), stats

    result, changed = module.apply(
        variables, *arguments, train=True, mutable=["batch_stats"], **options
    )
    return result, {**stats, name: changed["batch_stats"]}


def init_with_stats(
    modules: Mapping[str, tuple[Any, ...]], key: jax.Array
) -> tuple[Tree, Tree]:
    """Draws parameters and fresh statistics of several networks.

    Args:
      modules: (module, argument, ...) by network name.
      key: random key.

    Returns:
      Parameters and running statistics, each by network name.
    """
    params: Tree = {}
    stats: Tree = {}
    keys = jax.random.split(key, len(modules))

    for network_key, name in zip(keys, modules, strict=True):
        module, *arguments = modules[name]
        variables = module.init(network_key, *arguments, train=False)
        params[name] = variables["params"]
        stats[name] = variables["batch_stats"]

    return params, stats


def exchange(x: jax.Array) -> jax.Array:
    """Exchanges the two images of every item.

    Args:
      x: [2B, ...], the two images of an item next to each other, so that an exchange
        moves nothing between devices.

    Returns:
      [2B, ...].
    """
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return jnp.flip(pairs, axis=1).reshape(x.shape)


class LossOptions(NamedTuple):
    """Weights and switches of losses, by default those of the original program.

    Attributes:
      perceptual_weight: weight of the Gram (or feature) loss. 0.01 is meant for
        torchvision's VGG-19.
      pixel_weight: weight of the L1 terms.
      symmetry_weight: weight of the symmetry terms.
      ssim_weight: weight of the SSIM terms.
      margin_weight: weight of the margin (identity cycle).
      consensus_weight: weight of the L1 distance of each mean face to the mean of the
        batch (identity cycle). No other term makes mean faces alike. Not in the paper.
      mean_detail_weight: weight of the detail of a pixel or two in the batch's mean
        face (identity cycle), see `losses.fine_detail`. Not in the paper.
      align_mean: whether neutral faces are warped smoothly onto the batch's mean face
        before the margin compares them with it (identity cycle), see
        `mean_alignment.align`. The mean face is then sharp. Not in the paper.
      contrast_weight: weight of the contrast between identity codes (identity cycle),
        which pulls the codes of two images of one track together and pushes all others
        of the batch away. Items are then pairs of one track. Not in the paper.
      contrast_temperature: divisor of its cosines.
      folding_weight: weight of `losses.folding` (motion cycle), which keeps flows
        invertible. Not in the paper.
      bending_weight: weight of `losses.bending` (motion cycle), which keeps flows
        smooth. Not in the paper.
      warped_weight: weight of the L1 distance of neutral faces to the warped inputs
        (motion cycle), where the flow points into the image. Without it the generator
        blurs what differs between two images. Not in the paper.
      saturation_weight: weight of `losses.saturation` of motion codes (motion cycle),
        which keeps their final tanh out of its flat parts. Not in the paper.
      mean_flow_weight: weight of `losses.mean_flow` over the whole batch on all
        devices, or over a micro-batch with `optimiser.accumulate` above 1 (motion
        cycle). It keeps faces where they are on average. Not in the paper.
      turn_weight: weight of `turned_heads.turned_term` (motion cycle without
        generator), which teaches the flows of heads that a warp has turned. Needs flows
        to start from. Not in the paper.
      frontal_weight: weight of `turned_heads.frontal_term` (motion cycle without
        generator), which teaches the flows that make faces symmetric. Not in the paper.
      histogram_weight: weight of `motion_features.histogram_term` (motion cycle without
        generator), which has the motion encoder's last map predict local histograms of
        gradients. Not in the paper.
      keep_weight: weight of `motion_features.kept_term` (motion cycle without
        generator), which keeps flows as they were. Needs those to start from. Not in
        the paper.
      agreement_weight: weight of the L1 distance between the neutral faces of the two
        images of an item (motion cycle). Without the generator, both are warped images.
        With it, the generated neutral face of one image is compared with the other
        image, warped, which gets no gradient. Not in the paper.
      perceptual: 'gram' (the paper's), 'feature' (compares maps position by position,
        which a Gram matrix cannot) or 'none' (no VGG in training at all).
      gram_normalise: whether to divide Gram matrices by the channels too. The original
        program does not, so its loss grows with a layer's width.
      noise: whether the generator adds noise while training, as the paper's does. The
        noise has unit variance, which is large compared with the maps of a learned
        trunk.
      autoencoding: whether the generator also makes each image of its own maps (motion
        cycle). With `model.image_skip` that is no task. The paper has it.
      generator: whether to use the generator. Without it, and without every term of its
        images, the motion cycle trains motion encoder and flow decoder on warped images
        alone, and the identity cycle its encoder by contrast alone, at a fraction of
        the cost. These are stages that prepare those networks. Not in the paper.
      exchange_motion: (motion cycle with generator) whether the motion of an image is
        restored on the other image's neutral face, as in the paper. Without it, on its
        own: the generator then learns to bring an image back, which needs flows that
        are kept from training, or they would learn to stand still.
      restore_motion: (identity cycle) whether restored faces also get their motion back
        and are compared with the inputs, as in the paper. Without it they are compared
        with the neutral faces alone, which needs no gradient of the generator.
      keep_features: (motion cycle without generator) whether the motion encoder's
        convolutions stay as they are, so that only its two dense layers are trained.
      flow_side: (motion cycle without generator) side in pixels of the images that are
        warped and compared; 0: as they are. The encoder sees whole images in any case.
      exchange_identity: (identity cycle) whether pairs are two images of one track
        instead of two people's. Each neutral face is then restored from the code of the
        other image, so that the code can hold only what both share. Not in the paper.
      ssim_range: L of the SSIM constants. The original program uses 1 on images that
        span about 4.7.
      margin: width of the margin, normalised units.
      margin_hinge: whether to cut the margin at 0 as the paper describes; the original
        program does not.
    """

    perceptual_weight: float = 0.01
    pixel_weight: float = 1.0
    symmetry_weight: float = 1.5
    ssim_weight: float = 5.0
    margin_weight: float = 1.0
    consensus_weight: float = 0.0
    mean_detail_weight: float = 0.0
    align_mean: bool = False
    contrast_weight: float = 0.0
    contrast_temperature: float = 0.1
    folding_weight: float = 0.0
    bending_weight: float = 0.0
    warped_weight: float = 0.0
    saturation_weight: float = 0.0
    mean_flow_weight: float = 0.0
    turn_weight: float = 0.0
    frontal_weight: float = 0.0
    histogram_weight: float = 0.0
    keep_weight: float = 0.0
    agreement_weight: float = 0.0
    perceptual: str = "gram"
    gram_normalise: bool = False
    noise: bool = True
    autoencoding: bool = True
    generator: bool = True
    exchange_motion: bool = True
    restore_motion: bool = True
    keep_features: bool = False
    flow_side: int = 0
    exchange_identity: bool = False
    ssim_range: float = 1.0
    margin: float = 0.1
    margin_hinge: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LossOptions":
        """Takes fields by name from a mapping; missing ones keep their defaults.

        Args:
          config: e.g. `config.loss`.

        Returns:
          The options.

        Raises:
          UserError: If 'perceptual' is none of the three kinds.
        """
        given = {name: config[name] for name in cls._fields if name in config}
        options = cls(**given)

        kinds = ("gram", "feature", "none")
        if options.perceptual not in kinds:
            raise UserError(
                f"loss.perceptual must be one of {kinds}, got {options.perceptual!r}."
            )
        return options


# Terms of a loss: weight and value, a scalar or an array to be averaged, by name.
WeightedTerms = dict[str, tuple[float, jax.Array]]


def weighted_total(weighted: WeightedTerms) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums the means of terms times their weights.

    Args:
      weighted: (weight, value) by name; values are averaged over all their elements.

    Returns:
      The total, a scalar, and the terms for `Aux`: means by name before weighting, and
      'total'.
    """
    terms = {name: jnp.mean(value) for name, (_, value) in weighted.items()}

    # In the order of names, so that rounding does not depend on the order of terms.
    total = jnp.zeros(())
    for name in sorted(terms):
        weight, _ = weighted[name]
        total = total + terms[name] * weight

    return total, {**terms, "total": total}
