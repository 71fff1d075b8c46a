"""Face crops: finds a face in a photograph and cuts it out in a model's framing.

Images are uint8 [H, W, 3] RGB; boxes are (left, top, right, bottom) in pixels of the
image. The detector is dlib's for frontal faces, whose model is part of dlib (extra
`face`). With the extra `landmarks` the eyes decide the framing, without it the
detector's box does, which is less exact.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.data.images.framing import (
    FRAMING,
    Cut,
    Framing,
    cut_square,
    reach_beyond,
    square_of_cut,
    square_of_eyes,
    square_of_landmarks,
)
from facecycle_jax.data.images.landmarks import find_landmarks, has_landmarks
from facecycle_jax.errors import UserError, importing

Box = tuple[int, int, int, int]
Detector = Callable[[np.ndarray], Sequence[tuple[Box, float]]]
Landmarker = Callable[[np.ndarray, Box], np.ndarray]

# Where the eyes are in a box of the built-in detector: their midpoint from its centre,
# (x, y), and their distance, as fractions of its side. Medians over 200 images of LFW.
_EYES_IN_BOX = (-0.022, -0.227)
_EYE_DISTANCE_IN_BOX = 0.396
# Longer sides of the image at which the detector runs, smallest first. It needs faces
# of about 70 pixels.
_SIDES = (480, 960, 1920)
# Images are enlarged at most twice. Those that are still smaller then are enlarged to
# this side, too.
_SMALLEST = 240
# Scores of the detector above which a face is sure, and at least considered.
_SURE, _UNSURE = 0.0, -0.3


class NoFaceError(UserError):
    """There is no face in the image, or fewer than requested."""


class FaceCrop(NamedTuple):
    """A face cut out of an image.

    Attributes:
      crop: uint8 [S, S, 3]; where the square reaches beyond the image, the image is
        reflected.
      box: the square in the image (left, top, right, bottom), which may reach beyond
        it.
      score: the detector's confidence. The built-in detector is sure above 0 and unsure
        from -0.3 to 0.
    """

    crop: np.ndarray
    box: Box
    score: float


def crop_face(
    image: np.ndarray,
    *,
    which: str | int = "largest",
    framing: Framing = FRAMING,
    margin: float | None = None,
    detector: Detector | None = None,
    landmarks: Landmarker | None = None,
) -> FaceCrop:
    """Cuts the square around one face, in the framing that a model expects.

    Args:
      image: uint8 [H, W, 3].
      which: the face to take: 'largest', 'centre' (nearest to the middle of the image),
        or its place from left to right, from 0.
      framing: where the eyes are to be in the crop.
      margin: if given, the crop is the detected box with this much space around it, as
        a fraction of the box's side, and `framing` is ignored.
      detector: another detector, image -> [(box, score), ...].
      landmarks: finds the landmarks of a face, (image, box) -> float [68, 2] in the
        order of iBUG 300-W. None uses dlib's predictor if the extra `landmarks` is
        installed and the detector is the built-in one. Without landmarks, the eyes are
        assumed at their usual places in the detected box.

    Returns:
      The crop, its box and the detector's score.

    Raises:
      NoFaceError: If no face is found, or fewer than `which` needs.
      UserError: If `image` is not an image, or `which` or `margin` is invalid.
      MissingExtraError: If no detector is given and dlib is not installed.
    """
    image = _check_image(image)

    by_place = isinstance(which, int) and not isinstance(which, bool) and which >= 0
    if not by_place and which not in ("largest", "centre"):
        raise UserError(
            f"which must be 'largest', 'centre' or a place from 0 on, got {which!r}."
        )

    if margin is not None and not margin > -1:
        raise UserError(f"margin must be above -1, got {margin}.")

    faces = list((detector or find_faces)(image))
    if not faces:
        raise _no_face(image)

    height, width = image.shape[:2]
    box, score = faces[_choose([face[0] for face in faces], which, width, height)]

    if landmarks is None and detector is None and has_landmarks():
        landmarks = find_landmarks

    # A margin goes before the framing; landmarks are more exact than the box.
    if margin is not None:
        square = _widen(box, margin)
        return FaceCrop(cut_square(image, square), box=square, score=float(score))
    return _crop_box(image, box, score, framing, landmarks)


def crop_faces(image: np.ndarray, *, framing: Framing = FRAMING) -> list[FaceCrop]:
    """Cuts the squares around all faces that are found, as `crop_face` does for one.

    Args:
      image: uint8 [H, W, 3].
      framing: where the eyes are to be in the crops.

    Returns:
      The crops from left to right, at least one.

    Raises:
      NoFaceError: If no face is found.
      UserError: If `image` is not an image.
      MissingExtraError: If dlib is not installed.
    """
    image = _check_image(image)
    faces = find_faces(image)
    if not faces:
        raise _no_face(image)

    landmarks = find_landmarks if has_landmarks() else None
    return [
        _crop_box(image, box, score, framing, landmarks)
        for box, score in sorted(faces, key=lambda face: _middle(face[0]))
    ]


def _no_face(image: np.ndarray) -> NoFaceError:
    """Returns the error of an image without a face."""
    height, width = image.shape[:2]
    return NoFaceError(f"No face was found in the image of {width}x{height} pixels.")


def _crop_box(
    image: np.ndarray,
    box: Box,
    score: float,
    framing: Framing,
    landmarks: Landmarker | None,
) -> FaceCrop:
    """Crops the face in a detected box, by its landmarks if they can be found."""
    if landmarks is not None:
        square = square_of_landmarks(landmarks(image, box), framing)
    else:
        square = _square_of_box(box, framing)
    return FaceCrop(cut_square(image, square), box=square, score=float(score))


def _check_image(image: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [H, W, 3]; raises UserError if it is none."""
    image = np.asarray(image)
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[-1] != 3
        or 0 in image.shape
    ):
        raise UserError(
            f"crop_face takes uint8 [H, W, 3], got {image.dtype} {list(image.shape)}."
        )
    return image


