"""Independent judges of face images: landmarks and identity by dlib (extra `judges`).

They only measure; nothing is trained with them.
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
from facecycle_jax.errors import MissingExtraError

# Two images are of one person to the network where their codes are closer than this;
# its author's threshold.
SAME_PERSON = 0.6
# Side to which images are enlarged, pixels: the network looks at 150 pixels of a face.
_SIDE = 256
# Side for `find_faces`, which doubles it; a face is then large enough to be found.
_DETECTOR_SIDE = 128


class Judgement(NamedTuple):
    """What a judge sees in images.

    Attributes:
      found: bool [N], whether a face was detected. Where none was, the rest was
        measured where the framing has the face.
      landmarks: float [N, 68, 2], (x, y) in pixels.
      codes: float [N, D] of identity, compared by Euclidean distance.
    """

    found: np.ndarray
    landmarks: np.ndarray
    codes: np.ndarray


# Looks at images uint8 [N, S, S, 3].
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
    """Loads the face network, once."""
    path = model_file(RECOGNITION)
    if path is None:
        raise MissingExtraError(
            "Judging faces needs dlib's models: pip install 'facecycle_jax[judges]'."
        )
    import dlib

    return dlib.face_recognition_model_v1(str(path))


def _judge(network: Any, images: np.ndarray) -> Judgement:
    """Looks at images one after the other."""
    import dlib

    found, landmarks, codes = [], [], []
    scale = _SIDE // _DETECTOR_SIDE
    factor = _SIDE / images.shape[1]
    for image in images:
        small, enlarged = (_resized(image, side) for side in (_DETECTOR_SIDE, _SIDE))
        faces = find_faces(small)
        # The surest: the image shows one face.
        left, top, right, bottom = faces[0][0] if faces else assumed_box(_DETECTOR_SIDE)
        box = (scale * left, scale * top, scale * right, scale * bottom)
        points = find_landmarks(enlarged, box)
        found.append(bool(faces))
        landmarks.append((points + 0.5) / factor - 0.5)

        parts = [dlib.point(round(x), round(y)) for x, y in points.tolist()]
        shape = dlib.full_object_detection(dlib.rectangle(*box), parts)
        codes.append(np.array(network.compute_face_descriptor(enlarged, shape)))
    return Judgement(np.array(found), np.stack(landmarks), np.stack(codes))


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image to a square of `side` pixels."""
    return np.asarray(
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    )
