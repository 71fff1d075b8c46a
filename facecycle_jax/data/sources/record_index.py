"""The index of TFRecord shards: where each frame of each track lies.

Shards are indexed once. Any frame is then one read of its bytes.

A shard is a sequence of records. Each is a length (uint64), four bytes of checksum, a
tf.train.Example and four bytes of checksum. The Examples have `identity`, `track` and
`frames`, encoded images. In addition to the shards, a set's folder holds `tracks.json`
(shards with sizes and SHA-256, tracks sorted by person) and `frames.npy`, an array of
FRAME. `tracks.json` records the SHA-256 of `frames.npy` and its own, computed with
zeros in the place of the digest.
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
from facecycle_jax.files import under_another_name, write_text, write_whole

FORMAT = "facecycle tracks 1"
TRACKS = "tracks.json"
FRAMES = "frames.npy"
LEFT_OUT = "left_out.txt"
# Place and length of a frame's bytes in its shard, and their CRC-32.
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4")])
# Bytes of a record before and after its Example: length and checksum, checksum.
_HEAD, _TAIL = 12, 4
# Placeholder in tracks.json of its own SHA-256.
_NO_DIGEST = "0" * 64
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
    """Reads every shard once and writes the index into their folder, atomically.

    Args:
      folder: the folder of the shards.
      shards: their names.
      left_out: one line for each file that preparation left out.

    Returns:
      Counts: shards, tracks, people, frames, bytes, left_out.

    Raises:
      UserError: If a shard is cut off, holds other records, or two records are of one
        track.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        tasks = [
            pool.submit(index_shard, folder / name, number=number)
            for number, name in enumerate(shards)
        ]
        read = [task.result() for task in tasks]

    # Sorted by person and name, so that a track in two shards has itself as neighbour.
    tracks = [track for found, _ in read for track in found]
    tracks.sort(key=lambda track: (track.identity, track.name))
    for one, two in itertools.pairwise(tracks):
        if (one.identity, one.name) == (two.identity, two.name):
            raise UserError(
                f"{folder} has two records of the track {one.name}; prepare the set "
                "again."
            )

    frames = (
        np.concatenate([t.frames for t in tracks]) if tracks else np.zeros(0, FRAME)
    )
    counts = {
        "shards": len(shards),
        "tracks": len(tracks),
        "people": len({t.identity for t in tracks}),
        "frames": len(frames),
        "bytes": sum(described["bytes"] for _, described in read),
        "left_out": len(left_out),
    }

    write_text(folder / LEFT_OUT, "".join(f"{line}\n" for line in left_out))

    with under_another_name(folder / FRAMES) as partial, open(partial, "wb") as file:
        np.save(file, frames, allow_pickle=False)

    content = {
        "format": FORMAT,
        "sha256": _NO_DIGEST,
        "frames_sha256": _sha256(folder / FRAMES),
        "counts": counts,
        "shards": [described for _, described in read],
        "identity": [t.identity for t in tracks],
        "track": [t.name for t in tracks],
        "shard": [t.shard for t in tracks],
        "count": [len(t.frames) for t in tracks],
    }

    # The digest replaces zeros of the same length, so that a reader can undo it.
    unsigned = json.dumps(content).encode()
    digest = hashlib.sha256(unsigned).hexdigest()
    signed = unsigned.replace(_NO_DIGEST.encode(), digest.encode(), 1)

    # Written last: its presence shows that the set is complete.
    write_whole(folder / TRACKS, signed)

    return counts


