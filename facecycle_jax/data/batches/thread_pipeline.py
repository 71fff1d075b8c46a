"""Reading while training, with threads.

In order, a few batches ahead, without tensorflow.

The draws are those of `sampling`, so the pipeline starts at any step at once. Reading,
decoding and resizing run outside the interpreter's lock, and so on all cores.
"""

import concurrent.futures
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from facecycle_jax.data.batches.frame_reader import ReadFrame, Report, read_rows
from facecycle_jax.data.sources.tracks import Tracks

Draw = Callable[[int], dict[str, np.ndarray]]
# Pictures that one thread reads in a row: many enough to be worth a task, few enough to
# share a batch.
_CHUNK = 16


def thread_batches(
    tracks: Tracks,
    draw: Draw,
    *,
    start: int,
    first: np.ndarray,
    size: int,
    read: ReadFrame,
    report: Report,
    threads: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of steps start, start + 1, ... without end.

    Args:
      tracks: all tracks.
      draw: draws the indices of a step, this process's part.
      start: first step.
      first: number of every track's first frame.
      size: side in pixels.
      read: reads a frame.
      report: takes what cannot be read.
      threads: that read; 0: as many as cores.

    Yields:
      {frames uint8 [B, 2, size, size, 3], mirror, track, identity}.

    Raises:
      ValueError: if a whole track cannot be read, or a prepared set is damaged.
    """
    fill = functools.partial(read_rows, read=read, report=report)
    threads = threads or os.cpu_count() or 1
    steps = itertools.count(start)
    pending: deque[
        tuple[dict[str, np.ndarray], list[concurrent.futures.Future[None]]]
    ] = deque()

    def submit(step: int) -> None:
        drawn = draw(step)
        frame, track = drawn.pop("frame"), drawn["track"]
        place = (frame - first[track]).ravel()
        out = np.empty((track.size, size, size, 3), np.uint8)
        parts = range(0, track.size, _CHUNK)
        flat = track.ravel()
        tasks = [
            pool.submit(
                fill,
                out[i : i + _CHUNK],
                tracks,
                flat[i : i + _CHUNK],
                place[i : i + _CHUNK],
            )
            for i in parts
        ]
        batch = {"frames": out.reshape(*track.shape, size, size, 3), **drawn}
        pending.append((batch, tasks))

    pool = concurrent.futures.ThreadPoolExecutor(
        max_workers=threads, thread_name_prefix="reader"
    )
    try:
        submit(next(steps))
        # Enough tasks in flight for every thread to have one more waiting.
        ahead = max(2, -(-2 * threads // len(pending[0][1])))
        while True:
            while len(pending) <= ahead:
                submit(next(steps))
            batch, tasks = pending.popleft()
            for task in tasks:
                task.result()
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
