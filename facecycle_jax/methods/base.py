"""The interface of training methods, and what several of them share."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

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
      deterministic: `deterministic(batch) -> images`, the same without chance, for
        evaluation.
    """

    augment: Callable[[jax.Array, Mapping[str, jax.Array]], Any]
    deterministic: Callable[[Mapping[str, jax.Array]], Any]


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
      after_evaluation: `after_evaluation(frozen, total) -> frozen`, called after every
        evaluation with its mean 'total', for schedules that follow held-out losses.
        None: no schedule does.
      views: the functions that turn a batch into images, or None for the pairs of
        `ops.augment_pairs`.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Loss
    objectives: tuple[Objective, ...] = ()
    after_evaluation: Callable[[Tree, jax.Array], Tree] | None = None
    views: Views | None = None

    @property
    def gradient_steps(self) -> tuple[Objective, ...]:
        """The gradient steps of an update, at least one."""
        return self.objectives or (Objective("", self.loss),)


Record = TypeVar("Record")


def record_from(kind: Callable[..., Record], fields: Mapping[str, Any]) -> Record:
    """Builds a record of options from the fields of a config that it has.

    Args:
      kind: class of the record, whose fields have defaults.
      fields: e.g. `config.loss`. Fields that the record lacks are not used.

    Returns:
      The record; what `fields` lacks keeps its default.
    """
    names = inspect.signature(kind).parameters
    return kind(**{name: fields[name] for name in names if name in fields})


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


def carried_stats(stats: Tree, *, train: bool) -> Tree:
    """Returns what a loss carries of running statistics: nothing in evaluation."""
    return {BATCH_STATS: stats} if train else {}


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


def flatten_pairs(images: jax.Array) -> jax.Array:
    """Puts the images of all items next to each other: [B, n, ...] to [nB, ...]."""
    return images.reshape(-1, *images.shape[2:])


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Weights and switches that both cycles have, by default the original program's.

    Each cycle adds its own, next to the terms that they belong to:
    `motion_cycle.MotionLossOptions` and `identity_cycle.IdentityLossOptions`.

    Attributes:
      perceptual_weight: weight of the Gram (or feature) loss. 0.01 is meant for
        torchvision's VGG-19.
      pixel_weight: weight of the L1 terms.
      symmetry_weight: weight of the symmetry terms.
      ssim_weight: weight of the SSIM terms.
      ssim_range: L of the SSIM constants. The original program uses 1 on images that
        span about 4.7.
      perceptual: 'gram' (the paper's), 'feature' (compares maps position by position,
        which a Gram matrix cannot) or 'none' (no VGG in training at all).
      gram_normalise: whether to divide Gram matrices by the channels too. The original
        program does not, so its loss grows with a layer's width.
      noise: whether the generator adds noise while training, as the paper's does. The
        noise has unit variance, which is large compared with the maps of a learned
        trunk.
      generator: whether to use the generator. Without it, and without every term of its
        images, the motion cycle trains motion encoder and flow decoder on warped images
        alone, and the identity cycle its encoder by contrast alone, at a fraction of
        the cost. These are stages that prepare those networks. Not in the paper.
    """

    perceptual_weight: float = 0.01
    pixel_weight: float = 1.0
    symmetry_weight: float = 1.5
    ssim_weight: float = 5.0
    ssim_range: float = 1.0
    perceptual: str = "gram"
    gram_normalise: bool = False
    noise: bool = True
    generator: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes fields by name from a mapping; missing ones keep their defaults.

        Args:
          config: e.g. `config.loss`.

        Returns:
          The options.

        Raises:
          UserError: If 'perceptual' is none of the three kinds.
        """
        options = record_from(cls, config)

        kinds = ("gram", "feature", "none")
        if options.perceptual not in kinds:
            raise UserError(
                f"loss.perceptual must be one of {kinds}, got {options.perceptual!r}."
            )
        return options


# Terms of a loss: weight and value, a scalar or an array to be averaged, by name. A
# term of weight 0 is reported as a metric.
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