def _sha256(path: pathlib.Path) -> str:
    """Computes the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_index(folder: pathlib.Path) -> tuple[dict[str, Any], np.ndarray]:
    """Opens the index of a folder and compares the sizes of the shards.

    Args:
      folder: the folder of a prepared set.

    Returns:
      The content of tracks.json, and all frames, FRAME [frames], mapped from the file.

    Raises:
      FileNotFoundError: If a file of the index or a shard is missing.
      UserError: If the files do not belong together, tracks.json is damaged, or a shard
        has another size than when it was written.
    """
    path = folder / TRACKS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {TRACKS}: `facecycle prepare` did not finish there."
        )

    content = _read_tracks(path)
    counted = sum(content["count"])

    file = folder / FRAMES
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; copy it again or prepare the set again."
        )

    try:
        frames = np.load(file, mmap_mode="r", allow_pickle=False)
        fits = frames.dtype == FRAME and frames.ndim == 1
    except Exception as error:
        # numpy raises ValueError, EOFError, SyntaxError, TypeError and others for a
        # damaged header.
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise UserError(
            f"{file} is damaged ({reason}); copy it again or prepare the set again."
        ) from None

    if not fits or len(frames) != counted:
        listed = f"{len(frames)} frames" if fits else "something else than frames"
        raise UserError(
            f"{file} lists {listed} and {TRACKS} {counted} frames: they are not of "
            "one set."
        )

    for shard in content["shards"]:
        file = folder / shard["name"]
        if not file.is_file():
            raise FileNotFoundError(
                f"The shard {file} is missing; copy it again or prepare the set again."
            )

        size = file.stat().st_size
        if size != shard["bytes"]:
            raise UserError(
                f"The shard {file} has {size} bytes and had {shard['bytes']} when it "
                "was written: it is cut off or another file; copy it again or "
                "prepare the set again."
            )

    return content, frames


def _read_tracks(path: pathlib.Path) -> dict[str, Any]:
    """Reads tracks.json and checks its SHA-256, which sets of earlier versions lack."""
    data = path.read_bytes()
    try:
        content = json.loads(data)
        form = content["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error)) from None

    if form != FORMAT:
        raise UserError(
            f"{path} has the format {str(form)[:40]!r}, this program reads {FORMAT!r}."
        )

    digest = content.get("sha256")
    if digest is not None:
        # The digest was computed with zeros in its place.
        recorded = str(digest).encode(errors="replace")
        unsigned = data.replace(recorded, _NO_DIGEST.encode(), 1)
        if hashlib.sha256(unsigned).hexdigest() != digest:
            raise _damaged(path, "it does not agree with its SHA-256")

    _check_tracks(path, content)

    return dict(content)


def _check_tracks(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Checks that everything in tracks.json has its type and range."""

    def are(values: Any, kind: type, least: int | None = None) -> bool:
        """Whether `values` is a list of one type, with no number below `least`."""
        if type(values) is not list or any(type(value) is not kind for value in values):
            return False
        return least is None or min(values, default=least) >= least

    shards: Any = content.get("shards")
    if not are(shards, dict):
        raise _damaged(path, "its shards are not a list")

    for shard in shards:
        has_names = are([shard.get("name"), shard.get("sha256")], str)
        has_size = are([shard.get("bytes")], int, 0)
        if not (has_names and has_size):
            raise _damaged(path, "a shard lacks its name, size or SHA-256")

        # A damaged index must not lead to files outside the set.
        name = shard["name"]
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise _damaged(path, "a shard lies in another folder")

    people: Any = content.get("identity")
    names: Any = content.get("track")
    numbers: Any = content.get("shard")
    counts: Any = content.get("count")
    named = are(people, str) and are(names, str)
    counted = are(numbers, int, 0) and are(counts, int, 1)
    if not (named and counted):
        raise _damaged(path, "its tracks lack names, shards or numbers of frames")

    if not len(people) == len(names) == len(numbers) == len(counts):
        raise _damaged(path, "its tracks are not as many everywhere")
    if max(numbers, default=-1) >= len(shards):
        raise _damaged(path, "a track lies in a shard that there is not")
    if type(content.get("frames_sha256", "")) is not str:
        raise _damaged(path, f"the SHA-256 of {FRAMES} is not text")


def _damaged(path: pathlib.Path, reason: str) -> UserError:
    """Builds the error of a damaged tracks.json."""
    reason = " ".join(reason.split())[:160]
    return UserError(
        f"{path} is damaged ({reason}); copy it again or prepare the set again."
    )


def verify(folder: pathlib.Path) -> list[str]:
    """Compares the SHA-256 of every shard and of the index with the recorded ones.

    Args:
      folder: the folder of a prepared set.

    Returns:
      One sentence for each file that differs.

    Raises:
      FileNotFoundError: If a file is missing, see `read_index`.
      UserError: If tracks.json is damaged, see `read_index`.
    """
    content, _ = read_index(folder)
    expected = [
        ("The shard ", shard["name"], shard["sha256"]) for shard in content["shards"]
    ]
    # Sets of earlier versions have no SHA-256 of their index.
    if "frames_sha256" in content:
        expected.append(("The index ", FRAMES, content["frames_sha256"]))

    def check(item: tuple[str, str, str]) -> str:
        kind, name, digest = item
        found = _sha256(folder / name)
        if found == digest:
            return ""
        return f"{kind}{folder / name} has changed: SHA-256 {found}."

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [sentence for sentence in pool.map(check, expected) if sentence]


