"""A map of images, each drawn small at its place in the plane."""

import numpy as np
from PIL import Image

from facecycle_jax.errors import UserError


def thumbnail_map(
    points: np.ndarray, images: np.ndarray, *, side: int = 1000, thumbnail: int = 40
) -> np.ndarray:
    """Draws images at their places, later ones over earlier ones.

    Args:
      points: [N, 2] finite, x to the right and y up, any unit. Both axes are stretched
        to fill the map.
      images: uint8 [N, H, W, 3].
      side: side of the map, in pixels.
      thumbnail: side of each image, in pixels.

    Returns:
      uint8 [side, side, 3], white where there is no image.

    Raises:
      UserError: if there are no images or not as many points, a point is not finite, or
        a thumbnail does not fit the map.
    """
    points = np.asarray(points, np.float64)
    images = np.asarray(images)
    if (
        points.shape != (len(images), 2)
        or not len(images)
        or not np.isfinite(points).all()
    ):
        raise UserError(
            f"a map needs finite points [N, 2] of N images, got {points.shape} and "
            f"{len(images)} images."
        )
    if not 1 <= thumbnail <= side:
        raise UserError(
            f"thumbnails must be 1 to {side} pixels, the map's side, got {thumbnail}."
        )

    # Lower left corners in pixels, y up. A single point has no extent to divide by.
    low = points.min(axis=0)
    extent = np.maximum(np.ptp(points, axis=0), 1e-12)
    corners = np.round((points - low) / extent * (side - thumbnail)).astype(int)

    canvas = Image.new("RGB", (side, side), "white")
    for (x, y), image in zip(corners, images, strict=True):
        small = Image.fromarray(image).resize(
            (thumbnail, thumbnail), Image.Resampling.LANCZOS
        )
        canvas.paste(small, (int(x), side - thumbnail - int(y)))
    return np.asarray(canvas)
