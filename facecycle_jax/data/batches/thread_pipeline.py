"""The threads backend: reads in order, a few batches ahead, without tensorflow.

The draws are those of `sampling`, so the pipeline can start at any step. Reading,
decoding and resizing release the interpreter's lock and therefore use all cores.
"""

import concurrent.futures
import functools
import itertools
import os
from collections import deque
from collections.abc import Iterator

import numpy as np

from facecycle_jax.data.batches.frame_reader import (
    ReadFrame,
    UnreadableFrames,
    read_rows,
)
from facecycle_jax.data.batches.sampling import Draw
from facecycle_jax.data.sources.tracks import Tracks

# Images of one task: enough to be worth its overhead, few enough that several threads
# share a batch.
_CHUNK = 16


def thread_batches(
    tracks: Tracks,
    draw: Draw,
    *,
    start: int,
    size: int,
    read: ReadFrame,
    report: UnreadableFrames,
    threads: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of steps start, start + 1, ... without end.

    Args:
      tracks: all tracks.
      draw: draws the indices of a step, this process's part: the position of each frame
        in its track, and what the batch holds in addition to frames.
      start: first step.
      size: side in pixels.
      read: reads a frame.
      report: collects the frames that cannot be read.
      threads: number of reading threads; 0: as many as cores.

    Yields:
      {frames uint8 [B, 2, size, size, 3], mirror, track, identity}.

    Raises:
      UserError: If a whole track cannot be read, or a prepared set is damaged.
      OSError: If the storage does not deliver a frame.
    """
    fill = functools.partial(read_rows, read=read, report=report)
    threads = threads or os.cpu_count() or 1
    steps = itertools.count(start)
    pending: deque[
        tuple[dict[str, np.ndarray], list[concurrent.futures.Future[None]]]
    ] = deque()

    def submit(step: int) -> None:
        drawn = draw(step)
        position = drawn.pop("position")
        track = drawn["track"]

        # Flat over items and their frames, [B * 2]: a task fills a slice of the rows.
        rows = np.empty((track.size, size, size, 3), np.uint8)
        flat_track = track.ravel()
        flat_position = position.ravel()

        tasks = []
        for begin in range(0, track.size, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            task = pool.submit(
                fill, rows[part], tracks, flat_track[part], flat_position[part]
            )
            tasks.append(task)

        batch = {"frames": rows.reshape(*track.shape, size, size, 3), **drawn}
        pending.append((batch, tasks))

    pool = concurrent.futures.ThreadPoolExecutor(
        max_workers=threads, thread_name_prefix="reader"
    )
    try:
        submit(next(steps))

        # Two tasks for each thread in flight, rounded up to whole batches: one is being
        # read, one waits.
        tasks_per_batch = len(pending[0][1])
        ahead = max(2, -(-2 * threads // tasks_per_batch))

        while True:
            while len(pending) <= ahead:
                submit(next(steps))
            batch, tasks = pending.popleft()
            for task in tasks:
                task.result()
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
