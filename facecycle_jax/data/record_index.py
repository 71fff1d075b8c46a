"""Where each frame lies in TFRecord shards of tracks: indexed once, then any frame is one read of its bytes.

A shard is a row of records, each a length (uint64), four bytes of checksum, a tf.train.Example and four bytes
of checksum. The Examples have `identity`, `track` and `frames`, encoded pictures. A set's folder then holds,
beside the shards, `tracks.json` (shards with sizes and SHA-256, tracks sorted by person) and `frames.npy`, of
FRAME.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.files import under_another_name, write_whole

FORMAT = "facecycle tracks 1"
TRACKS, FRAMES, LEFT_OUT = "tracks.json", "frames.npy", "left_out.txt"
# Place and length of a frame's bytes in its shard, and their CRC-32.
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4")])
_HEAD, _TAIL = 12, 4
Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class IndexedTrack:
    """One record of a shard: `frames` is an array of FRAME."""

    identity: str
    name: str
    shard: int
    frames: np.ndarray


def write_index(
    folder: pathlib.Path, shards: Sequence[str], *, left_out: Sequence[str] = ()
) -> dict[str, int]:
    """Reads every shard once and writes the index beside them, whole or not at all.

    Args:
      folder: of the shards.
      shards: their names.
      left_out: one line for each file that preparation passed over.

    Returns:
      Counts: shards, tracks, people, frames, bytes, left_out.

    Raises:
      ValueError: if a shard is cut off, holds other records, or two records are of one track.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        read = list(pool.map(lambda item: index_shard(folder / item[1], number=item[0]), enumerate(shards)))
    tracks = sorted((t for found, _ in read for t in found), key=lambda t: (t.identity, t.name))
    for one, two in itertools.pairwise(tracks):
        if (one.identity, one.name) == (two.identity, two.name):
            raise UserError(f"{folder} has two records of the track {one.name}; prepare the set again.")
    frames = np.concatenate([t.frames for t in tracks]) if tracks else np.zeros(0, FRAME)
    counts = {
        "shards": len(shards),
        "tracks": len(tracks),
        "people": len({t.identity for t in tracks}),
        "frames": len(frames),
        "bytes": sum(described["bytes"] for _, described in read),
        "left_out": len(left_out),
    }
    content = {
        "format": FORMAT,
        "counts": counts,
        "shards": [described for _, described in read],
        "identity": [t.identity for t in tracks],
        "track": [t.name for t in tracks],
        "shard": [t.shard for t in tracks],
        "count": [len(t.frames) for t in tracks],
    }
    write_whole(folder / LEFT_OUT, "".join(f"{line}\n" for line in left_out).encode())
    with under_another_name(folder / FRAMES) as partial, open(partial, "wb") as file:
        np.save(file, frames, allow_pickle=False)
    # Last: its presence says that the set is complete.
    write_whole(folder / TRACKS, json.dumps(content).encode())
    return counts


def read_index(folder: pathlib.Path) -> tuple[dict[str, Any], np.ndarray]:
    """Opens the index of a folder; nothing of the shards is read, only their sizes are compared.

    Args:
      folder: of a prepared set.

    Returns:
      The content of tracks.json, and all frames, [frames] of FRAME, mapped from the file.

    Raises:
      FileNotFoundError: if index or a shard is missing.
      ValueError: if they do not belong together, or a shard has another size than when it was written.
    """
    path = folder / TRACKS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {TRACKS}: `facecycle prepare` did not finish there.")
    try:
        content = json.loads(path.read_bytes())
        counted = sum(content["count"])
        form = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and prepare the set again.") from None
    if form != FORMAT:
        raise UserError(f"{path} is of the format {form!r}, this program reads {FORMAT!r}.")
    try:
        frames = np.load(folder / FRAMES, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / FRAMES} is damaged ({error}); prepare the set again.") from None
    if frames.dtype != FRAME or len(frames) != counted:
        raise UserError(
            f"{folder / FRAMES} lists {len(frames)} frames and {TRACKS} {counted}: they are not of one set."
        )
    for shard in content["shards"]:
        file = folder / shard["name"]
        if not file.is_file():
            raise FileNotFoundError(f"The shard {file} is missing; copy it again or prepare the set again.")
        size = file.stat().st_size
        if size != shard["bytes"]:
            raise UserError(
                f"The shard {file} has {size} bytes and had {shard['bytes']} when it was written: it is cut "
                "off or another file; copy it again or prepare the set again."
            )
    return content, frames


