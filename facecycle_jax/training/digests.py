"""Checksums of arrays, which find a flipped bit in a checkpoint.

The file format of checkpoints verifies few of its bytes. A checksum is a sum over an
array's words, so it does not depend on how the array is sharded.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError

# The unsigned type of a word by its bytes.
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
# Elements that `host_digests` sums at once.
_PART = 2**22


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    """Computes one uint32 per array."""

    def one(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize])
        words = words.reshape(-1).astype(jnp.uint32)
        # Odd factors have an inverse modulo 2^32, so every single bit changes the sum.
        factors = 2 * jax.lax.iota(jnp.uint32, words.size) + 1
        return jnp.sum(words * factors, dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in leaves])


def digests(tree: Any) -> dict[str, int]:
    """Computes the checksum of every array of a tree where the arrays are.

    Args:
      tree: JAX arrays of at most 4 bytes per element.

    Returns:
      Checksum, 0 .. 2^32 - 1, by path, e.g. 'params/generator/kernel'.
    """
    # numpy reads a CPU's memory in place, and there is nothing to compile.
    if jax.process_count() == 1 and jax.default_backend() == "cpu":
        return host_digests(tree)
    return device_digests(tree)


def device_digests(tree: Any) -> dict[str, int]:
    """Computes the checksums of `digests` on the devices, wherever the arrays are.

    Args:
      tree: JAX arrays of at most 4 bytes per element, perhaps split over processes.

    Returns:
      Checksum by path.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    values = np.asarray(_digests(list(leaves)))

    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    return {name: int(value) for name, value in zip(names, values, strict=True)}


def host_digests(tree: Any) -> dict[str, int]:
    """Computes the checksums of `digests` with numpy, without any device memory.

    Args:
      tree: arrays of at most 4 bytes per element.

    Returns:
      Checksum by path, equal to that of `device_digests`.
    """
    values = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        words = np.ascontiguousarray(leaf).reshape(-1)
        words = words.view(f"uint{8 * words.dtype.itemsize}")

        # Part by part, because the products of a whole array take twice its memory.
        total = 0
        for first in range(0, words.size, _PART):
            part = words[first : first + _PART].astype(np.uint32)
            positions = np.arange(first, first + part.size, dtype=np.uint64)
            factors = (2 * positions + 1).astype(np.uint32)
            # uint32 products and sums wrap round, as they do on the devices.
            total += int(np.sum(part * factors, dtype=np.uint32))

        name = jax.tree_util.keystr(path, simple=True, separator="/")
        values[name] = total % 2**32

    return values


def tree_digest(tree: Any) -> str:
    """Computes one short digest of the arrays of a tree and their names.

    Args:
      tree: numpy arrays of at most 4 bytes per element.

    Returns:
      16 hexadecimal digits.
    """
    checksums = json.dumps(host_digests(tree), sort_keys=True)
    return hashlib.sha256(checksums.encode()).hexdigest()[:16]


def compare_digests(found: dict[str, int], expected: dict[str, int]) -> None:
    """Compares checksums of arrays with those recorded when they were saved.

    Args:
      found: checksums by path, perhaps of only a part of what was saved.
      expected: checksums by path.

    Raises:
      UserError: If any differ, naming the first array that does.
    """
    for name, value in found.items():
        saved = expected.get(name)
        if value != saved:
            raise UserError(
                f"the checksum of {name} is {value} and was {saved} when it was saved"
            )
