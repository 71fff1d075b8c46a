"""Reading while training, with tf.data: parallel, in order, a few batches ahead.

The draws are those of `sampling`, so the pipeline starts at any step at once. Pictures are decoded by the
same code as in memory, and so are the same to the bit.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from facecycle_jax.data.reading import Report, read_frame
from facecycle_jax.data.tracks import Tracks

log = logging.getLogger(__name__)
Draw = Callable[[int], dict[str, np.ndarray]]


def read_or_replace(tracks: Tracks, track: int, place: int, *, size: int, report: Report) -> np.ndarray:
    """Reads a frame of a track; in place of an unreadable one the next readable frame of that track.

    Raises:
      ValueError: if no frame of the track can be read.
    """
    frames = tracks.frames[track]
    for offset in range(len(frames)):
        path = frames[(place + offset) % len(frames)]
        if path in report.unreadable:
            continue
        try:
            return read_frame(path, size=size)
        except ValueError as error:
            report.add(path, str(error))
    raise ValueError(
        f"No picture of the track {tracks.names[track]} can be read; remove it from {tracks.origin}."
    )


def tf_batches(
    tracks: Tracks, draw: Draw, *, start: int, first: np.ndarray, size: int, report: Report
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of steps start, start + 1, ... without end.

    Args:
      tracks: with file names as frames.
      draw: draws the indices of a step, this process's part.
      start: first step.
      first: number of every track's first frame.
      size: side in pixels.
      report: takes what cannot be read.

    Yields:
      {frames uint8 [B, 2, size, size, 3], mirror, track, identity}.

    Raises:
      ValueError: if tensorflow is not installed, or a whole track cannot be read.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise ValueError(
            "data.backend='tf' needs tensorflow: pip install 'facecycle_jax[tf]', or set "
            "data.backend='memory' for a set that fits into memory."
        ) from None
    # The devices are jax's.
    tf.config.set_visible_devices([], "GPU")

    def draws() -> Iterator[dict[str, np.ndarray]]:
        step = start
        while True:
            yield draw(step)
            step += 1

    failures: list[ValueError] = []

    def read(frame: np.ndarray, track: np.ndarray) -> np.ndarray:
        try:
            places = frame - first[track]
            wanted = list(zip(track.ravel().tolist(), places.ravel().tolist(), strict=True))
            # A frame to be paired with its mirror image is wanted twice and read once.
            pictures = {
                (t, p): read_or_replace(tracks, t, p, size=size, report=report)
                for t, p in dict.fromkeys(wanted)
            }
            return np.stack([pictures[one] for one in wanted]).reshape(*frame.shape, size, size, 3)
        except ValueError as error:
            failures.append(error)
            raise

    example = draw(start)
    signature = {k: tf.TensorSpec(v.shape, tf.as_dtype(v.dtype)) for k, v in example.items()}

    def load(indices: dict[str, Any]) -> dict[str, Any]:
        frames = tf.numpy_function(read, [indices["frame"], indices["track"]], tf.uint8)
        frames = tf.ensure_shape(frames, (*example["frame"].shape, size, size, 3))
        return {"frames": frames, **{k: v for k, v in indices.items() if k != "frame"}}

    dataset = tf.data.Dataset.from_generator(draws, output_signature=signature)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        yield from dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    except tf.errors.OpError:
        if failures:
            raise failures[0] from None
        raise
