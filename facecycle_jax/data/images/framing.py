"""Framing: where the eyes are in a face image that a model is trained on and expects.

A framing is four numbers, the places of both eyes in a square image. Coordinates are
fractions of the side, (x, y) from the top left corner. Left and right are those of the
image, not of the person.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facecycle_jax.errors import UserError

# Square of pixels (left, top, right, bottom); right and bottom are excluded.
Square = tuple[int, int, int, int]
# Part of an image that is used where no face is found: left, top and side, as fractions
# of the shorter side.
Cut = tuple[float, float, float]

# From the midpoint of the eyes to that of the mouth's corners, in distances of the
# eyes. In a frontal face the ratio is near 1.05; above this, the head is turned and the
# eyes look closer than they are.
MOUTH_TO_EYES = 1.15
# Index ranges of dlib's 68 landmarks.
_LEFT_EYE = slice(36, 42)
_RIGHT_EYE = slice(42, 48)
_MOUTH_CORNERS = (48, 54)


@dataclasses.dataclass(frozen=True)
class Framing:
    """Places of the eyes in a square image.

    Attributes:
      left_eye: (x, y) of the centre of the eye on the left of the image, fractions of
        the side.
      right_eye: (x, y) of the other.
    """

    left_eye: tuple[float, float] = (0.36, 0.41)
    right_eye: tuple[float, float] = (0.64, 0.41)

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: If an eye lies outside the image, or the left one is not left of
            the right one.
        """
        for name in ("left_eye", "right_eye"):
            point = getattr(self, name)
            is_pair = isinstance(point, tuple | list) and len(point) == 2

            if not is_pair or not all(_is_fraction(value) for value in point):
                raise UserError(
                    f"framing.{name} must be two numbers from 0 to 1, got {point!r}."
                )

            # The class is frozen, and lists of a config.json become tuples.
            object.__setattr__(self, name, (float(point[0]), float(point[1])))

        if not self.left_eye[0] < self.right_eye[0]:
            raise UserError(
                f"framing.left_eye must lie left of right_eye, got {self.left_eye} "
                f"and {self.right_eye}."
            )

    @property
    def midpoint(self) -> tuple[float, float]:
        """The point between the eyes, fractions of the side."""
        x = (self.left_eye[0] + self.right_eye[0]) / 2
        y = (self.left_eye[1] + self.right_eye[1]) / 2
        return x, y

    @property
    def eye_distance(self) -> float:
        """Distance of the eyes, a fraction of the side."""
        return math.dist(self.left_eye, self.right_eye)

    def to_dict(self) -> dict[str, list[float]]:
        """Returns the four numbers in the form of a model folder's config.json."""
        return {"left_eye": list(self.left_eye), "right_eye": list(self.right_eye)}

    @classmethod
    def from_dict(cls, content: Any) -> "Framing":
        """Reads what `to_dict` returns.

        Args:
          content: mapping with left_eye and right_eye.

        Returns:
          The framing.

        Raises:
          UserError: If a field is missing, unknown or out of range.
        """
        if not isinstance(content, Mapping) or set(content) != {
            "left_eye",
            "right_eye",
        }:
            raise UserError(
                f"framing must have left_eye and right_eye, got {str(content)[:80]}."
            )
        return cls(left_eye=content["left_eye"], right_eye=content["right_eye"])


def _is_fraction(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= 1
    )


# What the middle 0.6 of an LFW-deepfunneled image shows: midpoint (0.5, 0.41), eyes
# 0.28 apart.
FRAMING = Framing()


def square_of_landmarks(landmarks: np.ndarray, framing: Framing = FRAMING) -> Square:
    """Computes the square that shows a face in a framing, without any rotation.

    The eyes of a turned head look closer than they are. The distance from the eyes to
    the mouth does not shrink with yaw, so it sets the scale where it gives a larger
    one.

    Args:
      landmarks: float [68, 2], (x, y) in pixels, in the order of iBUG 300-W.
      framing: where the eyes are to be.

    Returns:
      The square in pixels; it may reach beyond the image.
    """
    # Centres of the eyes and of the mouth, each (x, y).
    left_eye = landmarks[_LEFT_EYE].mean(axis=0)
    right_eye = landmarks[_RIGHT_EYE].mean(axis=0)
    midpoint = (left_eye + right_eye) / 2
    mouth = landmarks[list(_MOUTH_CORNERS)].mean(axis=0)

    # Two estimates of the eye distance in a frontal view; yaw shortens the first only.
    from_eyes = float(np.linalg.norm(right_eye - left_eye))
    from_mouth = float(np.linalg.norm(mouth - midpoint)) / MOUTH_TO_EYES
    distance = max(from_eyes, from_mouth)

    return square_of_eyes((float(midpoint[0]), float(midpoint[1])), distance, framing)


