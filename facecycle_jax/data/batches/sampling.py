"""Sampling: which frames make up the batch of a step.

All sources share one sampler. It is a pure function of seed and step and carries no
state. Any process can therefore draw the batch of any step directly, also after a
restart.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.data.sources.tracks import Tracks
from facecycle_jax.errors import UserError

PAIRINGS = ("same", "different")
ORDERS = ("unordered", "ordered")
# Step -> arrays of the items of one process, by name.
Draw = Callable[[int], dict[str, np.ndarray]]


class Items(NamedTuple):
    """What an item of a batch is, where it is not a pair.

    Attributes:
      frames: frames of one track, n; 1 for methods that make several views of one
        image.
      order: 'unordered' draws n different frames, with replacement where the track has
        fewer. 'ordered' draws an anchor, the frame after it, and then every
        `spacing`-th frame, in order of time.
      spacing: frames from one to the next, if ordered.
    """

    frames: int
    order: str = "unordered"
    spacing: int = 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """Frames from the anchor to each frame of an ordered item."""
        return (0, *(1 + self.spacing * index for index in range(self.frames - 1)))


def items_of(options: Mapping[str, Any]) -> Items | None:
    """Reads from `config.data` what an item of a batch is.

    Args:
      options: may hold `item_frames` (0: pairs), `item_order` and `item_spacing`.

    Returns:
      The items, or None for pairs.

    Raises:
      UserError: If a value is out of range.
    """
    frames = options.get("item_frames", 0)
    if not frames:
        return None

    items = Items(
        frames=frames,
        order=options.get("item_order", "unordered"),
        spacing=options.get("item_spacing", 1),
    )
    if items.order not in ORDERS:
        raise UserError(
            f"data.item_order must be one of {ORDERS}, got {items.order!r}."
        )

    if items.frames < 1 or items.spacing < 1:
        raise UserError(
            f"data.item_frames is {items.frames} and data.item_spacing "
            f"{items.spacing}: both must be at least 1."
        )

    return items


def check_items(tracks: Tracks, items: Items) -> None:
    """Checks that every track is long enough for ordered items.

    Raises:
      UserError: If one is too short.
    """
    # The last frame lies this far from the anchor.
    needed = items.offsets[-1] + 1
    shortest = min(len(frames) for frames in tracks.frames)
    if items.order == "ordered" and shortest < needed:
        raise UserError(
            f"{tracks.origin} has a track of {shortest} frames, and ordered items "
            f"span {needed}: set data.min_frames={needed}, or a smaller "
            "data.item_frames or data.item_spacing."
        )


class Table(NamedTuple):
    """Index arrays of tracks sorted by person, int32 [tracks].

    Attributes:
      first: number of the track's first frame; frames are numbered track by track.
      frames: number of frames of the track.
      identity: number of the person.
      person_first: number of the person's first track.
      person_count: number of the person's tracks.
      mirrored: float32, probability that a frame is paired with its own mirror image
        instead of another frame.
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
      mirrored: see `Table`; one number for each track, or one for all. A track of one
        frame is always mirrored.

    Returns:
      The arrays.
    """
    count = np.array([len(frames) for frames in tracks.frames], np.int32)
    _, identity, sizes = np.unique(
        tracks.identities, return_inverse=True, return_counts=True
    )

    # Exclusive cumulative sums: the number of the first frame of each track, and of the
    # first track of each person.
    first_frames = np.cumsum(count) - count
    first_tracks = np.cumsum(sizes) - sizes

    probabilities = np.broadcast_to(mirrored, count.shape)
    probabilities = np.where(count == 1, 1.0, probabilities)

    return Table(
        first=first_frames.astype(np.int32),
        frames=count,
        identity=identity.astype(np.int32),
        person_first=first_tracks[identity].astype(np.int32),
        person_count=sizes[identity].astype(np.int32),
        mirrored=probabilities.astype(np.float32),
    )


def permute(index: jax.Array, *, size: int, seed: jax.Array) -> jax.Array:
    """Looks up entries of a pseudo-random permutation without building it.

    A four-round Feistel network encrypts the next even number of bits. It is applied
    again until its result falls below `size` (cycle walking).

    Args:
      index: uint32 [...], below `size`.
      size: length of the permutation, at least 1.
      seed: uint32 scalar or [...]; each seed gives another permutation.

    Returns:
      uint32 [...], below `size`; one-to-one for fixed size and seed.

    References:
      Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section
      4.
    """
    # Half of the bits that an index needs, rounded up: the network swaps two halves.
    half = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    mask = jnp.uint32((1 << half) - 1)

    # An integer hash in which every input bit changes about half of the output bits.
    def scramble(x: jax.Array) -> jax.Array:
        x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
        return x ^ (x >> 16)

    def encrypt(x: jax.Array) -> jax.Array:
        left, right = x >> half, x & mask

        for number in range(4):
            # Round keys are spaced by 2^32 over the golden ratio, so that none repeats.
            offset = jnp.uint32(0x9E3779B9) * jnp.uint32(number + 1)
            round_key = scramble(seed + offset)
            keyed = scramble(right ^ round_key)
            left, right = right, left ^ (keyed & mask)

        return (left << half) | right

    # Entries already in range stay; the others take another step of their cycle.
    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, encrypt(x), x)

    start = encrypt(index.astype(jnp.uint32))

    return jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, start)


def _draw_tracks(
    step: jax.Array, *, size: int, batch_size: int, seed: int
) -> jax.Array:
    """Draws the tracks of a step's items, int32 [B].

    Every track comes once an epoch. Each epoch has an order of its own.
    """
    # Items are numbered through all steps; a batch may span the end of an epoch.
    first_item = jnp.uint32(step) * jnp.uint32(batch_size)
    item = first_item + jnp.arange(batch_size, dtype=jnp.uint32)
    epoch = item // jnp.uint32(size)
    position = item % jnp.uint32(size)

    # The odd factor keeps the epochs of one seed apart from those of its neighbours.
    order = jnp.uint32(seed & 0xFFFFFFFF) * jnp.uint32(0x85EBCA6B) + epoch

    return permute(position, size=size, seed=order).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("batch_size", "pairing", "seed"))
def draw_pairs(
    step: jax.Array, table: Table, *, batch_size: int, pairing: str, seed: int
) -> dict[str, jax.Array]:
    """Draws the pairs of a step's batch.

    Every track comes once an epoch. Each epoch has an order of its own.

    Args:
      step: the step's number, 0 or more; exact while step * batch_size is below 2^32.
      table: of all tracks.
      batch_size: items, B.
      pairing: 'same' (two different frames of a track) or 'different' (frames of two
        people).
      seed: of the order and the frames.

    Returns:
      frame, track and identity, int32 [B, 2], and mirror, bool [B]: whether the second
      image is to be the mirror image of the first. A mirrored pair holds the same frame
      twice.

    References:
      FaceCycle (ICCV 2021), section 4.1.
    """
    size = table.first.shape[0]
    track = _draw_tracks(step, size=size, batch_size=batch_size, seed=seed)

    # Three keys for each item, [B, 3].
    base = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(base, i), 3))(
        jnp.arange(batch_size)
    )

    def below(key: jax.Array, bound: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, bound)

    count = jnp.asarray(table.frames)[track]
    one = jax.vmap(below)(keys[:, 0], count)
    mirror = jnp.zeros(batch_size, bool)

    if pairing == "same":
        partner = track
        probability = jnp.asarray(table.mirrored)[track]
        mirror = jax.vmap(jax.random.bernoulli)(keys[:, 2], probability)

        # Draw among one frame fewer, then step over the first frame: never the same.
        other = jax.vmap(below)(keys[:, 1], jnp.maximum(count - 1, 1))
        two = jnp.where(mirror, one, other + (other >= one))
    else:
        # Draw among the tracks of other people, then step over those of this person,
        # which lie next to each other.
        skip = jnp.asarray(table.person_count)[track]
        begin = jnp.asarray(table.person_first)[track]
        other = jax.vmap(below)(keys[:, 1], size - skip)
        partner = jnp.where(other >= begin, other + skip, other)
        two = jax.vmap(below)(keys[:, 2], jnp.asarray(table.frames)[partner])

    # Positions within tracks become frame numbers, [B, 2].
    pair = jnp.stack([track, partner], axis=1)
    frame = jnp.asarray(table.first)[pair] + jnp.stack([one, two], axis=1)
    identity = jnp.asarray(table.identity)[pair]

    return {"frame": frame, "track": pair, "identity": identity, "mirror": mirror}


@functools.partial(jax.jit, static_argnames=("batch_size", "items", "seed"))
def draw_items(
    step: jax.Array, table: Table, *, batch_size: int, items: Items, seed: int
) -> dict[str, jax.Array]:
    """Draws the items of a step's batch, each of n frames of one track.

    Tracks come in the order of `draw_pairs`.

    Args:
      step: the step's number, 0 or more; exact while step * batch_size is below 2^32.
      table: of all tracks.
      batch_size: items, B.
      items: what an item is.
      seed: of the order and the frames.

    Returns:
      frame, track and identity, int32 [B, n], and mirror, bool [B], always False.
    """
    track = _draw_tracks(
        step, size=table.first.shape[0], batch_size=batch_size, seed=seed
    )
    count = jnp.asarray(table.frames)[track]

    base = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(batch_size))

    def ordered(key: jax.Array, count: jax.Array) -> jax.Array:
        offsets = jnp.asarray(items.offsets)
        return jax.random.randint(key, (), 0, count - offsets[-1]) + offsets

    def unordered(key: jax.Array, count: jax.Array) -> jax.Array:
        enough = count >= items.frames
        chosen: list[jax.Array] = []

        for number, own_key in enumerate(jax.random.split(key, items.frames)):
            # Draw among the frames not chosen yet, then step over every chosen one at
            # or below the draw, lowest first. Short tracks draw with replacement.
            left = jnp.where(enough, count - number, count)
            drawn = jax.random.randint(own_key, (), 0, left)

            if chosen:
                for taken in jnp.sort(jnp.stack(chosen)):
                    drawn = drawn + (enough & (drawn >= taken))

            chosen.append(drawn)

        return jnp.stack(chosen)

    draw = ordered if items.order == "ordered" else unordered
    position = jax.vmap(draw)(keys, count)

    # Track and person are the same for all frames of an item, [B, n].
    first = jnp.asarray(table.first)[track]
    identity = jnp.asarray(table.identity)[track]
    shape = (batch_size, items.frames)

    return {
        "frame": first[:, None] + position,
        "track": jnp.broadcast_to(track[:, None], shape),
        "identity": jnp.broadcast_to(identity[:, None], shape),
        "mirror": jnp.zeros(batch_size, bool),
    }


def check_pairing(tracks: Tracks, *, pairing: str) -> None:
    """Checks the pairing's name, and that two people are there where it needs two.

    Raises:
      UserError: If `pairing` is unknown, or needs two people and there is one.
    """
    if pairing not in PAIRINGS:
        raise UserError(f"pairing must be one of {PAIRINGS}, got {pairing!r}.")
    if pairing == "different" and len(set(tracks.identities)) < 2:
        raise UserError(
            f"{tracks.origin} shows one person, {tracks.identities[0]!r}; stage 2 "
            "pairs two people. See data.identity_depth."
        )
