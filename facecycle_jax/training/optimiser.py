"""Adam with a learning rate that is constant by pieces, given in epochs as the paper gives it."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import Tree


def make_schedule(config: Mapping[str, Any], *, steps_per_epoch: int) -> optax.Schedule:
    """Builds the learning rate as a function of the number of updates.

    Args:
      config: `config.optimiser`, with `schedule_epochs` (first epoch of each piece, rising from 0)
        and `schedule_rates` (learning rate of each piece).
      steps_per_epoch: updates in an epoch, at least 1.

    Returns:
      The schedule.

    Raises:
      ValueError: if the two lists do not fit together or are out of range.
    """
    epochs = tuple(config["schedule_epochs"])
    rates = tuple(float(rate) for rate in config["schedule_rates"])
    if len(epochs) != len(rates) or not epochs:
        raise UserError(
            f"optimiser.schedule_epochs has {len(epochs)} entries, schedule_rates {len(rates)}: "
            "give one rate for each first epoch."
        )
    if epochs[0] != 0 or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise UserError(f"optimiser.schedule_epochs must rise from 0, got {epochs}.")
    if min(rates) < 0:
        raise UserError(f"optimiser.schedule_rates must not be negative, got {rates}.")
    if steps_per_epoch < 1:
        raise UserError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}.")
    return optax.join_schedules(
        [optax.constant_schedule(rate) for rate in rates],
        [round(epoch * steps_per_epoch) for epoch in epochs[1:]],
    )


def make_optimiser(config: Mapping[str, Any], schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds Adam with the schedule and, if asked for, clipping by the global norm.

    Args:
      config: `config.optimiser`, with `b1`, `b2` and `clip_norm` (0: none).
      schedule: the learning rate by update; skipped updates do not count.

    Returns:
      The optimiser.

    Raises:
      ValueError: if a value is out of range.
    """
    for name in ("b1", "b2"):
        if not 0 <= config[name] < 1:
            raise UserError(f"optimiser.{name} must be in [0, 1), got {config[name]}.")
    clip = config["clip_norm"]
    if clip < 0:
        raise UserError(f"optimiser.clip_norm must not be negative, got {clip}.")
    adam = optax.adam(schedule, b1=config["b1"], b2=config["b2"])
    return optax.chain(optax.clip_by_global_norm(clip), adam) if clip else adam


def average_weights(average: Tree, params: Tree, *, decay: float, step: jax.Array) -> Tree:
    """Moves an average of the weights towards new ones.

    Early on the decay is (1 + step) / (10 + step), so the average soon forgets the random start.

    Args:
      average: the average so far.
      params: the new weights.
      decay: weight of the average so far, in [0, 1).
      step: int scalar, updates made before this one.

    Returns:
      The new average.
    """
    warm = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - warm)
