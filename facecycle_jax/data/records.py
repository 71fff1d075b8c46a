"""Prepared sets as a source: tracks from their index, frames read one by one. Needs no tensorflow.

A frame is a number: its place in the indices of all sets, one after the other.
"""

import bisect
import itertools
import os
import pathlib
import threading
import weakref
import zlib
from typing import Any

import numpy as np

from facecycle_jax.data.record_index import TRACKS, read_index
from facecycle_jax.data.tracks import Tracks, make_tracks
from facecycle_jax.errors import UserError

# Folders below data.path in which a set is looked for: <name>/<config>/<version>.
_DEPTH = 3


class DamagedSetError(UserError):
    """A set on disk is not what its index says; unlike one unreadable picture this ends a run."""


class RecordFrames:
    """Reads frames of prepared sets; may be used by several threads at once."""

    def __init__(self, sets: list[tuple[pathlib.Path, dict[str, Any], np.ndarray]]) -> None:
        """Takes the sets (folder, content of tracks.json, frames) in the order of their numbers."""
        self._frames = [frames for _, _, frames in sets]
        # Tracks of all sets: the number of the first frame, the set, the file and the name.
        self._first: list[int] = []
        self._where: list[tuple[int, str, str]] = []
        self._starts: list[int] = []
        number = 0
        for index, (folder, content, frames) in enumerate(sets):
            self._starts.append(number)
            files = [str(folder / shard["name"]) for shard in content["shards"]]
            begins = itertools.accumulate(content["count"], initial=number)
            self._first += list(begins)[:-1]
            self._where += [
                (index, files[shard], name)
                for shard, name in zip(content["shard"], content["track"], strict=True)
            ]
            number += len(frames)
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open)

    def read(self, frame: int) -> bytes:
        """Reads one frame.

        Args:
          frame: its number.

        Returns:
          The encoded picture, the bytes that were prepared, checked by their CRC-32.

        Raises:
          DamagedSetError: if the shard is gone, cut off or holds other bytes there.
        """
        track = bisect.bisect_right(self._first, frame) - 1
        index, file, name = self._where[track]
        offset, length, crc32 = self._frames[index][frame - self._starts[index]].item()
        try:
            content = os.pread(self._descriptor(file), length, offset)
        except OSError as error:
            raise DamagedSetError(
                f"The shard {file} cannot be read ({error.strerror}); bring it back and continue the run."
            ) from None
        if len(content) != length:
            raise DamagedSetError(
                f"The shard {file} is cut off: it ends before the track {name}; copy it again or prepare the "
                "set again."
            )
        if zlib.crc32(content) != crc32:
            raise DamagedSetError(
                f"The shard {file} does not hold at byte {offset} the picture of the track {name} that was "
                "prepared: it is damaged or of another set; copy it again or prepare the set again."
            )
        return content

    def _descriptor(self, file: str) -> int:
        """Opens a file once."""
        descriptor = self._open.get(file)
        if descriptor is None:
            with self._lock:
                descriptor = self._open.get(file)
                if descriptor is None:
                    descriptor = self._open[file] = os.open(file, os.O_RDONLY)
        return descriptor

    def describe(self, frame: int) -> str:
        """Names a frame in messages."""
        track = bisect.bisect_right(self._first, frame) - 1
        return f"{self._where[track][1]}, track {self._where[track][2]}, frame {frame - self._first[track]}"


def _close(files: dict[str, int]) -> None:
    """Closes all files."""
    while files:
        os.close(files.popitem()[1])


def open_records(path: str, *, min_frames: int = 1, max_tracks: int = 0) -> tuple[Tracks, RecordFrames]:
    """Opens sets that `facecycle prepare` or `tfds build` made.

    Args:
      path: the --out of `facecycle prepare`, or a folder of TFDS or a set's own folder below it; several
        are separated by commas.
      min_frames: fewest frames of a track.
      max_tracks: most tracks, the first by name; 0: all.

    Returns:
      The tracks, their frames numbers, and what reads those.

    Raises:
      FileNotFoundError: if there is no set, or a shard is missing.
      ValueError: if there are several in one folder, one is damaged, or no track is long enough.
    """
    sets = []
    found: list[tuple[str, str, range]] = []
    number = 0
    for part in (part.strip() for part in path.split(",")):
        folder = find_set(part)
        content, frames = read_index(folder)
        sets.append((folder, content, frames))
        begins = itertools.accumulate(content["count"], initial=number)
        found += [
            (person, name, range(begin, begin + count))
            for person, name, begin, count in zip(
                content["identity"], content["track"], begins, content["count"], strict=False
            )
        ]
        number += len(frames)
    tracks = make_tracks(_distinct(found), origin=path, min_frames=min_frames)
    if 0 < max_tracks < len(tracks):
        tracks = tracks.select(range(max_tracks))
    return tracks, RecordFrames(sets)


def _distinct(found: list[tuple[str, str, range]]) -> list[tuple[str, str, range]]:
    """Gives equal names of tracks of several sets a number, for a fixed order."""
    seen: dict[tuple[str, str], int] = {}
    result = []
    for person, name, frames in found:
        count = seen[person, name] = seen.get((person, name), 0) + 1
        result.append((person, name if count == 1 else f"{name}#{count}", frames))
    return result


def find_set(path: str) -> pathlib.Path:
    """Finds the one prepared set in or below a folder.

    Args:
      path: the folder.

    Returns:
      The folder with the index.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if there are several.
    """
    root = pathlib.Path(path)
    if not path or not root.is_dir():
        raise FileNotFoundError(f"data.path: there is no folder {path!r}.")
    for depth in range(_DEPTH + 1):
        found = sorted(root.glob("/".join(["*"] * depth + [TRACKS])))
        if len(found) > 1:
            names = ", ".join(str(file.parent) for file in found)
            raise UserError(f"{path} holds several prepared sets: {names}; name one, or several with commas.")
        if found:
            return found[0].parent
    raise FileNotFoundError(
        f"{path} holds no prepared set (no {TRACKS}); make one with "
        f"`facecycle prepare SET --data RAW --out {path}`."
    )
