"""Data sets in host memory: decoded once, then sampled without reading a disk.

This backend does not need tensorflow.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Sequence

import numpy as np

from facecycle_jax.data.batches.frame_reader import (
    ReadFrame,
    UnreadableFrames,
    read_patiently,
)
from facecycle_jax.data.sources.records import DamagedSetError
from facecycle_jax.data.sources.tracks import Tracks, make_tracks
from facecycle_jax.errors import UserError


def check_memory(tracks: Tracks, *, size: int, limit_gb: float) -> None:
    """Checks that the decoded frames fit into `limit_gb` gigabytes.

    Raises:
      UserError: If they do not.
    """
    # One byte for each channel of each pixel.
    count = sum(len(frames) for frames in tracks.frames)
    needed = count * size * size * 3 / 1e9

    if needed > limit_gb:
        raise UserError(
            f"{tracks.origin} needs {needed:.1f} GB decoded at {size} pixels, more "
            f"than data.memory_gb={limit_gb}; set data.backend='threads', "
            "data.max_tracks, or allow more."
        )


def decode_all(
    tracks: Tracks, *, read: ReadFrame, report: UnreadableFrames, min_frames: int = 1
) -> tuple[Tracks, np.ndarray]:
    """Decodes every frame, leaves out images that cannot be decoded and reports them.

    A file that cannot be read at all is not left out, because that would change the
    data of the whole run. The run ends after some more attempts.

    Args:
      tracks: all tracks.
      read: reads a frame.
      report: collects the frames that cannot be decoded.
      min_frames: smallest number of frames that a track must keep. One that had fewer
        from the start, a single image of a root, must keep all.

    Returns:
      The tracks of the decoded frames, and the frames, uint8 [frames, size, size, 3],
      track by track.

    Raises:
      UserError: If nothing can be decoded, or a prepared set is damaged.
      OSError: If a file cannot be read.
    """
    paths = [path for frames in tracks.frames for path in frames]
    lock = threading.Lock()
    # All frames lie in one array, made as soon as the first one shows its shape. A list
    # that is stacked afterwards would need twice the memory. This list holds the array,
    # or nothing yet.
    whole: list[np.ndarray] = []

    def attempt(index: int) -> bool:
        try:
            frame = read_patiently(paths[index], read)
        except DamagedSetError:
            raise
        except ValueError as error:
            report.add(paths[index], str(error))
            return False

        with lock:
            if not whole:
                whole.append(np.empty((len(paths), *frame.shape), frame.dtype))

        whole[0][index] = frame
        return True

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = list(pool.map(attempt, range(len(paths))))

    if not any(decoded):
        reason = next(iter(report.unreadable.values()), "there is none")
        raise UserError(
            f"{tracks.origin}: none of its {len(paths)} images can be read; one: "
            f"{reason}"
        )

    # Build tracks of indices of the array first, so that a track that became too short
    # takes its frames with it.
    first = 0
    kept = []
    for person, name, frames in zip(
        tracks.identities, tracks.names, tracks.frames, strict=True
    ):
        numbers = range(first, first + len(frames))
        left = [number for number in numbers if decoded[number]]
        if len(left) >= min(min_frames, len(frames)):
            kept.append((person, name, left))
        first += len(frames)

    if not kept:
        reason = next(iter(report.unreadable.values()))
        raise UserError(
            f"{tracks.origin}: no track has {min_frames} images that can be read; one "
            f"that cannot: {reason}"
        )
    chosen = make_tracks(kept, origin=tracks.origin)

    # Back from indices to paths.
    order = [int(index) for frames in chosen.frames for index in frames]
    named = [[paths[int(index)] for index in frames] for frames in chosen.frames]
    return dataclasses.replace(chosen, frames=named), _keep_rows(whole[0], order)


def _keep_rows(array: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Moves rows to the front of an array and returns those, without a second array.

    Args:
      array: [N, ...], written to.
      rows: rising numbers of rows.

    Returns:
      [len(rows), ...], a part of the array.
    """
    assert all(before < after for before, after in itertools.pairwise(rows))
    for index, row in enumerate(rows):
        if index != row:
            array[index] = array[row]
    return array[: len(rows)]
