"""Facial landmarks, found by dlib's predictor of 68 points (extra `landmarks`).

The predictor was trained on iBUG 300-W, whose terms exclude commercial use.
"""

import functools
import importlib.util
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from facecycle_jax.errors import importing, missing_extra

PREDICTOR = "shape_predictor_68_face_landmarks.dat"
RECOGNITION = "dlib_face_recognition_resnet_model_v1.dat"
_PACKAGE = "face_recognition_models"
# Side to which a face is enlarged for the predictor, in pixels. Below it, the whole
# pixels of the points are too coarse.
_SIDE = 160
# Space around the face that is enlarged with it, as a fraction of the face's side.
_SURROUNDINGS = 0.4


def model_file(name: str) -> pathlib.Path | None:
    """Finds a model of the package face_recognition_models without importing it.

    The package itself imports pkg_resources, which current versions of setuptools no
    longer have.

    Args:
      name: name of the file, `PREDICTOR` or `RECOGNITION`.

    Returns:
      The file, or None if the package or the file is missing.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = pathlib.Path(next(iter(spec.submodule_search_locations))) / "models" / name
    return path if path.is_file() else None


def has_landmarks() -> bool:
    """Whether dlib and the predictor are installed."""
    return (
        importlib.util.find_spec("dlib") is not None
        and model_file(PREDICTOR) is not None
    )


@functools.cache
def load_predictor() -> Any:
    """Loads the predictor on the first call.

    Returns:
      dlib's `shape_predictor`.

    Raises:
      MissingExtraError: If dlib or the predictor is not installed.
    """
    need = "Landmarks need their model"
    with importing(need, extra="landmarks"):
        import dlib

    path = model_file(PREDICTOR)
    if path is None:
        raise missing_extra(need, extra="landmarks")

    return dlib.shape_predictor(str(path))


def find_landmarks(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Finds the landmarks of one face.

    Args:
      image: uint8 [H, W, 3], RGB.
      box: the face as dlib's detector finds it (left, top, right, bottom), pixels.

    Returns:
      float64 [68, 2], (x, y) in pixels of the image.

    Raises:
      MissingExtraError: If dlib or the predictor is not installed.
    """
    predictor = load_predictor()
    import dlib

    # The predictor works in whole pixels, so a small face is enlarged first, together
    # with its surroundings.
    left, top, right, bottom = box
    length = max(1, right - left, bottom - top)
    space = round(_SURROUNDINGS * length)
    x0 = max(0, left - space)
    y0 = max(0, top - space)
    part = image[y0 : bottom + space, x0 : right + space]
    if not part.size:
        # The box lies outside the image, as that of a custom detector may.
        part, x0, y0 = image, 0, 0

    factor = max(1.0, _SIDE / length)
    if factor > 1:
        height, width = part.shape[:2]
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image_of_part = Image.fromarray(np.ascontiguousarray(part))
        part = np.asarray(image_of_part.resize(size, Image.Resampling.BICUBIC))

    # The box in pixels of the enlarged part; dlib includes the right and bottom edge.
    edges = [
        round((edge - origin) * factor)
        for edge, origin in zip(box, (x0, y0, x0, y0), strict=True)
    ]
    rectangle = dlib.rectangle(edges[0], edges[1], edges[2] - 1, edges[3] - 1)
    shape = predictor(np.ascontiguousarray(part), rectangle)

    points = np.array([(point.x, point.y) for point in shape.parts()], float)

    # The centre of an enlarged pixel, back in pixels of the image.
    return (points + 0.5) / factor - 0.5 + np.array([x0, y0])
