"""A map of pictures: each drawn small at its place in the plane."""

import numpy as np
from PIL import Image

from facecycle_jax.errors import UserError


def thumbnail_map(
    points: np.ndarray, pictures: np.ndarray, *, side: int = 1000, thumbnail: int = 40
) -> np.ndarray:
    """Draws pictures at their places, later ones over earlier ones.

    Args:
      points: [N, 2] finite, x to the right and y up, any unit; stretched to fill the
        map in both.
      pictures: uint8 [N, H, W, 3].
      side: of the map, in pixels.
      thumbnail: side of each picture, in pixels.

    Returns:
      uint8 [side, side, 3], white where there is no picture.

    Raises:
      ValueError: if there are no pictures or not as many points, one is not finite, or
        nothing fits.
    """
    points, pictures = np.asarray(points, np.float64), np.asarray(pictures)
    if (
        points.shape != (len(pictures), 2)
        or not len(pictures)
        or not np.isfinite(points).all()
    ):
        raise UserError(
            f"a map needs finite points [N, 2] of N pictures, got {points.shape} and "
            f"{len(pictures)} pictures."
        )
    if not 1 <= thumbnail <= side:
        raise UserError(
            f"thumbnails must be 1 to {side} pixels, the map's side, got {thumbnail}."
        )
    low, extent = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
    places = np.round((points - low) / extent * (side - thumbnail)).astype(int)
    canvas = Image.new("RGB", (side, side), "white")
    for (x, y), picture in zip(places, pictures, strict=True):
        small = Image.fromarray(picture).resize(
            (thumbnail, thumbnail), Image.Resampling.LANCZOS
        )
        canvas.paste(small, (int(x), side - thumbnail - int(y)))
    return np.asarray(canvas)
