"""Faces followed through the frames of a video, each with a square around it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from facecycle_jax.commands.inputs import CHUNK
from facecycle_jax.data.images.framing import FRAMING, Framing, Square, cut_square
from facecycle_jax.errors import UserError

# Frames for which a square stays where it is while no face is found, if it is pasted.
_HOLD = 12
# Fraction of the way to the found face by which the square around it moves each frame.
_FOLLOW = 0.6


class Followed(NamedTuple):
    """A frame of a video and the square around the face in it.

    Attributes:
      frame: uint8 [H, W, 3].
      square: in pixels; None if there is no face.
      starts: whether the square is the first one of a face, or of a face in another
        scene.
    """

    frame: np.ndarray
    square: Square | None
    starts: bool = False


def follow_face(
    frames: Iterable[np.ndarray],
    *,
    which: str | int,
    name: str,
    framing: Framing = FRAMING,
) -> Iterator[np.ndarray]:
    """Crops a face out of every frame of a video.

    The square around the face is smoothed over time, because detections jitter. A face
    that jumps starts it anew. It stays where it is while no face is found.

    Args:
      frames: uint8 [H, W, 3] each.
      which: which of several faces.
      name: name of the video, for messages.
      framing: where the eyes are to be.

    Yields:
      uint8 [S, S, 3] each; as many as there are frames.

    Raises:
      UserError: If no face is found in the first frames.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face

    # Frames before the first face are held until that is found.
    waiting: list[np.ndarray] = []
    box: np.ndarray | None = None

    for frame in frames:
        waiting.append(frame)
        try:
            found = np.array(crop_face(frame, which=which, framing=framing).box, float)
            box, _ = _follow(box, found)
        except NoFaceError as error:
            if box is None:
                if len(waiting) < CHUNK:
                    continue
                raise UserError(
                    f"{name}, first {CHUNK} frames: {error} Try without --crop."
                ) from None

        for held in waiting:
            yield cut_square(held, _whole_square(box))
        waiting = []

    if waiting:
        raise UserError(f"{name}: no face was found in any frame. Try without --crop.")


def follow_square(
    frames: Iterable[np.ndarray], *, which: str | int, framing: Framing = FRAMING
) -> Iterator[Followed]:
    """Finds the square around a face in every frame of a video.

    The square is smoothed over time. A face that jumps starts it anew. It stays where
    it is for some frames in which no face is found.

    Args:
      frames: uint8 [H, W, 3] each.
      which: which of several faces.
      framing: where the eyes are to be.

    Yields:
      The frame, and the square around the face.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face

    box: np.ndarray | None = None
    missing = 0
    for frame in frames:
        starts = False
        try:
            found = np.array(crop_face(frame, which=which, framing=framing).box, float)
        except NoFaceError:
            missing += 1
            if missing > _HOLD:
                box = None
        else:
            missing = 0
            box, starts = _follow(box, found)

        if box is None:
            yield Followed(frame, None)
        else:
            yield Followed(frame, _whole_square(box), starts)


def _follow(box: np.ndarray | None, found: np.ndarray) -> tuple[np.ndarray, bool]:
    """Moves a square (left, top, right, bottom) towards the one that was found.

    Returns:
      The square, and whether it starts anew.
    """
    if box is None:
        return found, True

    # A face that jumps by half its size is another one, or in another scene.
    if np.abs(found - box).max() > (found[2] - found[0]) / 2:
        return found, True

    # Exponential smoothing.
    return box + _FOLLOW * (found - box), False


def _whole_square(box: np.ndarray) -> Square:
    """Rounds a square to pixels; the same rounded side keeps it square."""
    left, top = (round(edge) for edge in box[:2].tolist())
    side = round(float(box[2] - box[0]))
    return left, top, left + side, top + side
