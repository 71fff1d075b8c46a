"""Optimisers with a learning rate by epoch, and the average of the weights."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree

KINDS = ("adam", "adam_by_network", "sgd")


def schedule_epoch(
    config: Mapping[str, Any], *, steps_per_epoch: int, total_steps: int
) -> float:
    """Computes the updates that the schedule counts as an epoch.

    Args:
      config: `config.optimiser`, perhaps with `schedule_length_epochs` or
        `schedule_length_steps`, the length of training that the schedule is made for.
      steps_per_epoch: updates in an epoch of the data.
      total_steps: updates of the run.

    Returns:
      `steps_per_epoch`; where a length is given, `steps_per_epoch` times the run's
      length over that one, so that the last piece begins at the same fraction of the
      run.
    """
    # Models of earlier versions have no such fields.
    length = config.get("schedule_length_steps", 0)
    if not length:
        length = config.get("schedule_length_epochs", 0) * steps_per_epoch
    if not length:
        return steps_per_epoch
    return steps_per_epoch * total_steps / length


def make_schedule(
    config: Mapping[str, Any], *, steps_per_epoch: float
) -> optax.Schedule:
    """Builds the learning rate as a function of the number of updates.

    Args:
      config: `config.optimiser`, with `schedule_epochs` (first epoch of each piece,
        rising from 0), `schedule_rates` (learning rate of each piece) and, optionally,
        `cosine_epochs` (above 0: a cosine that falls from 1 to 0 in so many epochs
        multiplies the rate).
      steps_per_epoch: updates in an epoch of the schedule, above 0; see
        `schedule_epoch`.

    Returns:
      The schedule.

    Raises:
      UserError: If the two lists do not fit together or are out of range.
    """
    epochs = tuple(config["schedule_epochs"])
    rates = tuple(float(rate) for rate in config["schedule_rates"])
    if len(epochs) != len(rates) or not epochs:
        raise UserError(
            f"optimiser.schedule_epochs has {len(epochs)} entries, schedule_rates "
            f"{len(rates)}: give one rate for each first epoch."
        )
    if epochs[0] != 0 or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise UserError(f"optimiser.schedule_epochs must rise from 0, got {epochs}.")
    if min(rates) < 0:
        raise UserError(f"optimiser.schedule_rates must not be negative, got {rates}.")
    if steps_per_epoch <= 0:
        raise UserError(f"steps_per_epoch must be above 0, got {steps_per_epoch}.")

    boundaries = [round(epoch * steps_per_epoch) for epoch in epochs[1:]]
    pieces = optax.join_schedules(
        [optax.constant_schedule(rate) for rate in rates], boundaries
    )

    cosine = config.get("cosine_epochs", 0)
    if not cosine:
        return pieces

    # The cosine moves once an epoch, as PyTorch's scheduler does, not with every step.
    def falling(count: jax.Array) -> jax.Array:
        epoch = jnp.minimum(count // steps_per_epoch, cosine)
        return pieces(count) * 0.5 * (1 + jnp.cos(jnp.pi * epoch / cosine))

    return falling


def make_optimiser(
    config: Mapping[str, Any], schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds the optimiser with its schedule, weight decay and clipping.

    Args:
      config: `config.optimiser`, with `b1`, `b2`, `clip_norm` (largest global norm; 0:
        none) and, optionally, `kind` and `weight_decay`, which is added to the
        gradient. `kind` is 'adam' (the default), 'sgd' (with `momentum`), or
        'adam_by_network', see `adam_by_network`.
      schedule: the learning rate by gradient step; those of skipped updates do not
        count.

    Returns:
      The optimiser.

    Raises:
      UserError: If a value is out of range.
    """
    kind = config.get("kind", "adam")
    if kind not in KINDS:
        raise UserError(f"optimiser.kind must be one of {KINDS}, got {kind!r}.")
    for name in ("b1", "b2", "momentum"):
        if not 0 <= config.get(name, 0.0) < 1:
            raise UserError(f"optimiser.{name} must be in [0, 1), got {config[name]}.")

    clip = config["clip_norm"]
    decay = config.get("weight_decay", 0.0)
    for name, value in {"clip_norm": clip, "weight_decay": decay}.items():
        if value < 0:
            raise UserError(f"optimiser.{name} must not be negative, got {value}.")

    made: optax.GradientTransformation
    if kind == "adam_by_network":
        made = adam_by_network(
            schedule,
            b1=config["b1"],
            b2=config["b2"],
            weight_decay=decay,
            skip_unused=config.get("skip_unused", False),
        )
    elif kind == "sgd":
        made = optax.sgd(schedule, momentum=config.get("momentum", 0.0) or None)
    else:
        made = optax.adam(schedule, b1=config["b1"], b2=config["b2"])

    # As in PyTorch, the decay is added to the gradient before its moments are taken.
    if decay and kind != "adam_by_network":
        made = optax.chain(optax.add_decayed_weights(decay), made)
    if clip:
        made = optax.chain(optax.clip_by_global_norm(clip), made)
    return made


