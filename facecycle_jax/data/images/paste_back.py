"""Pasting: a face that a model drew goes back to its place in the photograph.

`crop_face` cuts a square out of a photograph and returns its place. The model draws a
face of another size for that square. Here the face gets the size of the square and the
colours of its surroundings, and is blended in with a smooth edge. Nothing of the
photograph outside the square changes.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.data.images.framing import Square, cut_square
from facecycle_jax.errors import UserError

# Width of the smooth edge, and of the border outside it that shows the photograph
# alone, as fractions of the square's side.
_EDGE = 0.16
_BORDER = 0.02
# Exponent of the mask's outline: 2 is a circle, more comes closer to the square.
_ROUNDNESS = 4
# Smallest and largest factor of the contrast. Beyond them the face would look wrong
# even where its surroundings match.
_GAINS = (0.6, 1.6)
# Standard deviations below this many levels of 255 say nothing about contrast.
_FLAT = 2.0


class Colours(NamedTuple):
    """What brings the colours of a face to those of the photograph.

    Attributes:
      gain: float64 [3], factor of each channel about `centre`.
      centre: float64 [3], mean of the face in the ring, 0 to 255.
      target: float64 [3], mean of the photograph in the ring.
    """

    gain: np.ndarray
    centre: np.ndarray
    target: np.ndarray

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Returns an image [..., 3] in these colours, float64, not clipped."""
        return (image - self.centre) * self.gain + self.target

    def towards(self, other: "Colours", amount: float) -> "Colours":
        """Returns colours that lie between these and others, for smooth videos."""
        return Colours(
            *(old + amount * (new - old) for old, new in zip(self, other, strict=True))
        )


def blend_mask(side: int) -> np.ndarray:
    """Computes how much of the face shows at each place of the square.

    Args:
      side: pixels.

    Returns:
      float64 [side, side], 1 in the middle and 0 at the border, with a smooth edge. Its
      outline is a square with round corners.
    """
    # Positions of the pixels' centres, -1 to 1.
    positions = (np.arange(side) + 0.5) / side * 2 - 1
    powers = np.abs(positions) ** _ROUNDNESS
    distance = (powers[:, None] + powers[None, :]) ** (1 / _ROUNDNESS)

    # A half of the square's side has length 1 here.
    outer = 1 - 2 * _BORDER
    inner = outer - 2 * _EDGE
    ramp = np.clip((outer - distance) / (outer - inner), 0.0, 1.0)

    # 3 t^2 - 2 t^3 has no corner at either end.
    smooth: np.ndarray = ramp * ramp * (3 - 2 * ramp)
    return smooth


def match_colours(image: np.ndarray, face: np.ndarray, square: Square) -> Colours:
    """Finds the colours of a photograph in the ring where a face is blended in.

    Mean and standard deviation of each channel are compared there. The photograph is
    brought to the resolution of the face first, because a coarse image has less
    contrast.

    Args:
      image: uint8 [H, W, 3], the photograph.
      face: uint8 [S, S, 3].
      square: its place, see `crop_face`.

    Returns:
      The colours; those of the face itself if none of the ring lies in the photograph.
    """
    size = face.shape[0]
    original = Image.fromarray(cut_square(image, square))
    coarse = original.resize((size, size), Image.Resampling.LANCZOS)

    # Weights are largest in the middle of the smooth edge. What lies beyond the
    # photograph was reflected, so it does not count.
    mask = blend_mask(size)
    weights = mask * (1 - mask) * _inside(image, square, size)
    total = weights.sum()
    if total < 1e-6:
        return Colours(gain=np.ones(3), centre=np.zeros(3), target=np.zeros(3))

    def moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.asarray(pixels, np.float64)
        shares = weights[..., None] / total
        mean = (shares * values).sum((0, 1))
        return mean, np.sqrt((shares * (values - mean) ** 2).sum((0, 1)))

    centre, own = moments(face)
    target, wanted = moments(np.asarray(coarse))
    gain = np.clip((wanted + _FLAT) / (own + _FLAT), *_GAINS)
    return Colours(gain=gain, centre=centre, target=target)


def paste_face(
    image: np.ndarray,
    face: np.ndarray,
    square: Square,
    *,
    colours: Colours | None = None,
) -> np.ndarray:
    """Puts a drawn face back into the photograph, at the photograph's resolution.

    Args:
      image: uint8 [H, W, 3], the photograph.
      face: uint8 [S, S, 3], what a model drew for the square.
      square: left, top, right, bottom in pixels, the `box` of `crop_face`. It may reach
        beyond the photograph.
      colours: of the face in the photograph; None finds them by `match_colours`.

    Returns:
      uint8 [H, W, 3], a new image.

    Raises:
      UserError: If an argument is not an image, or the square has no area.
    """
    left, top, right, bottom = square
    side = right - left
    for name, array in (("image", image), ("face", face)):
        is_rgb = array.ndim == 3 and array.shape[-1] == 3 and 0 not in array.shape
        if array.dtype != np.uint8 or not is_rgb:
            raise UserError(
                f"{name} must be uint8 [H, W, 3], got {array.dtype} "
                f"{list(array.shape)}."
            )
    if face.shape[0] != face.shape[1] or side < 1 or bottom - top != side:
        raise UserError(
            f"a square face is pasted into a square, got {list(face.shape)} and "
            f"{square}."
        )

    if colours is None:
        colours = match_colours(image, face, square)

    # The part of the square that lies in the photograph, in pixels of either.
    height, width = image.shape[:2]
    x0, x1 = max(0, left), min(width, right)
    y0, y1 = max(0, top), min(height, bottom)
    pasted = image.copy()
    if x0 >= x1 or y0 >= y1:
        return pasted
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))

    # The inverse of the crop: the face gets the size of the square.
    enlarged = Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC)
    drawn = colours.apply(np.asarray(enlarged, np.float64)[inside])

    amount = blend_mask(side)[inside][..., None]
    before = image[y0:y1, x0:x1].astype(np.float64)
    blended = before + amount * (np.clip(drawn, 0, 255) - before)
    pasted[y0:y1, x0:x1] = np.round(blended).astype(np.uint8)
    return pasted


def _inside(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Returns [size, size], 1 for the places of a square that lie in an image, or 0."""
    left, top, right, bottom = square
    height, width = image.shape[:2]
    steps = (np.arange(size) + 0.5) / size
    x = left + steps * (right - left)
    y = top + steps * (bottom - top)

    columns = (x >= 0) & (x < width)
    rows = (y >= 0) & (y < height)
    return np.asarray(rows[:, None] & columns[None, :], np.float64)