def index_shard(
    path: pathlib.Path, *, number: int
) -> tuple[list[IndexedTrack], dict[str, Any]]:
    """Lists the tracks of one shard.

    Args:
      path: the shard.
      number: its number in the set.

    Returns:
      Its tracks in the order of the file, and its name, records, bytes and sha256.

    Raises:
      UserError: If it is cut off, or a record is not of a track.
    """
    described: dict[str, Any] = {
        "name": path.name,
        "records": 0,
        "bytes": path.stat().st_size,
    }
    tracks: list[IndexedTrack] = []
    with open(path, "rb") as file:
        described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()

        # An empty file cannot be mapped.
        if not described["bytes"]:
            return tracks, described

        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            for start, stop in _records(view, str(path)):
                tracks.append(_track(view, start, stop, shard=number, where=str(path)))

    described["records"] = len(tracks)

    return tracks, described


def _records(view: memoryview, where: str) -> Iterator[Span]:
    """Yields the first byte of each record's Example, and the byte after its last."""
    offset = 0
    while offset < len(view):
        # The length counts the Example alone, without the checksums around it.
        start = offset + _HEAD
        stop = start + int.from_bytes(view[offset : offset + 8], "little")
        offset = stop + _TAIL
        if offset > len(view):
            raise UserError(
                f"The shard {where} is cut off: its last record ends after the file."
            )

        yield start, stop


def _track(
    view: memoryview, start: int, stop: int, *, shard: int, where: str
) -> IndexedTrack:
    """Reads the track of one record."""
    try:
        features = example_spans(view, start, stop)
        # os.fsdecode, because names of folders may hold bytes that are not UTF-8.
        identity, name = (
            os.fsdecode(bytes(view[slice(*features[key][0])]))
            for key in ("identity", "track")
        )
        spans = features["frames"]
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"The shard {where} holds a record at byte {start} that is not a track "
            "(identity, track, frames)."
        ) from None

    frames = np.array([(a, b - a, zlib.crc32(view[a:b])) for a, b in spans], FRAME)
    return IndexedTrack(identity=identity, name=name, shard=shard, frames=frames)


def example_spans(view: memoryview, start: int, stop: int) -> dict[str, list[Span]]:
    """Finds the byte strings of a tf.train.Example without copying them.

    Args:
      view: the bytes of the file.
      start: first byte of the Example.
      stop: the byte after its last.

    Returns:
      (start, stop) of each string of each feature, by the feature's name. Features of
      numbers have no entry.

    Raises:
      UserError: If the bytes are not an Example.
    """
    found: dict[str, list[Span]] = {}

    # Example.features = 1, Features.feature = 1 (a map: key = 1, value = 2),
    # Feature.bytes_list = 1, BytesList.value = 1.
    for features in _fields(view, start, stop, 1):
        for entry in _fields(view, *features, 1):
            keys = list(_fields(view, *entry, 1))
            values = []
            for feature in _fields(view, *entry, 2):
                for bytes_list in _fields(view, *feature, 1):
                    values.append(list(_fields(view, *bytes_list, 1)))

            if keys and values:
                found[bytes(view[slice(*keys[0])]).decode()] = values[0]

    return found


def _fields(view: memoryview, start: int, stop: int, wanted: int) -> Iterator[Span]:
    """Yields the spans of a protocol buffer's length-delimited fields of one number."""
    while start < stop:
        # The low three bits are the wire type, the others the field's number.
        tag, start = _varint(view, start, stop)
        kind = tag & 7

        # 2: strings and messages; 0: variable-length numbers; 1 and 5: 8 and 4 bytes.
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
    """Reads a variable-length number; returns it and the offset after it."""
    value = 0
    shift = 0
    while start < stop:
        # Seven bits a byte, lowest first; the high bit says that more follow.
        byte = view[start]
        value |= (byte & 127) << shift
        start += 1
        if byte < 128:
            return value, start

        shift += 7
        if shift > 63:
            raise UserError("a number has more than 64 bits")

    raise UserError("a number is cut off")
