"""Tracks: what every source of images provides, each a set of frames of one person.

A frame is a file name or a number. The number is an index into the array of a source in
memory, or one of the frames of all prepared sets, see `records`.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from facecycle_jax.errors import UserError

Frame = str | int


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Tracks sorted by person, so that one person's tracks are neighbours.

    Attributes:
      frames: frames of every track, at least one each.
      identities: name of every track's person, sorted.
      names: name of every track.
      origin: where the tracks come from, for messages.
    """

    frames: Sequence[Sequence[Frame]]
    identities: Sequence[str]
    names: Sequence[str]
    origin: str

    def __len__(self) -> int:
        """Counts the tracks."""
        return len(self.frames)

    def select(self, chosen: Sequence[int]) -> "Tracks":
        """Returns the tracks of these indices, in their order."""
        return Tracks(
            frames=[self.frames[i] for i in chosen],
            identities=[self.identities[i] for i in chosen],
            names=[self.names[i] for i in chosen],
            origin=self.origin,
        )


def make_tracks(
    tracks: Sequence[tuple[str, str, Sequence[Frame]]],
    *,
    origin: str,
    min_frames: int = 1,
) -> Tracks:
    """Sorts (person, track, frames) and leaves out short tracks.

    Args:
      tracks: in any order.
      origin: where they come from, for messages.
      min_frames: smallest number of frames of a track.

    Returns:
      The tracks.

    Raises:
      UserError: If no track is left.
    """
    kept = [track for track in tracks if len(track[2]) >= max(1, min_frames)]
    kept.sort(key=lambda track: (track[0], track[1]))

    if not kept:
        longest = max((len(track[2]) for track in tracks), default=0)
        found = f"{len(tracks)} tracks, the longest of {longest} frames"
        raise UserError(
            f"{origin} has no track of at least {min_frames} frames "
            f"({found if tracks else 'no images at all'}); see data.path and "
            "data.min_frames."
        )

    people, names, frames = zip(*kept, strict=True)

    return Tracks(frames=frames, identities=people, names=names, origin=origin)


def long_tracks(
    tracks: Sequence[tuple[str, str, Sequence[Frame]]],
    is_single: Sequence[bool],
    *,
    origin: str,
    min_frames: int,
    max_tracks: int,
) -> Tracks:
    """Sorts tracks and leaves out short ones, but keeps single images of a root.

    Args:
      tracks: (person, track, frames) in any order.
      is_single: whether each is one image that lies in a root, to be paired with its
        mirror image.
      origin: where the tracks come from, for messages.
      min_frames: smallest number of frames of a track.
      max_tracks: largest number of tracks, the first by name; 0: all.

    Returns:
      The tracks.

    Raises:
      UserError: If no track is left.
    """
    kept = []
    for track, single in zip(tracks, is_single, strict=True):
        if single or len(track[2]) >= min_frames:
            kept.append(track)

    # If none is left, `make_tracks` describes all of them in its message.
    made = make_tracks(
        kept or tracks, origin=origin, min_frames=1 if kept else min_frames
    )
    return made.select(range(max_tracks)) if 0 < max_tracks < len(made) else made


def in_root(name: str, root_index: int) -> str:
    """Names what lies in one of several roots or sets; all but the first are numbered.

    Args:
      name: the path below the root.
      root_index: of the root, from 0.

    Returns:
      `name`, with #2 at its end in the second root, #3 in the third, and so on.
    """
    return name if root_index == 0 else f"{name}#{root_index + 1}"


def split_people(tracks: Tracks, *, eval_fraction: float) -> tuple[Tracks, Tracks]:
    """Splits the people into training and held-out ones, deterministically.

    People are ordered by a hash of their names, so that the split does not depend on
    the machine, and adding people changes it little.

    Args:
      tracks: all tracks.
      eval_fraction: fraction of the people to hold out, 0 to below 1. At least two are
        held out unless it is 0.

    Returns:
      Training tracks and held-out tracks. With a fraction of 0 both are all tracks.

    Raises:
      UserError: If fewer than two people would be left to train on.
    """
    if not 0 <= eval_fraction < 1:
        raise UserError(
            f"data.eval_fraction must be from 0 to below 1, got {eval_fraction}."
        )

    if eval_fraction == 0:
        return tracks, tracks

    def order(person: str) -> bytes:
        # Names of folders need not be UTF-8.
        return hashlib.sha256(person.encode(errors="surrogateescape")).digest()

    people = sorted(set(tracks.identities), key=order)
    count = max(2, round(eval_fraction * len(people)))
    if len(people) - count < 2:
        raise UserError(
            f"{tracks.origin} has {len(people)} people, too few to hold {count} out; "
            "set data.eval_fraction to 0 to evaluate on the training people."
        )

    held = set(people[:count])
    is_held = np.array([person in held for person in tracks.identities])
    train = np.flatnonzero(~is_held)
    evaluation = np.flatnonzero(is_held)

    return tracks.select(train.tolist()), tracks.select(evaluation.tolist())
