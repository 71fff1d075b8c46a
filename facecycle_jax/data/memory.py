"""Sets that fit into memory: decoded once, then sampled without touching a disk. Needs no tensorflow."""

import concurrent.futures
import os

import numpy as np

from facecycle_jax.data.reading import ReadFrame, Report
from facecycle_jax.data.records import DamagedSetError
from facecycle_jax.data.tracks import Frame, Tracks, make_tracks
from facecycle_jax.errors import UserError


def check_memory(tracks: Tracks, *, size: int, limit_gb: float) -> None:
    """Raises ValueError if the decoded frames would not fit into `limit_gb` gigabytes."""
    needed = sum(len(frames) for frames in tracks.frames) * size * size * 3 / 1e9
    if needed > limit_gb:
        raise UserError(
            f"{tracks.origin} needs {needed:.1f} GB decoded at {size} pixels, more than "
            f"data.memory_gb={limit_gb}; set data.backend='tf' or 'threads', data.max_tracks, or allow more."
        )


def decode_all(
    tracks: Tracks, *, read: ReadFrame, report: Report, min_frames: int = 1
) -> tuple[Tracks, np.ndarray]:
    """Decodes every frame; those that cannot be read are left out and reported.

    Args:
      tracks: all tracks.
      read: reads a frame.
      report: takes what cannot be read.
      min_frames: fewest frames a track must keep.

    Returns:
      The tracks of what was read, and the frames uint8 [frames, size, size, 3], track by track.

    Raises:
      ValueError: if nothing can be read, or a prepared set is damaged.
    """

    def attempt(frame: Frame) -> np.ndarray | None:
        try:
            return read(frame)
        except DamagedSetError:
            raise
        except ValueError as error:
            report.add(frame, str(error))
            return None

    paths = [path for frames in tracks.frames for path in frames]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = dict(zip(paths, pool.map(attempt, paths), strict=True))
    if not any(frame is not None for frame in decoded.values()):
        reason = next(iter(report.unreadable.values()), "there is none")
        raise UserError(f"{tracks.origin}: none of its {len(paths)} pictures can be read; one: {reason}")
    kept = make_tracks(
        [
            (person, name, [path for path in frames if decoded[path] is not None])
            for person, name, frames in zip(tracks.identities, tracks.names, tracks.frames, strict=True)
        ],
        origin=tracks.origin,
        min_frames=min_frames,
    )
    readable = (decoded[path] for frames in kept.frames for path in frames)
    return kept, np.stack([frame for frame in readable if frame is not None])
