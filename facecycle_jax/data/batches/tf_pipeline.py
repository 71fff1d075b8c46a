"""The tf.data backend: reads in parallel, in order, a few batches ahead.

The draws are those of `sampling`, so the pipeline can start at any step. The code that
decodes images is that of the memory backend, so the batches are equal bit for bit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from facecycle_jax.data.batches.frame_reader import (
    ReadFrame,
    UnreadableFrames,
    read_rows,
)
from facecycle_jax.data.batches.sampling import Draw
from facecycle_jax.data.sources.tracks import Tracks
from facecycle_jax.errors import UserError


def tf_batches(
    tracks: Tracks,
    draw: Draw,
    *,
    start: int,
    size: int,
    read: ReadFrame,
    report: UnreadableFrames,
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

    Yields:
      {frames uint8 [B, 2, size, size, 3], mirror, track, identity}.

    Raises:
      UserError: If tensorflow is not installed, a whole track cannot be read, or a
        prepared set is damaged.
      OSError: If the storage does not deliver a frame.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            "data.backend='tf' needs tensorflow: pip install 'facecycle_jax[tf]', or "
            "set data.backend='threads', which needs nothing."
        ) from None

    # JAX owns the accelerators: tensorflow must not reserve their memory.
    tf.config.set_visible_devices([], "GPU")

    def draws() -> Iterator[dict[str, np.ndarray]]:
        step = start
        while True:
            yield draw(step)
            step += 1

    failures: list[ValueError | OSError] = []
    example = draw(start)
    shape = (*example["position"].shape, size, size, 3)

    def read_pairs(position: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, bool]:
        frames = np.zeros(shape, np.uint8)
        rows = frames.reshape(-1, size, size, 3)
        try:
            read_rows(
                rows, tracks, track.ravel(), position.ravel(), read=read, report=report
            )
        except (ValueError, OSError) as error:
            # Raised below, when this batch is due. An exception raised here would reach
            # the user as an error of tensorflow with its own stack trace.
            failures.append(error)
            return frames, False

        return frames, True

    signature = {
        k: tf.TensorSpec(v.shape, tf.as_dtype(v.dtype)) for k, v in example.items()
    }

    def load(indices: dict[str, Any]) -> dict[str, Any]:
        inputs = [indices["position"], indices["track"]]
        frames, whole = tf.numpy_function(read_pairs, inputs, (tf.uint8, tf.bool))
        # tf.numpy_function loses the shape.
        frames = tf.ensure_shape(frames, shape)
        others = {k: v for k, v in indices.items() if k != "position"}
        return {"frames": frames, "whole": whole, **others}

    dataset = tf.data.Dataset.from_generator(draws, output_signature=signature)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    for batch in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        if not batch.pop("whole"):
            raise failures[0]
        yield batch