def square_of_eyes(
    midpoint: tuple[float, float], distance: float, framing: Framing = FRAMING
) -> Square:
    """Computes the square that brings eyes of known midpoint and distance to a framing.

    Args:
      midpoint: (x, y) between the eyes, pixels of the image.
      distance: of the eyes in a frontal face of this size, pixels.
      framing: where the eyes are to be.

    Returns:
      The square in pixels; it may reach beyond the image.
    """
    side = max(1, round(distance / framing.eye_distance))

    # The midpoint of the eyes comes to its place; the corner follows from it.
    left = round(midpoint[0] - framing.midpoint[0] * side)
    top = round(midpoint[1] - framing.midpoint[1] * side)
    return left, top, left + side, top + side


def square_of_cut(cut: Cut, *, height: int, width: int) -> Square:
    """Computes the square of a fixed cut in an image.

    Args:
      cut: left, top and side, fractions of the shorter side of the image; left and top
        are measured from the corner of the image's middle square. Parts beyond the
        image are allowed.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      The square in pixels.

    Raises:
      UserError: If the numbers are not finite or the side is not above 0.
    """
    check_cut(cut)

    # The cut is measured from the corner of the middle square.
    shorter = min(height, width)
    left = round((width - shorter) / 2 + cut[0] * shorter)
    top = round((height - shorter) / 2 + cut[1] * shorter)
    side = max(1, round(cut[2] * shorter))

    return left, top, left + side, top + side


def read_framing(text: str) -> Framing:
    """Reads a framing in the form of the command line.

    Args:
      text: four numbers separated by commas: x and y of the left eye, then of the right
        one.

    Returns:
      The framing.

    Raises:
      UserError: If the text has another form, or a number is out of range.
    """
    try:
        left_x, left_y, right_x, right_y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            "a framing is four numbers, x and y of the left and of the right eye, "
            f"got {text!r}."
        ) from None
    return Framing(left_eye=(left_x, left_y), right_eye=(right_x, right_y))


def read_cut(values: str | Sequence[float]) -> Cut:
    """Reads a cut in the form of the command line or of a configuration.

    Args:
      values: three numbers, or a text of three numbers separated by commas.

    Returns:
      Left, top and side.

    Raises:
      UserError: If `values` has another form, or a number is out of range.
    """
    parts = values.split(",") if isinstance(values, str) else values
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise UserError(
            f"a cut is three numbers left,top,side, got {values!r}."
        ) from None

    if len(numbers) != 3:
        raise UserError(f"a cut is three numbers left,top,side, got {values!r}.")

    cut = (numbers[0], numbers[1], numbers[2])
    check_cut(cut)

    return cut


def check_cut(cut: Cut) -> None:
    """Checks a cut.

    Args:
      cut: left, top and side.

    Raises:
      UserError: If a number is not finite or beyond 10, or the side is not above 0.
    """
    is_sane = all(math.isfinite(value) and abs(value) <= 10 for value in cut)
    if not is_sane or not cut[2] > 0:
        raise UserError(
            "a cut is left,top,side in fractions of the shorter side, not pixels, each "
            f"-10 to 10 and the side above 0, got {','.join(f'{v:g}' for v in cut)}."
        )


def cut_square(image: np.ndarray, square: Square) -> np.ndarray:
    """Cuts a square out of an image, which is reflected beyond its edge pixels.

    Args:
      image: uint8 [H, W, 3].
      square: left, top, right, bottom in pixels.

    Returns:
      uint8 [S, S, 3].
    """
    left, top, right, bottom = square
    height, width = image.shape[:2]

    # Indexing with reflected positions needs no padded copy of the image.
    rows = _reflected(np.arange(top, bottom), height)
    columns = _reflected(np.arange(left, right), width)
    return image[rows[:, None], columns[None, :]]


def reach_beyond(square: Square, *, height: int, width: int) -> float:
    """Computes how far a square reaches beyond an image, on the worst side.

    Args:
      square: left, top, right, bottom in pixels.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      A fraction of the square's side, 0 where it lies inside.
    """
    left, top, right, bottom = square
    return max(0, -left, -top, right - width, bottom - height) / (right - left)


def _reflected(positions: np.ndarray, length: int) -> np.ndarray:
    """Maps positions beyond 0 .. length - 1 back inside, as numpy's mode 'reflect'."""
    # A round trip over the image takes this many steps. A single pixel is its own
    # reflection.
    period = max(1, 2 * (length - 1))
    forth = positions % period
    return np.minimum(forth, period - forth)
