"""The features that probes are run on, and their computation in batches.

Images are uint8 [N, S, S, 3], RGB. Features are float32 [N, D].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from facecycle_jax.data.labelled.images import Images, load_images
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.scaling import unit_length
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS
from facecycle_jax.ops import denormalise, normalise, normalise_lighting

FeatureFunction = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[jax.Array], jax.Array]
# Side of the areas that the last maps of all methods are averaged to.
COMMON_SIDE = 2
# Shared by all kinds of features, so that each image size is compiled once.
_normalise_light = jax.jit(normalise_lighting, static_argnames="strength")


class FaceModel(Protocol):
    """What probes need of a loaded model.

    Images are uint8 [N, H, W, 3]. Results may be any kind of array.
    """

    def motion_code(self, images: Any) -> Any:
        """Computes motion codes [N, D]."""

    def identity_code(self, images: Any) -> Any:
        """Computes identity codes [N, D]."""

    def feature_map(self, images: Any, *, size: int, layer: str, side: int) -> Any:
        """Computes a layer's maps of images resized to size x size.

        The maps are averaged to side x side areas.
        """


class FeatureSet(NamedTuple):
    """A kind of features.

    Attributes:
      fit: `fit(training images) -> function`. Most kinds ignore the images.
      size: side of the images that the function accepts, in pixels.
      needs_fit: whether `fit` uses the images, which then must not be test images.
      encode: the same function in traceable form, from normalised images [N, S, S, 3]
        to [N, D], which the linear protocol needs for its augmentation. None if there
        is none.
      adapt: `adapt(features of training images) -> function of features`. None leaves
        features as they are. The linear protocol cannot adapt features.
      shared: kinds with the same name here have the same features before `adapt`. ''
        means that nothing is shared.
    """

    fit: Callable[[np.ndarray], FeatureFunction]
    size: int
    needs_fit: bool = False
    encode: Encode | None = None
    adapt: Callable[[np.ndarray], FeatureFunction] | None = None
    shared: str = ""

    def fitted(
        self, training_images: Callable[[], np.ndarray] | None = None
    ) -> FeatureFunction:
        """Fits the features where they need it.

        Args:
          training_images: loads the images to fit to, uint8 [N, S, S, 3]. It is called
            only if `needs_fit`. None is for kinds that do not need it.

        Returns:
          The function from images to features.
        """
        if not self.needs_fit:
            return self.fit(np.zeros((0, self.size, self.size, 3), np.uint8))
        assert training_images is not None
        return self.fit(training_images())


def plain(
    function: FeatureFunction, *, size: int, encode: Encode | None = None
) -> FeatureSet:
    """Wraps a function that needs no fitting.

    Args:
      function: from images to features.
      size: side of the images that the function accepts, in pixels.
      encode: see `FeatureSet`.

    Returns:
      The feature set.
    """
    return FeatureSet(fit=lambda _: function, size=size, encode=encode)


def with_mirror_image(kind: FeatureSet) -> FeatureSet:
    """Averages features over an image and its mirror image.

    This is the flip test of face verification. Labels that mirroring does not change,
    such as identity and emotion, then have features that it does not change either. It
    is wrong for head pose, because the mirror image has another one.

    Args:
      kind: any kind of features.

    Returns:
      The averaged kind, fitted as before.
    """

    def averaged(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda images: (function(images) + function(images[:, :, ::-1])) / 2

    encode = None if kind.encode is None else averaged(kind.encode)
    return kind._replace(fit=lambda sample: averaged(kind.fit(sample)), encode=encode)


def with_normalised_light(kind: FeatureSet, strength: float) -> FeatureSet:
    """Computes features of images whose brightness and contrast are normalised.

    Args:
      kind: any kind of features.
      strength: 0 (not) to 1 (entirely), see `facecycle_jax.ops.normalise_lighting`.

    Returns:
      The same kind for such images. What is fitted is fitted to such images, too.
    """
    normalise_light = functools.partial(_normalise_light, strength=strength)

    def fit(sample: np.ndarray) -> FeatureFunction:
        if kind.needs_fit:
            sample = np.asarray(normalise_light(sample))
        function = kind.fit(sample)
        return lambda images: function(np.asarray(normalise_light(images)))

    encode = kind.encode
    if encode is None:
        return kind._replace(fit=fit)

    def traced(images: jax.Array) -> jax.Array:
        # Lighting is defined on pixel values, while `encode` receives normalised ones.
        return encode(normalise(normalise_light(denormalise(images))))

    return kind._replace(fit=fit, encode=traced)


def extract(
    function: FeatureFunction,
    images: Images,
    *,
    size: int,
    crop: float = 1.0,
    batch: int = 256,
) -> np.ndarray:
    """Computes features of many images, one batch in memory at a time.

    Args:
      function: from images to features.
      images: file names, or uint8 [N, H, W] or [N, H, W, 3].
      size: side of the images that the function accepts, in pixels.
      crop: side of the central square that is kept, as a fraction of the shorter side.
      batch: images at a time. The last batch is padded, so that shapes do not change.

    Returns:
      float32 [N, D].

    Raises:
      UserError: If there are no images.
    """
    if not len(images):
        raise UserError("there are no images to compute features of.")

    rows = []
    for start in range(0, len(images), batch):
        loaded = load_images(images[start : start + batch], size=size, crop=crop)

        # The last image fills a short last batch: a new shape would be compiled anew.
        missing = batch - len(loaded) if start else 0
        if missing:
            padding = np.repeat(loaded[-1:], missing, axis=0)
            loaded = np.concatenate([loaded, padding])

        computed = np.asarray(function(loaded), np.float32)
        flat = computed.reshape(len(loaded), -1)
        rows.append(flat[: len(loaded) - missing])
    return np.concatenate(rows)


def model_features(
    model: FaceModel,
    *,
    size: int,
    layer: str = LAYERS[-1],
    map_size: int = FEATURE_SIZE,
) -> dict[str, FeatureSet]:
    """Lists a model's codes and feature map as features.

    Args:
      model: a loaded model.
      size: side of the images of its codes, in pixels.
      layer: of the motion encoder whose map is used, one of
        `facecycle_jax.networks.LAYERS`, or several separated by commas, whose maps are
        joined.
      map_size: side of the images that the map is computed of, in pixels.

    Returns:
      Features by name: motion_code, identity_code, both (concatenated, each of unit
      length) and feature_map, averaged to 7 x 7 where it is larger. The linear protocol
      uses the last layer's map at 100 pixels.
    """

    def motion_code(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.motion_code(images))

    def identity_code(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.identity_code(images))

    def both(images: np.ndarray) -> np.ndarray:
        # With both codes of unit length, the cosine of the whole is the mean of the two
        # cosines.
        motion = unit_length(motion_code(images))
        identity = unit_length(identity_code(images))
        return np.concatenate([motion, identity], axis=1)

    def feature_map(images: np.ndarray) -> np.ndarray:
        return np.asarray(
            model.feature_map(images, size=map_size, layer=layer, side=FEATURE_SIDE)
        )

    return {
        "motion_code": plain(motion_code, size=size),
        "identity_code": plain(identity_code, size=size),
        "both": plain(both, size=size),
        "feature_map": plain(feature_map, size=map_size),
    }


def peer_feature_sets(model: PeerModel, *, size: int) -> dict[str, FeatureSet]:
    """Lists the features of a method that FaceCycle is compared with.

    Args:
      model: a loaded model.
      size: side of the images of the features, in pixels; see `PeerModel.features`.

    Returns:
      Features by name: features, those that the method's authors use, and map, the last
      convolutional map of images of the size trained on, averaged to 2 x 2 areas.
    """

    def features(images: np.ndarray) -> np.ndarray:
        return model.features(images, size=size)

    def common_map(images: np.ndarray) -> np.ndarray:
        return model.feature_map(images, side=COMMON_SIDE)

    traced_map = functools.partial(model.traced_features, maps=True, side=COMMON_SIDE)
    return {
        "features": plain(features, size=size, encode=model.traced_features),
        "map": plain(common_map, size=model.size, encode=traced_map),
    }
