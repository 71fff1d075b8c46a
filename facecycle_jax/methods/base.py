"""What a training method is.

A pair of pure functions, and the options all methods share.
"""

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
      pictures: normalised images and flows by name, for panels: [2B, h, w, 3 or 2], the
        two images of an item next to each other, or [B, ...]. Unused ones cost nothing
        under jit.
      carried: new values of entries of `frozen`, by name of the entry (see `CARRIED`):
        batch statistics, curricula and the like, which change from step to step but not
        by gradients.
      rate: factor of this step's learning rate, or None for 1.
    """

    terms: dict[str, jax.Array]
    pictures: dict[str, jax.Array]
    carried: Tree = flax.struct.field(default_factory=dict)
    rate: jax.Array | None = None


# Entries of `frozen` that are no networks but state which losses renew: the running
# statistics of batch normalisation by network name, and what a method counts to
# schedule its own weights.
BATCH_STATS, SCHEDULE = "batch_stats", "schedule"
CARRIED = (BATCH_STATS, SCHEDULE)

Loss = Callable[[Tree, Tree, Any, jax.Array | None], tuple[jax.Array, Aux]]


class Objective(NamedTuple):
    """One gradient step of an update.

    Attributes:
      name: put before the names of its terms, with a slash; '' for none.
      loss: as `Method.loss`.
      networks: names of the networks that the loss uses, or None for all. Optimisers
        that count steps for each network need them.
    """

    name: str
    loss: Loss
    networks: tuple[str, ...] | None = None


class Views(NamedTuple):
    """How a method makes its images of a batch, where they are not FaceCycle's pairs.

    Attributes:
      augment: `augment(key, batch) -> images`, pure, for training.
      plain: `plain(batch) -> images`, its deterministic counterpart, for evaluation.
    """

    augment: Callable[[jax.Array, Mapping[str, jax.Array]], Any]
    plain: Callable[[Mapping[str, jax.Array]], Any]


class Method(NamedTuple):
    """A training method.

    Attributes:
      init: `init(key) -> (params, frozen)`, two trees by network name: what is trained,
        and what is not trained: networks that are only used, and the entries in
        `CARRIED`.
      loss: `loss(params, frozen, images, key) -> (total, Aux)`; images float32 [B, n,
        H, W, 3], or what the method's views make of a batch. A key of None is
        evaluation: without noise, and with running statistics instead of the batch's.
      objectives: where an update is several gradient steps: their losses, in order,
        each of the parameters and statistics that the one before left. Empty: the
        update is one step, of `loss`.
      evaluated: where a schedule follows held-out losses: `evaluated(frozen, total) ->
        frozen`, called after every evaluation with its mean 'total'. None: nothing
        does.
      views: how images are made of batches, or None for the pairs of
        `ops.augment_pairs`.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Loss
    objectives: tuple[Objective, ...] = ()
    evaluated: Callable[[Tree, jax.Array], Tree] | None = None
    views: Views | None = None

    @property
    def steps(self) -> tuple[Objective, ...]:
        """The gradient steps of an update, one at least."""
        return self.objectives or (Objective("", self.loss),)


def apply_plain(module: Any, params: Tree, *arguments: Any) -> Any:
    """Applies a module that has parameters alone."""
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
      train: whether the batch's statistics are used and the running ones moved.
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
    for network_key, (name, (module, *arguments)) in zip(
        keys, modules.items(), strict=True
    ):
        variables = module.init(network_key, *arguments, train=False)
        params[name] = variables["params"]
        stats[name] = variables["batch_stats"]
    return params, stats


def exchange(x: jax.Array) -> jax.Array:
    """Exchanges the two pictures of every item in [2B, ...], side by side.

    Stays on its device.
    """
    return jnp.flip(x.reshape(-1, 2, *x.shape[1:]), axis=1).reshape(x.shape)


class LossOptions(NamedTuple):
    """Weights of the loss groups, and the program's quirks, which are the defaults.

    Attributes:
      perceptual_weight: weight of the Gram (or feature) loss. 0.01 belongs to
        torchvision's weights.
      pixel_weight: weight of the L1 terms.
      symmetry_weight: weight of the symmetry terms.
      ssim_weight: weight of the SSIM terms.
      margin_weight: weight of the margin (identity cycle).
      consensus_weight: weight of the L1 distance of each mean face to the mean of the
        batch (identity cycle), which nothing else makes alike. Not in the paper.
      folding_weight: weight of `losses.folding` (motion cycle), which keeps flows
        invertible. Not in the paper.
      saturation_weight: weight of `losses.saturation` of motion codes (motion cycle),
        which keeps the tanh at their end out of its flat parts. Not in the paper.
      perceptual: 'gram' (the paper's), 'feature' (compares maps place by place, which a
        Gram matrix cannot) or 'none' (no VGG in training at all).
      gram_normalise: divide Gram matrices by the channels too; the program does not, so
        its loss grows with a layer's width.
      noise: the generator draws with noise while training, as the paper's does. The
        noise has unit variance, whatever the maps have: beside those of a learned trunk
        it is large.
      generator: (motion cycle) False leaves out the generator and every term of its
        images: the motion encoder and the flow decoder are trained on warped images
        alone, at a fraction of the cost. A short stage before the motion cycle, whose
        flows it prepares. Not in the paper.
      exchange_identity: (identity cycle) pairs are two pictures of one track instead of
        two people's, and each neutral face is made again from the other picture's code:
        the code can hold only what the two share, as stage 1 does it with neutral
        faces. Not in the paper.
      ssim_range: L of the SSIM constants; the program uses 1 on pictures that span
        about 4.7.
      margin: width of the margin, normalised units.
      margin_hinge: cut the margin at 0 as the paper describes; the program does not.
    """

    perceptual_weight: float = 0.01
    pixel_weight: float = 1.0
    symmetry_weight: float = 1.5
    ssim_weight: float = 5.0
    margin_weight: float = 1.0
    consensus_weight: float = 0.0
    folding_weight: float = 0.0
    saturation_weight: float = 0.0
    perceptual: str = "gram"
    gram_normalise: bool = False
    noise: bool = True
    generator: bool = True
    exchange_identity: bool = False
    ssim_range: float = 1.0
    margin: float = 0.1
    margin_hinge: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LossOptions":
        """Takes the fields of the same names from a mapping.

        Others keep their defaults.

        Args:
          config: e.g. `config.loss`.

        Returns:
          The options.

        Raises:
          ValueError: if 'perceptual' is none of the three kinds.
        """
        options = cls(**{name: config[name] for name in cls._fields if name in config})
        kinds = ("gram", "feature", "none")
        if options.perceptual not in kinds:
            raise UserError(
                f"loss.perceptual must be one of {kinds}, got {options.perceptual!r}."
            )
        return options


def weighted_total(
    terms: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> jax.Array:
    """Sums terms times their weights.

    Args:
      terms: scalars by name.
      weights: weight by the same names.

    Returns:
      Scalar.

    Raises:
      ValueError: if the names differ, so that no term is dropped silently.
    """
    if set(terms) != set(weights):
        raise UserError(
            f"terms and weights differ in {sorted(set(terms) ^ set(weights))}."
        )
    return sum(
        (terms[name] * weights[name] for name in sorted(terms)),
        start=jax.numpy.zeros(()),
    )