class Framed(NamedTuple):
    """An image brought to a framing.

    Attributes:
      image: uint8 [S, S, 3].
      found: whether the square was placed by a face instead of by the fixed cut.
      beyond: how far the square reaches beyond the image, see `reach_beyond`. This part
        is reflected.
    """

    image: np.ndarray
    found: bool
    beyond: float


def frame_image(
    image: np.ndarray, *, crop: bool, cut: Cut | None = None, framing: Framing = FRAMING
) -> Framed:
    """Brings an image to a framing by its face, or by a fixed cut where none is found.

    Args:
      image: uint8 [H, W, 3].
      crop: whether the largest face is looked for.
      cut: left, top and side of a fixed square, see `square_of_cut`.
      framing: where the eyes are to be.

    Returns:
      The square, at the image's own resolution.

    Raises:
      NoFaceError: If no face is found and there is no cut.
      UserError: If neither `crop` nor `cut` is given, or the cut is out of range.
      MissingExtraError: If a face is looked for and dlib is not installed.
    """
    if not crop and cut is None:
        raise UserError("framing an image needs crop, a cut, or both.")

    height, width = image.shape[:2]
    if crop:
        try:
            face = crop_face(image, framing=framing)
            beyond = reach_beyond(face.box, height=height, width=width)
            return Framed(face.crop, found=True, beyond=beyond)
        except NoFaceError:
            if cut is None:
                raise

    assert cut is not None
    square = square_of_cut(cut, height=height, width=width)
    beyond = reach_beyond(square, height=height, width=width)

    return Framed(cut_square(image, square), found=False, beyond=beyond)


def find_faces(image: np.ndarray) -> list[tuple[Box, float]]:
    """Finds the faces of an image with dlib's frontal face detector.

    Faces smaller than about a seventh of the longer side are looked for only where
    there is no larger one. Unsure finds count only where there is no sure one of about
    the same size.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      Box (brow to chin, about square) and score of each face, the surest first.

    Raises:
      MissingExtraError: If dlib is not installed.
    """
    detect = _dlib_detector()
    longer = max(image.shape[:2])

    # Enlarging more than twice adds no detail.
    sides = {min(side, 2 * longer) for side in _SIDES}
    if 2 * longer < _SMALLEST:
        sides.add(_SMALLEST)

    for side in sorted(sides):
        factor = side / longer
        height, width = image.shape[:2]
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(size)
        boxes, scores, _ = detect.run(np.array(resized), 0, _UNSURE)

        # Boxes come back to pixels of the image; dlib's right and bottom are included.
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
            left, top, right, bottom = (round(edge / factor) for edge in edges)
            faces.append(((left, top, right, bottom), float(score)))

        sure = [face for face in faces if face[1] >= _SURE]
        if faces:
            return sorted(sure or faces, key=lambda face: -face[1])

    return []


@functools.cache
def _dlib_detector():  # type: ignore[no-untyped-def]  # dlib has no types
    """Loads the detector on the first call."""
    with importing("Finding faces needs dlib", extra="face"):
        import dlib
    return dlib.get_frontal_face_detector()


def _middle(box: Box) -> tuple[float, float]:
    """Computes the middle of a box, (x, y)."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


def _choose(boxes: list[Box], which: str | int, width: int, height: int) -> int:
    """Chooses a face and returns its index."""
    indices = range(len(boxes))
    middles = [_middle(box) for box in boxes]

    def area(index: int) -> int:
        left, top, right, bottom = boxes[index]
        return (right - left) * (bottom - top)

    def squared_distance(index: int) -> float:
        x, y = middles[index]
        return (x - width / 2) ** 2 + (y - height / 2) ** 2

    if which == "largest":
        return max(indices, key=area)
    if which == "centre":
        return min(indices, key=squared_distance)

    if int(which) >= len(boxes):
        raise NoFaceError(
            f"there is no face {which}: faces found are {len(boxes)}, counted from 0."
        )

    return sorted(indices, key=lambda i: middles[i])[int(which)]


def _square_of_box(box: Box, framing: Framing) -> Box:
    """Computes the square that brings the eyes in a detected box to a framing."""
    left, top, right, bottom = box
    length = max(right - left, bottom - top)
    x = (left + right) / 2 + _EYES_IN_BOX[0] * length
    y = (top + bottom) / 2 + _EYES_IN_BOX[1] * length
    return square_of_eyes((x, y), _EYE_DISTANCE_IN_BOX * length, framing)


def assumed_box(side: int, framing: Framing = FRAMING) -> Box:
    """Computes where the built-in detector usually finds the face of a framed image.

    Args:
      side: side of the image in pixels.
      framing: framing of the image.

    Returns:
      The box in pixels.
    """
    # The inverse of `_square_of_box`.
    length = framing.eye_distance * side / _EYE_DISTANCE_IN_BOX
    left = round(framing.midpoint[0] * side - (_EYES_IN_BOX[0] + 0.5) * length)
    top = round(framing.midpoint[1] * side - (_EYES_IN_BOX[1] + 0.5) * length)
    return left, top, left + round(length), top + round(length)


def _widen(box: Box, margin: float) -> Box:
    """Widens a box to a square about its centre."""
    left, top, right, bottom = box
    length = max(right - left, bottom - top)
    side = max(1, round(length * (1 + margin)))
    x = round((left + right - side) / 2)
    y = round((top + bottom - side) / 2)
    return x, y, x + side, y + side
