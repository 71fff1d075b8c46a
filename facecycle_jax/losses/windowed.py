"""Means over a window of ranks, and the curriculum that moves it.

FAb-Net and TCAE train in this way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The window moves after more than this many evaluations without improvement. An
# evaluation counts as an epoch of the published program.
PATIENCE = 15
# In the last window, a plateau schedule lowers the learning rate by the factor after
# more than this many of its steps without relative progress above the threshold.
_RATE_PATIENCE = 10
_RATE_FACTOR = 0.1
_RATE_THRESHOLD = 1e-4
# Windows move by this fraction of the batch, until their upper end reaches the last.
_STEP = 0.1
_LAST_HIGH = 0.85


def window_bounds(batch_size: int) -> np.ndarray:
    """Computes the windows of the curriculum, first to last.

    Fractions of the batch are added up in floating point, as in the published program.
    The fourth window therefore ends below 0.8, which matters for a batch of 10.

    Args:
      batch_size: number of ranked items.

    Returns:
      int32 [windows, 2]: first rank, and the rank after the last; ranks ascend with the
      loss.
    """
    low = 0.0
    high = 0.5
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
      bounds: int [2], first rank and the rank after the last. They may be traced, so
        that a moving window needs no new compilation. An empty window gives 0 and no
        gradient.
      ranking: [B], values to rank by; None ranks by the losses.

    Returns:
      Scalar.
    """
    order = jnp.argsort(losses if ranking is None else ranking)

    # A mask over sorted losses, because slices of traced bounds have no static shape.
    ranks = jnp.arange(len(losses))
    inside = (ranks >= bounds[0]) & (ranks < bounds[1])
    total = jnp.sum(jnp.where(inside, losses[order], 0.0))
    return total / jnp.maximum(bounds[1] - bounds[0], 1)


class Curriculum(NamedTuple):
    """State of the curriculum.

    It holds arrays only, so it is saved with the train state.

    Attributes:
      window: int32, number of the window, from 0.
      best: float32, lowest held-out loss since the window last moved.
      stale: int32, evaluations since then.
      rate: float32, factor of the learning rate.
      rate_best: float32, lowest held-out loss that the plateau schedule has seen.
      rate_stale: int32, steps of the schedule since then.
    """

    window: jax.Array
    best: jax.Array
    stale: jax.Array
    rate: jax.Array
    rate_best: jax.Array
    rate_stale: jax.Array


def start_curriculum() -> Curriculum:
    """Returns the curriculum before the first evaluation.

    Returns:
      The first window, no best loss yet, and a rate of 1.
    """
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
    """Advances the curriculum after an evaluation.

    After more than `PATIENCE` evaluations without a lower loss the window moves by one.
    In the last window the plateau schedule takes a step instead. It divides the rate by
    10 after more than ten steps without progress.

    Args:
      curriculum: the state before the evaluation.
      loss: held-out loss of the evaluation; one that is not finite is not progress.
      windows: number of windows.

    Returns:
      The state after the evaluation.
    """
    loss = jnp.where(jnp.isfinite(loss), loss, jnp.inf)
    better = loss < curriculum.best
    best = jnp.minimum(curriculum.best, loss)
    stale = jnp.where(better, 0, curriculum.stale + 1)

    # A stalled window moves on. In the last one, the plateau schedule takes a step.
    stalled = stale > PATIENCE
    can_move = curriculum.window < windows - 1
    moves = stalled & can_move
    plateau_step = stalled & ~can_move

    # The search for a lower loss starts anew then.
    best = jnp.where(stalled, jnp.inf, best)
    stale = jnp.where(stalled, 0, stale)

    # The plateau schedule counts progress above a relative threshold.
    progress = loss < curriculum.rate_best * (1 - _RATE_THRESHOLD)
    rate_stale = jnp.where(progress, 0, curriculum.rate_stale + 1)
    falls = plateau_step & (rate_stale > _RATE_PATIENCE)

    # The schedule's state changes on its own steps only.
    rate_best = jnp.where(plateau_step & progress, loss, curriculum.rate_best)
    rate_stale = jnp.where(falls, 0, rate_stale)
    rate_stale = jnp.where(plateau_step, rate_stale, curriculum.rate_stale)

    return Curriculum(
        window=curriculum.window + moves.astype(jnp.int32),
        best=best.astype(jnp.float32),
        stale=stale.astype(jnp.int32),
        rate=jnp.where(falls, curriculum.rate * _RATE_FACTOR, curriculum.rate),
        rate_best=rate_best.astype(jnp.float32),
        rate_stale=rate_stale.astype(jnp.int32),
    )
