"""Finds a face in a photograph and cuts it out as the training data does.

Pictures are uint8 [H, W, 3] RGB; boxes are (left, top, right, bottom) in pixels of the picture. The
detector is dlib's for frontal faces, whose model is part of the package (extra `face`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.errors import MissingExtraError, UserError

Box = tuple[int, int, int, int]
Detector = Callable[[np.ndarray], Sequence[tuple[Box, float]]]

# Fitted to 580 crops of YouTube Faces and CelebA frames that stand in larger pictures at any scale.
MARGIN = 0.39
_SHIFT = -0.02  # to the left and up, as a fraction of the detected side
# Longer sides at which faces are looked for, in this order; the detector needs about 70 pixels.
_SIDES = (480, 960, 1920)
_SURE, _UNSURE = 0.0, -0.3


class NoFaceError(UserError):
    """There is no face in the picture, or not as many as asked for."""


class FaceCrop(NamedTuple):
    """A face cut out of a picture.

    Attributes:
      crop: uint8 [S, S, 3]; black where the square reaches beyond the picture.
      box: the square in the picture (left, top, right, bottom), which may reach beyond it.
      score: the detector's confidence; for the built-in one above 0 is sure, down to -0.3 is not.
    """

    crop: np.ndarray
    box: Box
    score: float


def crop_face(
    image: np.ndarray,
    *,
    which: str | int = "largest",
    margin: float = MARGIN,
    detector: Detector | None = None,
) -> FaceCrop:
    """Cuts the square around one face, with the framing of the training data.

    Args:
      image: uint8 [H, W, 3].
      which: the face to take: 'largest', 'centre' (nearest to the middle of the picture), or its
        place from left to right, from 0.
      margin: space around the detected box, as a fraction of the box's side; the default frames
        brow to chin as the training pictures do.
      detector: another detector, image -> [(box, score), ...]; `margin` is then its own matter.

    Returns:
      The crop, its box and the detector's score.

    Raises:
      NoFaceError: if no face is found, or fewer than `which` asks for.
      ValueError: if `image` is not a picture, or `which` or `margin` is not one of the choices.
      ImportError: if no detector is given and dlib is not installed.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise UserError(f"crop_face takes uint8 [H, W, 3], got {image.dtype} {list(image.shape)}.")
    by_place = isinstance(which, int) and not isinstance(which, bool) and which >= 0
    if not by_place and which not in ("largest", "centre"):
        raise UserError(f"which must be 'largest', 'centre' or a place from 0 on, got {which!r}.")
    if not margin > -1:
        raise UserError(f"margin must be above -1, got {margin}.")
    faces = list((detector or find_faces)(image))
    height, width = image.shape[:2]
    if not faces:
        raise NoFaceError(f"No face was found in the picture of {width}x{height} pixels.")
    box, score = faces[_choose([face[0] for face in faces], which, width, height)]
    square = _square(box, margin)
    return FaceCrop(cut(image, square), square, float(score))


def find_faces(image: np.ndarray) -> list[tuple[Box, float]]:
    """Finds the faces of a picture with dlib's frontal face detector.

    Faces smaller than about a seventh of the longer side are looked for only where there is none
    that is larger, and unsure finds count only where there is no sure one.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      Box (brow to chin, about square) and score of each face, the surest first.

    Raises:
      ImportError: if dlib is not installed.
    """
    detect = _dlib_detector()
    longer = max(image.shape[:2])
    # Enlarging at most twice: finer pixels than that hold no further detail.
    for side in sorted({min(side, 2 * longer) for side in _SIDES}):
        factor = side / longer
        size = tuple(max(1, round(length * factor)) for length in image.shape[1::-1])
        resized = Image.fromarray(np.ascontiguousarray(image)).resize((size[0], size[1]))
        boxes, scores, _ = detect.run(np.array(resized), 0, _UNSURE)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
            left, top, right, bottom = (round(edge / factor) for edge in edges)
            faces.append(((left, top, right, bottom), float(score)))
        sure = [face for face in faces if face[1] >= _SURE]
        if sure or faces:
            return sorted(sure or faces, key=lambda face: -face[1])
    return []


@functools.cache
def _dlib_detector():  # type: ignore[no-untyped-def]  # dlib has no types
    """Loads the detector, once."""
    try:
        import dlib
    except ImportError as error:
        raise MissingExtraError("Finding faces needs dlib: pip install 'facecycle_jax[face]'.") from error
    return dlib.get_frontal_face_detector()


def _choose(boxes: list[Box], which: str | int, width: int, height: int) -> int:
    """Chooses a face and returns its index."""
    places = range(len(boxes))
    middles = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes]
    if which == "largest":
        return max(places, key=lambda i: (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]))
    if which == "centre":
        return min(
            places,
            key=lambda i: (middles[i][0] - width / 2) ** 2 + (middles[i][1] - height / 2) ** 2,
        )
    if int(which) >= len(boxes):
        raise NoFaceError(f"Face {which} was asked for, but {len(boxes)} were found (from 0 on).")
    return sorted(places, key=lambda i: middles[i])[int(which)]


def _square(box: Box, margin: float) -> Box:
    """Widens a box to the square of the crop."""
    left, top, right, bottom = box
    length = max(right - left, bottom - top)
    side = max(1, round(length * (1 + margin)))
    x = round((left + right - side) / 2 + _SHIFT * length)
    y = round((top + bottom - side) / 2 + _SHIFT * length)
    return x, y, x + side, y + side


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """Cuts a box out of a picture uint8 [H, W, 3], black outside."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    crop = np.zeros((bottom - top, right - left, 3), np.uint8)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y, x = max(-top, 0), max(-left, 0)
    if y < crop.shape[0] and x < crop.shape[1] and top < height and left < width:
        crop[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return crop