class AdamByNetworkState(NamedTuple):
    """State of `adam_by_network`.

    Attributes:
      updates: int32 scalar, gradient steps so far, the schedule's argument. A method
        of several objectives makes several in an update.
      steps: int32 scalar by network, gradient steps that used it so far.
      first: moving averages of gradients.
      second: moving averages of squared gradients.
    """

    updates: jax.Array
    steps: dict[str, jax.Array]
    first: Tree
    second: Tree


def adam_by_network(
    schedule: Callable[[jax.Array], Any],
    *,
    b1: float,
    b2: float,
    weight_decay: float = 0.0,
    skip_unused: bool = False,
    epsilon: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Builds an Adam that counts the steps of each network by itself.

    It is for losses that use some of the networks each. Its `update` takes `networks`,
    the names that the loss used, or None for all. A network that has never been used
    does not move. One that was used before, but not this time, has a gradient of zero.
    It moves by its momentum and its decay, as in PyTorch 1, which zeroes gradients
    instead of dropping them.

    Args:
      schedule: the learning rate by gradient step.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: factor of the weights that is added to their gradients.
      skip_unused: whether an update leaves the networks alone that it does not use, as
        PyTorch 2 does.
      epsilon: added to the root of the second moment.

    Returns:
      The optimiser, of trees by network name.

    References:
      Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm
      1.
    """

    def init(params: Tree) -> AdamByNetworkState:
        return AdamByNetworkState(
            updates=jnp.zeros((), jnp.int32),
            steps={name: jnp.zeros((), jnp.int32) for name in params},
            first=jax.tree.map(jnp.zeros_like, params),
            second=jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        gradients: Tree,
        state: AdamByNetworkState,
        params: Tree | None = None,
        *,
        networks: Sequence[str] | None = None,
        **extra: Any,
    ) -> tuple[Tree, AdamByNetworkState]:
        del extra
        if params is None:
            raise ValueError("adam_by_network needs the parameters.")

        rate = schedule(state.updates)
        changes: Tree = {}
        steps: dict[str, jax.Array] = {}
        first: Tree = {}
        second: Tree = {}
        for name, gradient in gradients.items():
            used = networks is None or name in networks
            if skip_unused:
                moves = jnp.asarray(used)
            else:
                moves = used | (state.steps[name] > 0)
            step = state.steps[name] + moves.astype(jnp.int32)

            decayed = jax.tree.map(
                lambda g, p: g + weight_decay * p, gradient, params[name]
            )
            mean, square, change = _adam_step(
                decayed,
                state.first[name],
                state.second[name],
                step,
                b1=b1,
                b2=b2,
                epsilon=epsilon,
            )

            # What does not move keeps its moments.
            steps[name] = step
            first[name] = _chosen(moves, mean, state.first[name])
            second[name] = _chosen(moves, square, state.second[name])
            scaled = jax.tree.map(lambda c: -rate * c, change)
            changes[name] = _chosen(moves, scaled, jax.tree.map(jnp.zeros_like, change))

        new = AdamByNetworkState(
            updates=state.updates + 1, steps=steps, first=first, second=second
        )
        return changes, new

    return optax.GradientTransformationExtraArgs(init, update)


def _chosen(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    """Returns `new` where the condition, a bool scalar, is true, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _adam_step(
    gradient: Tree,
    first: Tree,
    second: Tree,
    step: jax.Array,
    *,
    b1: float,
    b2: float,
    epsilon: float,
) -> tuple[Tree, Tree, Tree]:
    """Computes one network's moments and its change before the learning rate."""
    mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradient)
    square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, second, gradient)

    # Bias correction. A network at step 0 does not move; 1 keeps it from dividing by 0.
    age = jnp.maximum(step, 1)
    mean_correction = 1 - b1**age
    root_correction = jnp.sqrt(1 - b2**age)

    def change_of(m: jax.Array, v: jax.Array) -> jax.Array:
        return m / mean_correction / (jnp.sqrt(v) / root_correction + epsilon)

    change = jax.tree.map(change_of, mean, square)
    return mean, square, change


def average_weights(
    average: Tree, params: Tree, *, decay: float, step: jax.Array
) -> Tree:
    """Moves an average of the weights towards new ones.

    In early steps the decay is (1 + step) / (10 + step), so that the average soon
    forgets the random start.

    Args:
      average: the average so far.
      params: the new weights.
      decay: weight of the average so far, in [0, 1).
      step: int scalar, updates before this one, skipped ones included.

    Returns:
      The new average.
    """
    warm = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - warm)
