"""What probes are run on.

Functions from pictures to features, and reading them in batches.

Pictures uint8 [N, S, S, 3], RGB; features float32 [N, D].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from facecycle_jax.data.labelled.images import Pictures, load_pictures
from facecycle_jax.errors import UserError
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS
from facecycle_jax.ops import denormalise, normalise, normalise_lighting

FeatureFunction = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[jax.Array], jax.Array]
# One for all kinds of features: compiled once for each size of pictures.
_even_light = jax.jit(normalise_lighting, static_argnames="strength")


class FaceModel(Protocol):
    """What probes need of a loaded model.

    Pictures uint8 [N, H, W, 3], results of any array kind.
    """

    def motion_code(self, images: Any) -> Any:
        """Computes motion codes [N, D]."""

    def identity_code(self, images: Any) -> Any:
        """Computes identity codes [N, D]."""

    def feature_map(self, images: Any, *, size: int, layer: str, side: int) -> Any:
        """Computes a layer's maps of pictures resized to size x size, averaged to side x side areas."""

    def neutral(self, images: Any) -> Any:
        """Draws neutral faces [N, S, S, 3]."""

    def mean_face(self, images: Any) -> Any:
        """Draws mean faces [N, S, S, 3]."""

    def reexpress(self, source: Any, driver: Any) -> Any:
        """Draws the source's faces with the driver's motion [N, S, S, 3]."""


class FeatureSet(NamedTuple):
    """A kind of features.

    Attributes:
      name: for reports.
      fit: `fit(training pictures) -> function`; most kinds ignore the pictures.
      size: side of the pictures it takes, in pixels.
      needs_fit: whether `fit` looks at the pictures, and so must not see test ones.
      encode: the same as a function jax can trace, from normalised pictures [N, S, S,
        3] to [N, D], which the linear protocol needs for its augmentation; None where
        there is none.
      adapt: `adapt(features of training pictures) -> function of features`, for
        verification; None leaves features as they are.
      shared: kinds with one name here, if any, have the same features before `adapt`.
    """

    name: str
    fit: Callable[[np.ndarray], FeatureFunction]
    size: int
    needs_fit: bool = False
    encode: Encode | None = None
    adapt: Callable[[np.ndarray], FeatureFunction] | None = None
    shared: str = ""


def plain(
    name: str, function: FeatureFunction, *, size: int, encode: Encode | None = None
) -> FeatureSet:
    """Wraps a function that needs no fitting.

    Args:
      name: for reports.
      function: pictures to features.
      size: side of the pictures it takes, in pixels.
      encode: see `FeatureSet`.

    Returns:
      The feature set.
    """
    return FeatureSet(name, lambda _: function, size, False, encode)


def with_mirror_image(kind: FeatureSet) -> FeatureSet:
    """Averages features over a picture and its mirror image, the flip test of face verification.

    What a label does not change with, as identity and emotion, features then do not
    change with either. Not for head pose: the mirror image has another one.

    Args:
      kind: any kind of features.

    Returns:
      The same kind of the average, fitted as before.
    """

    def averaged(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda pictures: (
            (function(pictures) + function(pictures[:, :, ::-1])) / 2
        )

    encode = None if kind.encode is None else averaged(kind.encode)
    return kind._replace(fit=lambda sample: averaged(kind.fit(sample)), encode=encode)


def with_even_light(kind: FeatureSet, strength: float) -> FeatureSet:
    """Takes features of pictures of even brightness and contrast, made by `facecycle_jax.ops.normalise_lighting`.

    Args:
      kind: any kind of features.
      strength: 0 to 1.

    Returns:
      The same kind of such pictures; what is fitted to pictures is fitted to such ones.
    """
    even = functools.partial(_even_light, strength=strength)

    def fit(sample: np.ndarray) -> FeatureFunction:
        function = kind.fit(np.asarray(even(sample)) if kind.needs_fit else sample)
        return lambda pictures: function(np.asarray(even(pictures)))

    encode = kind.encode
    traced = (
        None
        if encode is None
        else lambda images: encode(normalise(even(denormalise(images))))
    )
    return kind._replace(fit=fit, encode=traced)


def extract(
    function: FeatureFunction,
    pictures: Pictures,
    *,
    size: int,
    crop: float = 1.0,
    batch: int = 256,
) -> np.ndarray:
    """Computes features of many pictures, a batch in memory at a time.

    Args:
      function: pictures to features.
      pictures: file names, or uint8 [N, H, W] or [N, H, W, 3].
      size: side the function takes, in pixels.
      crop: side of the middle square that is kept, in parts of the shorter side.
      batch: pictures at a time; the last batch is filled up, so that shapes do not
        change.

    Returns:
      float32 [N, D].

    Raises:
      ValueError: if there are no pictures.
    """
    if not len(pictures):
        raise UserError("there are no pictures to compute features of.")
    rows = []
    for start in range(0, len(pictures), batch):
        loaded = load_pictures(pictures[start : start + batch], size=size, crop=crop)
        missing = batch - len(loaded) if start else 0
        if missing:
            loaded = np.concatenate([loaded, np.repeat(loaded[-1:], missing, axis=0)])
        computed = np.asarray(function(loaded), np.float32)
        rows.append(computed.reshape(len(loaded), -1)[: len(loaded) - missing])
    return np.concatenate(rows)


def model_features(
    model: FaceModel,
    *,
    size: int,
    layer: str = LAYERS[-1],
    map_size: int = FEATURE_SIZE,
) -> dict[str, FeatureSet]:
    """Lists a model's codes as features.

    Args:
      model: a loaded model.
      size: side of the pictures it takes, in pixels.
      layer: whose map of the motion encoder is taken, one of
        `facecycle_jax.networks.LAYERS`.
      map_size: side of the pictures the map is taken of, in pixels.

    Returns:
      motion_code, identity_code, both (one behind the other, each of unit length) and
      feature_map (averaged to 7 x 7 where it is larger; of the last layer at 100 pixels
      the linear protocol's), by name.
    """

    def feature_map(pictures: np.ndarray) -> np.ndarray:
        return np.asarray(
            model.feature_map(pictures, size=map_size, layer=layer, side=FEATURE_SIDE)
        )

    def both(pictures: np.ndarray) -> np.ndarray:
        codes = [
            np.asarray(model.motion_code(pictures)),
            np.asarray(model.identity_code(pictures)),
        ]
        # Of unit length each: the cosine of the whole is the mean of the two cosines.
        return np.concatenate(
            [c / np.linalg.norm(c, axis=1, keepdims=True).clip(1e-12) for c in codes], 1
        )

    return {
        "motion_code": plain(
            "motion_code", lambda p: np.asarray(model.motion_code(p)), size=size
        ),
        "identity_code": plain(
            "identity_code", lambda p: np.asarray(model.identity_code(p)), size=size
        ),
        "both": plain("both", both, size=size),
        "feature_map": plain("feature_map", feature_map, size=map_size),
    }
