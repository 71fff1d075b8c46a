"""Which frames make up the batch of a step: a pure function of seed and step, shared by all sources.

No state is carried, so that any step's batch is drawn at once, by any process, on resuming too.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.data.tracks import Tracks
from facecycle_jax.errors import UserError

PAIRINGS = ("same", "different")


class Table(NamedTuple):
    """Index arrays of tracks sorted by person, int32 [tracks].

    Attributes:
      first: number of the track's first frame; frames are numbered track by track.
      frames: frames of the track.
      identity: number of the person.
      person_first: the person's first track.
      person_count: the person's tracks.
      mirrored: float32, how often a frame is paired with its own mirror image instead of another frame.
    """

    first: np.ndarray
    frames: np.ndarray
    identity: np.ndarray
    person_first: np.ndarray
    person_count: np.ndarray
    mirrored: np.ndarray


def make_table(tracks: Tracks, *, mirrored: np.ndarray | float = 0.0) -> Table:
    """Builds the index arrays of tracks.

    Args:
      tracks: sorted by person.
      mirrored: see `Table`, of each track or of all; a track of one frame is mirrored in any case.

    Returns:
      The arrays.
    """
    count = np.array([len(frames) for frames in tracks.frames], np.int32)
    _, identity, sizes = np.unique(tracks.identities, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    return Table(
        (np.cumsum(count) - count).astype(np.int32),
        count,
        identity.astype(np.int32),
        starts[identity].astype(np.int32),
        sizes[identity].astype(np.int32),
        np.where(count == 1, 1.0, np.broadcast_to(mirrored, count.shape)).astype(np.float32),
    )


def permute(index: jax.Array, *, size: int, seed: jax.Array) -> jax.Array:
    """Looks up entries of a pseudo-random permutation of 0 .. size - 1 without building it.

    A four-round Feistel network over the next even number of bits, walked until it falls into range.

    Args:
      index: uint32 [...], below `size`.
      size: length of the permutation, at least 1.
      seed: uint32 scalar or [...]; another seed is another permutation.

    Returns:
      uint32 [...], below `size`; for fixed size and seed one-to-one.

    References:
      Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 4.
    """
    half = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    mask = jnp.uint32((1 << half) - 1)

    def scramble(x: jax.Array) -> jax.Array:
        x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
        return x ^ (x >> 16)

    def encrypt(x: jax.Array) -> jax.Array:
        left, right = x >> half, x & mask
        for number in range(4):
            keyed = scramble(right ^ scramble(seed + jnp.uint32(0x9E3779B9) * jnp.uint32(number + 1)))
            left, right = right, left ^ (keyed & mask)
        return (left << half) | right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, encrypt(x), x)

    start = encrypt(index.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, start)


@functools.partial(jax.jit, static_argnames=("batch_size", "pairing", "seed"))
def draw_pairs(
    step: jax.Array, table: Table, *, batch_size: int, pairing: str, seed: int
) -> dict[str, jax.Array]:
    """Draws the batch of a step: every track once an epoch, in an order of its own each epoch.

    Args:
      step: the step's number, 0 or more; exact while step * batch_size is below 2^32.
      table: of all tracks.
      batch_size: items, B.
      pairing: 'same' (two different frames of a track) or 'different' (frames of two people).
      seed: of the order and the frames.

    Returns:
      frame, track, identity int32 [B, 2] and mirror bool [B]: whether the second picture is to be the
      mirror image of the first, whose frame then stands twice.

    References:
      FaceCycle (ICCV 2021), section 4.1.
    """
    size = table.first.shape[0]
    item = jnp.uint32(step) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    epoch, position = item // jnp.uint32(size), item % jnp.uint32(size)
    order = jnp.uint32(seed & 0xFFFFFFFF) * jnp.uint32(0x85EBCA6B) + epoch
    track = permute(position, size=size, seed=order).astype(jnp.int32)
    base = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(base, i), 3))(jnp.arange(batch_size))

    def below(key: jax.Array, bound: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, bound)

    count = jnp.asarray(table.frames)[track]
    one = jax.vmap(below)(keys[:, 0], count)
    mirror = jnp.zeros(batch_size, bool)
    if pairing == "same":
        partner = track
        mirror = jax.vmap(jax.random.bernoulli)(keys[:, 2], jnp.asarray(table.mirrored)[track])
        # Another frame: skip the first one's place.
        other = jax.vmap(below)(keys[:, 1], jnp.maximum(count - 1, 1))
        two = jnp.where(mirror, one, other + (other >= one))
    else:
        skip = jnp.asarray(table.person_count)[track]
        begin = jnp.asarray(table.person_first)[track]
        other = jax.vmap(below)(keys[:, 1], size - skip)
        partner = jnp.where(other >= begin, other + skip, other)
        two = jax.vmap(below)(keys[:, 2], jnp.asarray(table.frames)[partner])
    pair = jnp.stack([track, partner], axis=1)
    frame = jnp.asarray(table.first)[pair] + jnp.stack([one, two], axis=1)
    identity = jnp.asarray(table.identity)[pair]
    return {"frame": frame, "track": pair, "identity": identity, "mirror": mirror}


def check_pairing(tracks: Tracks, *, pairing: str) -> None:
    """Raises ValueError for an unknown pairing, or one person where two are needed."""
    if pairing not in PAIRINGS:
        raise UserError(f"pairing must be one of {PAIRINGS}, got {pairing!r}.")
    if pairing == "different" and len(set(tracks.identities)) < 2:
        raise UserError(
            f"{tracks.origin} shows one person, {tracks.identities[0]!r}; stage 2 pairs two people. "
            f"See data.identity_depth."
        )
