"""Prepared sets as a source: tracks from their index, frames read one by one.

This source does not need tensorflow. A frame is its number among the frames of all
sets, one set after the other.
"""

import bisect
import errno
import itertools
import os
import pathlib
import threading
import weakref
import zlib
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.sources.record_index import FRAMES, TRACKS, read_index
from facecycle_jax.data.sources.tracks import Tracks, in_root, long_tracks
from facecycle_jax.errors import UserError

try:
    import resource
except ImportError:  # outside POSIX systems
    resource = None  # type: ignore[assignment]

# Folders below data.path in which a set is looked for: <name>/<config>/<version>.
_DEPTH = 3
# Files that a process may have open in addition to shards.
_OTHER_FILES = 512


class DamagedSetError(UserError):
    """A set on disk differs from its index.

    Unlike one unreadable image, this ends a run.
    """


class _Location(NamedTuple):
    """Where a track of prepared sets lies.

    Attributes:
      set_index: the set.
      file: the shard with its frames.
      size: of that file, bytes.
      track: its name.
    """

    set_index: int
    file: str
    size: int
    track: str


class RecordFrames:
    """Reads frames of prepared sets; may be used by several threads at once."""

    def __init__(
        self, sets: list[tuple[pathlib.Path, dict[str, Any], np.ndarray]]
    ) -> None:
        """Numbers the frames of all sets, one set after the other.

        Args:
          sets: folder, content of tracks.json and frames of each.
        """
        self._folders = [folder for folder, _, _ in sets]
        # Of each set: its frames, and the number of the first one.
        self._frames = [frames for _, _, frames in sets]
        self._starts: list[int] = []
        # Of each track of all sets: the number of its first frame, and where it lies.
        self._first: list[int] = []
        self._where: list[_Location] = []

        number = 0
        for index, (folder, content, frames) in enumerate(sets):
            self._starts.append(number)

            # The last sum is the number after the set's last frame.
            begins = itertools.accumulate(content["count"], initial=number)
            self._first += list(begins)[:-1]

            files = [
                (str(folder / shard["name"]), shard["bytes"])
                for shard in content["shards"]
            ]
            for shard, name in zip(content["shard"], content["track"], strict=True):
                file, size = files[shard]
                location = _Location(set_index=index, file=file, size=size, track=name)
                self._where.append(location)
            number += len(frames)

        # Every shard stays open once it was read.
        self._shards = {location.file for location in self._where}
        _allow_open_files(len(self._shards))
        self._open: dict[str, int] = {}
        # Descriptors given up after an error of the storage. Other threads may be
        # reading through them, so they are closed at the end only.
        self._given_up: list[int] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open, self._given_up)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the folders alone; another process opens the files itself."""
        return _reopen, (self._folders,)

    def read(self, frame: int) -> bytes:
        """Reads one frame.

        Args:
          frame: its number.

        Returns:
          The encoded image, checked by its CRC-32.

        Raises:
          DamagedSetError: If the shard is missing, cut off or holds other bytes there,
            or the index is damaged.
          OSError: If the storage does not deliver the bytes. A later call opens the
            shard again.
        """
        # The last track that begins at or before the frame.
        track = bisect.bisect_right(self._first, frame) - 1
        index, file, size, name = self._where[track]
        offset, length, crc32 = self._frames[index][frame - self._starts[index]].item()
        if offset + length > size:
            raise DamagedSetError(
                f"{os.path.join(os.path.dirname(file), FRAMES)} is damaged: it places "
                f"a frame of the track {name} after the end of "
                f"{os.path.basename(file)}; copy it again or prepare the set again."
            )

        try:
            content = os.pread(self._descriptor(file), length, offset)
        except FileNotFoundError:
            raise DamagedSetError(
                f"The shard {file} is gone; bring it back and continue the run."
            ) from None
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise UserError(
                    f"The shard {file} cannot be opened: the process may not open as "
                    "many files as data.path has shards. Raise the limit: ulimit -n "
                    f"{2 * len(self._shards) + _OTHER_FILES}."
                ) from None
            self._give_up(file)
            raise OSError(error.errno, error.strerror, file) from error

        if len(content) != length:
            raise DamagedSetError(
                f"The shard {file} is cut off: it ends before the track {name}; copy "
                "it again or prepare the set again."
            )

        if zlib.crc32(content) != crc32:
            raise DamagedSetError(
                f"The shard {file} does not hold at byte {offset} the image of the "
                f"track {name} that was prepared: it or {FRAMES} is damaged or of "
                "another set. `facecycle verify` says which; copy it again or "
                "prepare the set again."
            )

        return content

    def _descriptor(self, file: str) -> int:
        """Opens a file on its first use."""
        # Checked again under the lock: another thread may have opened it meanwhile.
        descriptor = self._open.get(file)
        if descriptor is None:
            with self._lock:
                descriptor = self._open.get(file)
                if descriptor is None:
                    descriptor = self._open[file] = os.open(file, os.O_RDONLY)
        return descriptor

    def _give_up(self, file: str) -> None:
        """Has the next read open a file again; a stale handle never recovers."""
        with self._lock:
            descriptor = self._open.pop(file, None)
            if descriptor is not None:
                self._given_up.append(descriptor)

    def describe(self, frame: int) -> str:
        """Names a frame in messages."""
        track = bisect.bisect_right(self._first, frame) - 1
        file = self._where[track].file
        name = self._where[track].track
        return f"{file}, track {name}, frame {frame - self._first[track]}"


def _allow_open_files(count: int) -> None:
    """Raises the limit of open files, as far as the system allows, for so many more."""
    if resource is None:
        return

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Two readers of the same sets may be in use at once.
    needed = 2 * count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _reopen(folders: list[pathlib.Path]) -> RecordFrames:
    """Opens sets again, for another process."""
    return RecordFrames([(folder, *read_index(folder)) for folder in folders])


def _close(files: dict[str, int], given_up: list[int]) -> None:
    """Closes all files."""
    while files:
        os.close(files.popitem()[1])
    while given_up:
        os.close(given_up.pop())


def open_records(
    path: str, *, min_frames: int = 1, max_tracks: int = 0
) -> tuple[Tracks, RecordFrames]:
    """Opens sets that `facecycle prepare` or `tfds build` made.

    Names are those that `folder.scan_folder` gives to the same images. A person's name
    in several sets is one person, but single images of a root are people of their own
    in each set. Tracks of the second set have `#2` at the end of their names, and so
    on.

    Args:
      path: the --out of `facecycle prepare`, or a folder of TFDS, or a set's own folder
        below it; several are separated by commas.
      min_frames: smallest number of frames of a track; single images of a root are
        always kept.
      max_tracks: largest number of tracks, the first by name; 0: all.

    Returns:
      The tracks, whose frames are numbers, and the reader of those.

    Raises:
      FileNotFoundError: If there is no set, or a shard is missing.
      UserError: If there are several in one folder, one is damaged, or no track is
        long enough.
    """
    sets = []
    found: list[tuple[str, str, range]] = []
    singles: list[bool] = []
    number = 0
    for set_index, part in enumerate(path.split(",")):
        folder = find_set(part.strip())
        content, frames = read_index(folder)
        sets.append((folder, content, frames))

        # One number more than tracks: the one after the last frame.
        begins = itertools.accumulate(content["count"], initial=number)
        listed = zip(
            content["identity"],
            content["track"],
            begins,
            content["count"],
            strict=False,
        )
        for person, name, begin, count in listed:
            # A single image in a root names both its track and its person.
            is_single = person == name and is_image_name(name)
            person = in_root(person, set_index) if is_single else person
            singles.append(is_single)
            name = in_root(name, set_index)
            found.append((person, name, range(begin, begin + count)))

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
      FileNotFoundError: If there is none.
      UserError: If there are several.
    """
    root = pathlib.Path(path)
    if not path or not root.is_dir():
        raise FileNotFoundError(f"there is no folder {path!r} of prepared records.")

    for depth in range(_DEPTH + 1):
        found = sorted(root.glob("/".join(["*"] * depth + [TRACKS])))
        if len(found) > 1:
            names = ", ".join(str(file.parent) for file in found)
            raise UserError(
                f"{path} holds several prepared sets: {names}; name one, or several "
                "with commas."
            )
        if found:
            return found[0].parent

    raise FileNotFoundError(
        f"{path} holds no prepared set (no {TRACKS}); make one with "
        f"`facecycle prepare SET --data RAW --out {path}`."
    )
