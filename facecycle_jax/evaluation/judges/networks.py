"""Independent judges of face images: landmarks and identity by dlib (extra `judges`).

Judges only measure. Nothing is trained with them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.data.images.face_crop import assumed_box, find_faces
from facecycle_jax.data.images.landmarks import (
    RECOGNITION,
    find_landmarks,
    load_predictor,
    model_file,
)
from facecycle_jax.errors import missing_extra

# Distance of codes below which the network accepts two images as one person. It is the
# threshold of the network's author.
SAME_PERSON = 0.6
# Side to which images are enlarged, pixels. The network uses 150 pixels of a face.
_SIDE = 256
# Side for `find_faces`, which doubles it. A face is then large enough to be detected.
_DETECTOR_SIDE = 128


class Judgement(NamedTuple):
    """Measurements of images by a judge.

    Attributes:
      found: bool [N], whether a face was detected. If not, the other values were
        measured where the framing of the images has the face.
      landmarks: float [N, 68, 2], (x, y) in pixels.
      codes: float [N, D] of identity, compared by Euclidean distance.
    """

    found: np.ndarray
    landmarks: np.ndarray
    codes: np.ndarray


# From images uint8 [N, S, S, 3] to their measurements.
Judge = Callable[[np.ndarray], Judgement]


def dlib_judge() -> Judge:
    """Loads dlib's detector, landmark predictor and ResNet face network.

    Returns:
      The judge.

    Raises:
      MissingExtraError: If dlib or its models are not installed.
    """
    load_predictor()
    network = _load_network()
    return functools.partial(_judge, network)


@functools.cache
def _load_network() -> Any:
    """Loads the face network, which is then cached."""
    path = model_file(RECOGNITION)
    if path is None:
        raise missing_extra("Evaluating faces needs dlib's models", extra="judges")

    import dlib

    return dlib.face_recognition_model_v1(str(path))


def _judge(network: Any, images: np.ndarray) -> Judgement:
    """Measures images one after the other."""
    import dlib

    found = []
    landmarks = []
    codes = []
    scale = _SIDE // _DETECTOR_SIDE
    factor = _SIDE / images.shape[1]
    for image in images:
        # An image shows one face, so the most confident detection is used.
        faces = find_faces(_resized(image, _DETECTOR_SIDE))
        left, top, right, bottom = faces[0][0] if faces else assumed_box(_DETECTOR_SIDE)
        box = (scale * left, scale * top, scale * right, scale * bottom)
        found.append(bool(faces))

        # Centres of pixels lie half a pixel inside, whatever the size of the image.
        enlarged = _resized(image, _SIDE)
        points = find_landmarks(enlarged, box)
        landmarks.append((points + 0.5) / factor - 0.5)

        parts = [dlib.point(round(x), round(y)) for x, y in points.tolist()]
        shape = dlib.full_object_detection(dlib.rectangle(*box), parts)
        code = network.compute_face_descriptor(enlarged, shape)
        codes.append(np.array(code))
    return Judgement(np.array(found), np.stack(landmarks), np.stack(codes))


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image to a square of `side` pixels."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized)
