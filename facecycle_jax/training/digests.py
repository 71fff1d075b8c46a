"""Checksums of arrays, so that a flipped bit in a checkpoint is found: its file format checks few.

A digest is a sum over an array's words, so it is the same however the array is sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    """Computes one uint32 per array."""

    def one(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize])
        words = words.reshape(-1).astype(jnp.uint32)
        # Odd factors: no single bit can change without changing the sum modulo 2^32.
        factors = 2 * jax.lax.iota(jnp.uint32, words.size) + 1
        return jnp.sum(words * factors, dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in leaves])


def digests(tree: Any) -> dict[str, int]:
    """Computes the checksum of every array of a tree.

    Args:
      tree: arrays of at most 4 bytes per element.

    Returns:
      Checksum, 0 .. 2^32 - 1, by path, e.g. 'params/generator/kernel'.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    values = np.asarray(_digests(list(leaves)))
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path in paths)
    return {name: int(value) for name, value in zip(names, values, strict=True)}


def check_digests(tree: Any, expected: dict[str, int]) -> None:
    """Compares arrays with their checksums.

    Args:
      tree: arrays; may be a part of what was saved.
      expected: checksums by path.

    Raises:
      ValueError: naming the first array that differs.
    """
    for name, value in digests(tree).items():
        if value != expected.get(name):
            raise UserError(
                f"the checksum of {name} is {value} and was {expected.get(name)} when it was saved"
            )
