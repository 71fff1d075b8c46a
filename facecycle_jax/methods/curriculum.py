"""The curriculum of FAb-Net and TCAE, as an entry of a method's state.

The curriculum itself is in `losses.windowed`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.losses import (
    Curriculum,
    move_curriculum,
    start_curriculum,
    window_bounds,
)
from facecycle_jax.methods.base import BATCH_STATS, SCHEDULE, init_with_stats
from facecycle_jax.networks import Tree


def init_of_pairs(
    encoder: Any, decoders: Mapping[str, Any], key: jax.Array
) -> tuple[Tree, Tree]:
    """Draws an encoder and decoders that take the codes of two images.

    Args:
      encoder: module with `image_size` and `code_dim`.
      decoders: modules by network name.
      key: random key.

    Returns:
      Parameters by network name, and the rest of a fresh state: running statistics and
      the curriculum.
    """
    side = encoder.image_size
    both_codes = jnp.zeros((1, 2 * encoder.code_dim))
    modules = {"encoder": (encoder, jnp.zeros((1, side, side, 3)))}
    for name, decoder in decoders.items():
        modules[name] = (decoder, both_codes)

    params, stats = init_with_stats(modules, key)
    return params, {BATCH_STATS: stats, **fresh_curriculum()}


def curriculum_of(frozen: Tree) -> Curriculum:
    """Reads the curriculum out of a state."""
    return Curriculum(**frozen[SCHEDULE])


def fresh_curriculum() -> Tree:
    """Returns the state's entry for the curriculum before any evaluation."""
    return {SCHEDULE: start_curriculum()._asdict()}


def current_window(frozen: Tree, items: int) -> jax.Array:
    """Returns the curriculum's window, int32 [2], for so many items."""
    table = jnp.asarray(window_bounds(items))
    return table[curriculum_of(frozen).window]


def move_with_evaluation(frozen: Tree, total: jax.Array) -> Tree:
    """Moves a state's curriculum on after an evaluation with this loss."""
    # The number of windows does not depend on the batch.
    windows = len(window_bounds(1))
    moved = move_curriculum(curriculum_of(frozen), total, windows=windows)
    return {**frozen, SCHEDULE: moved._asdict()}
