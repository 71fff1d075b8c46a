"""Reading while training, with tf.data: parallel, in order, a few batches ahead.

The draws are those of `sampling`, so the pipeline starts at any step at once. Pictures
are decoded by the same code as in memory, and so are the same to the bit.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from facecycle_jax.data.batches.frame_reader import ReadFrame, Report, read_rows
from facecycle_jax.data.sources.tracks import Tracks
from facecycle_jax.errors import UserError

Draw = Callable[[int], dict[str, np.ndarray]]


def tf_batches(
    tracks: Tracks,
    draw: Draw,
    *,
    start: int,
    first: np.ndarray,
    size: int,
    read: ReadFrame,
    report: Report,
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

    Yields:
      {frames uint8 [B, 2, size, size, 3], mirror, track, identity}.

    Raises:
      ValueError: if tensorflow is not installed, or a whole track cannot be read.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            "data.backend='tf' needs tensorflow: pip install 'facecycle_jax[tf]', or set "
            "data.backend='threads', which needs nothing."
        ) from None
    # The devices are jax's.
    tf.config.set_visible_devices([], "GPU")

    def draws() -> Iterator[dict[str, np.ndarray]]:
        step = start
        while True:
            yield draw(step)
            step += 1

    failures: list[ValueError] = []
    example = draw(start)
    shape = (*example["frame"].shape, size, size, 3)

    def read_pairs(frame: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, bool]:
        places = frame - first[track]
        frames = np.zeros(shape, np.uint8)
        rows = frames.reshape(-1, size, size, 3)
        try:
            read_rows(
                rows, tracks, track.ravel(), places.ravel(), read=read, report=report
            )
        except ValueError as error:
            # Raised below, in the batch's turn: raised here, tensorflow would print its
            # own stack.
            failures.append(error)
            return frames, False
        return frames, True

    signature = {
        k: tf.TensorSpec(v.shape, tf.as_dtype(v.dtype)) for k, v in example.items()
    }

    def load(indices: dict[str, Any]) -> dict[str, Any]:
        inputs = [indices["frame"], indices["track"]]
        frames, whole = tf.numpy_function(read_pairs, inputs, (tf.uint8, tf.bool))
        frames = tf.ensure_shape(frames, shape)
        return {
            "frames": frames,
            "whole": whole,
            **{k: v for k, v in indices.items() if k != "frame"},
        }

    dataset = tf.data.Dataset.from_generator(draws, output_signature=signature)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    for batch in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        if not batch.pop("whole"):
            raise failures[0]
        yield batch
