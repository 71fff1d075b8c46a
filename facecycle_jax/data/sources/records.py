"""Prepared sets as a source: tracks from their index, frames read one by one.

Needs no tensorflow.

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

from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.sources.record_index import FRAMES, TRACKS, read_index
from facecycle_jax.data.sources.tracks import Tracks, in_root, long_tracks
from facecycle_jax.errors import UserError

# Folders below data.path in which a set is looked for: <name>/<config>/<version>.
_DEPTH = 3


class DamagedSetError(UserError):
    """A set on disk is not what its index says.

    Unlike one unreadable image this ends a run.
    """


class RecordFrames:
    """Reads frames of prepared sets; may be used by several threads at once."""

    def __init__(
        self, sets: list[tuple[pathlib.Path, dict[str, Any], np.ndarray]]
    ) -> None:
        """Takes the sets (folder, content of tracks.json, frames) in the order of their numbers."""
        self._frames = [frames for _, _, frames in sets]
        # Tracks of all sets: the number of the first frame, the set, the file, its size
        # and the name.
        self._first: list[int] = []
        self._where: list[tuple[int, str, int, str]] = []
        self._starts: list[int] = []
        number = 0
        for index, (folder, content, frames) in enumerate(sets):
            self._starts.append(number)
            files = [
                (str(folder / shard["name"]), shard["bytes"])
                for shard in content["shards"]
            ]
            begins = itertools.accumulate(content["count"], initial=number)
            self._first += list(begins)[:-1]
            self._where += [
                (index, *files[shard], name)
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
          The encoded image, the bytes that were prepared, checked by their CRC-32.

        Raises:
          DamagedSetError: If the shard is gone, cut off or holds other bytes there, or
            the index is damaged.
        """
        track = bisect.bisect_right(self._first, frame) - 1
        index, file, size, name = self._where[track]
        offset, length, crc32 = self._frames[index][frame - self._starts[index]].item()
        if offset + length > size:
            raise DamagedSetError(
                f"{os.path.join(os.path.dirname(file), FRAMES)} is damaged: it places a frame of the track "
                f"{name} after the end of {os.path.basename(file)}; copy it again or prepare the set again."
            )
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
                f"prepared: it or {FRAMES} is damaged or of another set. `facecycle verify` says which; copy "
                "it again or prepare the set again."
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
        _, file, _, name = self._where[track]
        return f"{file}, track {name}, frame {frame - self._first[track]}"


def _close(files: dict[str, int]) -> None:
    """Closes all files."""
    while files:
        os.close(files.popitem()[1])


def open_records(
    path: str, *, min_frames: int = 1, max_tracks: int = 0
) -> tuple[Tracks, RecordFrames]:
    """Opens sets that `facecycle prepare` or `tfds build` made.

    Names are those that `folder.scan_folder` gives to the same images: a name of one
    person in several sets is one person, but single images of a root are people of
    their own in each set, and tracks of the second set have `#2` at the end of their
    names, and so on.

    Args:
      path: the --out of `facecycle prepare`, or a folder of TFDS or a set's own folder
        below it; several are separated by commas.
      min_frames: fewest frames of a track; single images of a root are kept in any
        case.
      max_tracks: most tracks, the first by name; 0: all.

    Returns:
      The tracks, their frames numbers, and what reads those.

    Raises:
      FileNotFoundError: if there is no set, or a shard is missing.
      ValueError: if there are several in one folder, one is damaged, or no track is
        long enough.
    """
    sets = []
    found: list[tuple[str, str, range]] = []
    singles: list[bool] = []
    number = 0
    for place, part in enumerate(path.split(",")):
        folder = find_set(part.strip())
        content, frames = read_index(folder)
        sets.append((folder, content, frames))
        begins = itertools.accumulate(content["count"], initial=number)
        listed = zip(
            content["identity"],
            content["track"],
            begins,
            content["count"],
            strict=False,
        )
        for person, name, begin, count in listed:
            # A track of one image in a root is named as its person is, after the file.
            is_single = person == name and is_image_name(name)
            person = in_root(person, place) if is_single else person
            singles.append(is_single)
            found.append((person, in_root(name, place), range(begin, begin + count)))
        number += len(frames)
    tracks = long_tracks(
        found, singles, origin=path, min_frames=min_frames, max_tracks=max_tracks
    )
    return tracks, RecordFrames(sets)


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
            raise UserError(
                f"{path} holds several prepared sets: {names}; name one, or several with commas."
            )
        if found:
            return found[0].parent
    raise FileNotFoundError(
        f"{path} holds no prepared set (no {TRACKS}); make one with "
        f"`facecycle prepare SET --data RAW --out {path}`."
    )
