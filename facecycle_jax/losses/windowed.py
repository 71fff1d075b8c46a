"""Means over a window of ranks, and the curriculum that moves it.

How FAb-Net and TCAE train.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# An evaluation counts as an epoch here. After more of these without improvement the
# window moves.
PATIENCE = 15
# Once the window has arrived, moves are counted by a plateau schedule of the learning
# rate.
_RATE_PATIENCE, _RATE_FACTOR, _RATE_THRESHOLD = 10, 0.1, 1e-4
_STEP, _LAST_HIGH = 0.1, 0.85


def window_bounds(batch_size: int) -> np.ndarray:
    """Computes the windows of the curriculum, first to last.

    The shares of the batch are added up in floating point, as the published program
    does: the fourth window ends below 0.8, which matters for a batch of 10.

    Args:
      batch_size: items that are ranked.

    Returns:
      int32 [windows, 2]: first rank, and the rank after the last; ranks ascend with the
      loss.
    """
    low, high = 0.0, 0.5
    rows = [(int(low * batch_size), int(high * batch_size))]
    while high < _LAST_HIGH:
        low += _STEP
        high += _STEP
        rows.append((int(low * batch_size), int(high * batch_size)))
    return np.asarray(rows, np.int32)


def windowed_mean(
    losses: jax.Array, bounds: jax.Array, *, ranking: jax.Array | None = None
) -> jax.Array:
    """Averages the losses whose ranks lie in a window.

    Args:
      losses: [B], one for each item.
      bounds: int [2], first rank and the rank after the last; may be traced, so that a
        moving window needs no new compilation. An empty window gives 0 without a
        gradient.
      ranking: [B], what is ranked; None: the losses themselves.

    Returns:
      Scalar.
    """
    order = jnp.argsort(losses if ranking is None else ranking)
    ranks = jnp.arange(len(losses))
    inside = (ranks >= bounds[0]) & (ranks < bounds[1])
    total = jnp.sum(jnp.where(inside, losses[order], 0.0))
    return total / jnp.maximum(bounds[1] - bounds[0], 1)


class Curriculum(NamedTuple):
    """Where the curriculum stands; arrays only, so that it is saved with the state.

    Attributes:
      window: int32, number of the window, from 0.
      best: float32, lowest held-out loss since the window last moved.
      stale: int32, evaluations since then.
      rate: float32, factor of the learning rate.
      rate_best: float32, lowest held-out loss that the plateau schedule has seen.
      rate_stale: int32, its steps since then.
    """

    window: jax.Array
    best: jax.Array
    stale: jax.Array
    rate: jax.Array
    rate_best: jax.Array
    rate_stale: jax.Array


def start_curriculum() -> Curriculum:
    """Returns the curriculum before the first evaluation."""
    return Curriculum(
        window=jnp.zeros((), jnp.int32),
        best=jnp.full((), jnp.inf, jnp.float32),
        stale=jnp.zeros((), jnp.int32),
        rate=jnp.ones((), jnp.float32),
        rate_best=jnp.full((), jnp.inf, jnp.float32),
        rate_stale=jnp.zeros((), jnp.int32),
    )


def move_curriculum(
    curriculum: Curriculum, loss: jax.Array, *, windows: int
) -> Curriculum:
    """Moves the curriculum on after an evaluation.

    After more than `PATIENCE` evaluations without a lower loss the window moves by one;
    in the last window the plateau schedule takes a step instead, and lowers the rate by
    10 after more than ten without progress.

    Args:
      curriculum: before.
      loss: held-out loss of the evaluation.
      windows: number of windows.

    Returns:
      The curriculum after it.
    """
    better = loss < curriculum.best
    best = jnp.minimum(curriculum.best, loss)
    stale = jnp.where(better, 0, curriculum.stale + 1)

    event = stale > PATIENCE
    can_move = curriculum.window < windows - 1
    moves = event & can_move
    plateau_step = event & ~can_move

    # The tracker starts anew with every event.
    best = jnp.where(event, jnp.inf, best)
    stale = jnp.where(event, 0, stale)

    # The plateau schedule counts progress above a relative threshold.
    progress = loss < curriculum.rate_best * (1 - _RATE_THRESHOLD)
    rate_stale = jnp.where(progress, 0, curriculum.rate_stale + 1)
    falls = plateau_step & (rate_stale > _RATE_PATIENCE)
    return Curriculum(
        window=curriculum.window + moves.astype(jnp.int32),
        best=best.astype(jnp.float32),
        stale=stale.astype(jnp.int32),
        rate=jnp.where(falls, curriculum.rate * _RATE_FACTOR, curriculum.rate),
        rate_best=jnp.where(plateau_step & progress, loss, curriculum.rate_best).astype(
            jnp.float32
        ),
        rate_stale=jnp.where(
            plateau_step, jnp.where(falls, 0, rate_stale), curriculum.rate_stale
        ).astype(jnp.int32),
    )