def verify(folder: pathlib.Path) -> list[str]:
    """Reads every shard and compares its SHA-256 with the recorded one.

    Args:
      folder: of a prepared set.

    Returns:
      One sentence for each shard that differs.

    Raises:
      FileNotFoundError, ValueError: as `read_index` does.
    """
    content, _ = read_index(folder)

    def check(shard: dict[str, Any]) -> str:
        with open(folder / shard["name"], "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        same = found == shard["sha256"]
        return "" if same else f"The shard {folder / shard['name']} has changed: SHA-256 {found}."

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [sentence for sentence in pool.map(check, content["shards"]) if sentence]


def index_shard(path: pathlib.Path, *, number: int) -> tuple[list[IndexedTrack], dict[str, Any]]:
    """Reads one shard.

    Args:
      path: the shard.
      number: its number in the set.

    Returns:
      Its tracks in the file's order, and its name, records, bytes and sha256.

    Raises:
      ValueError: if it is cut off, or a record is not of a track.
    """
    described: dict[str, Any] = {"name": path.name, "records": 0, "bytes": path.stat().st_size}
    tracks: list[IndexedTrack] = []
    with open(path, "rb") as file:
        described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        if not described["bytes"]:
            return tracks, described
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            for start, stop in _records(view, str(path)):
                tracks.append(_track(view, start, stop, shard=number, where=str(path)))
    described["records"] = len(tracks)
    return tracks, described


def _records(view: memoryview, where: str) -> Iterator[Span]:
    """Yields where the records of a shard start and end."""
    place = 0
    while place < len(view):
        start = place + _HEAD
        stop = start + int.from_bytes(view[place : place + 8], "little")
        place = stop + _TAIL
        if place > len(view):
            raise UserError(f"The shard {where} is cut off: its last record ends after the file.")
        yield start, stop


def _track(view: memoryview, start: int, stop: int, *, shard: int, where: str) -> IndexedTrack:
    """Reads one record."""
    try:
        features = example_spans(view, start, stop)
        identity, name = (bytes(view[slice(*features[key][0])]).decode() for key in ("identity", "track"))
        spans = features["frames"]
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"The shard {where} holds a record at byte {start} that is no track (identity, track, frames)."
        ) from None
    frames = np.array([(a, b - a, zlib.crc32(view[a:b])) for a, b in spans], FRAME)
    return IndexedTrack(identity, name, shard, frames)


def example_spans(view: memoryview, start: int, stop: int) -> dict[str, list[Span]]:
    """Finds the byte strings of a tf.train.Example without copying them.

    Args:
      view: of the file.
      start: first byte of the Example.
      stop: the byte after its last.

    Returns:
      (start, stop) of each string of each feature; no entry for features of numbers.

    Raises:
      ValueError: if it is no Example.
    """
    found: dict[str, list[Span]] = {}
    # Example.features = 1, Features.feature = 1 (a map: key = 1, value = 2), Feature.bytes_list = 1,
    # BytesList.value = 1.
    for features in _fields(view, start, stop, 1):
        for entry in _fields(view, *features, 1):
            keys = list(_fields(view, *entry, 1))
            values = [list(_fields(view, *bytes_list, 1))
                      for feature in _fields(view, *entry, 2)
                      for bytes_list in _fields(view, *feature, 1)]  # fmt: skip
            if keys and values:
                found[bytes(view[slice(*keys[0])]).decode()] = values[0]
    return found


def _fields(view: memoryview, start: int, stop: int, wanted: int) -> Iterator[Span]:
    """Yields the spans of a protocol buffer's fields of one number that hold strings or messages."""
    while start < stop:
        tag, start = _varint(view, start, stop)
        kind = tag & 7
        if kind == 2:
            length, start = _varint(view, start, stop)
            if start + length > stop:
                raise UserError("a field ends after its message")
            if tag >> 3 == wanted:
                yield start, start + length
            start += length
        elif kind == 0:
            _, start = _varint(view, start, stop)
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        else:
            raise UserError(f"a field of the unknown kind {kind}")


def _varint(view: memoryview, start: int, stop: int) -> tuple[int, int]:
    """Reads a number of 7 bits a byte; returns it and the place after it."""
    value = shift = 0
    while start < stop:
        byte = view[start]
        value |= (byte & 127) << shift
        start += 1
        if byte < 128:
            return value, start
        shift += 7
    raise UserError("a number is cut off")
