"""Data sets in host memory: decoded once, then sampled without reading a disk.

This backend does not need tensorflow.
"""

import concurrent.futures
import dataclasses
import os
import threading
import time

import numpy as np

from facecycle_jax.data.batches.frame_reader import ReadFrame, Report
from facecycle_jax.data.sources.records import DamagedSetError
from facecycle_jax.data.sources.tracks import Frame, Tracks, make_tracks
from facecycle_jax.errors import UserError

# Seconds to wait before a file that could not be read is tried again.
_PAUSES = (0.1, 0.5, 2.0)


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
    tracks: Tracks, *, read: ReadFrame, report: Report, min_frames: int = 1
) -> tuple[Tracks, np.ndarray]:
    """Decodes every frame, leaves out images that cannot be decoded and reports them.

    A file that cannot be read at all is not left out, because that would change the
    data of the whole run. The run ends after some more attempts.

    Args:
      tracks: all tracks.
      read: reads a frame.
      report: collects the frames that cannot be decoded.
      min_frames: smallest number of frames that a track must keep.

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
    # that is stacked afterwards would need twice the memory.
    kept: list[np.ndarray] = []

    def attempt(place: int) -> bool:
        try:
            frame = _read_patiently(paths[place], read)
        except DamagedSetError:
            raise
        except ValueError as error:
            report.add(paths[place], str(error))
            return False

        with lock:
            if not kept:
                kept.append(np.empty((len(paths), *frame.shape), frame.dtype))

        kept[0][place] = frame

        return True

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = list(pool.map(attempt, range(len(paths))))

    if not any(decoded):
        reason = next(iter(report.unreadable.values()), "there is none")
        raise UserError(
            f"{tracks.origin}: none of its {len(paths)} images can be read; one: "
            f"{reason}"
        )

    # Build tracks of places in the array first, so that a track that became too short
    # takes its frames with it.
    first = 0
    places = []
    for person, name, frames in zip(
        tracks.identities, tracks.names, tracks.frames, strict=True
    ):
        numbers = range(first, first + len(frames))
        places.append((person, name, [number for number in numbers if decoded[number]]))
        first += len(frames)

    chosen = make_tracks(places, origin=tracks.origin, min_frames=min_frames)

    # Back from places to paths. The array is copied only if something was left out.
    order = [int(place) for frames in chosen.frames for place in frames]
    named = [[paths[int(place)] for place in frames] for frames in chosen.frames]
    complete = order == list(range(len(paths)))
    decoded_frames = kept[0] if complete else kept[0][order]

    return dataclasses.replace(chosen, frames=named), decoded_frames


def _read_patiently(frame: Frame, read: ReadFrame) -> np.ndarray:
    """Reads a frame, with further attempts after an error of the storage.

    Raises:
      UserError: If the image cannot be decoded although its file can be read.
      OSError: If its file cannot be read.
    """
    for pause in _PAUSES:
        try:
            return read(frame)
        except DamagedSetError:
            raise
        except (ValueError, OSError):
            # The image is damaged if the file's bytes can be read, else the storage is.
            if _can_be_read(frame):
                break
            time.sleep(pause)

    if isinstance(frame, str):
        with open(frame, "rb") as file:
            file.read()

    return read(frame)


def _can_be_read(frame: Frame) -> bool:
    """Whether the storage delivers a frame's bytes; true of prepared sets.

    The reader of a prepared set checks its bytes itself.
    """
    if not isinstance(frame, str):
        return True
    try:
        with open(frame, "rb") as file:
            file.read()
    except OSError:
        return False
    return True
