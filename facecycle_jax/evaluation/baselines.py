"""Baselines: features that need no trained network.

Images are uint8 [N, S, S, 3], RGB.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError, importing
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet, plain
from facecycle_jax.evaluation.probes.codes import (
    PCA_NEED,
    reduced,
    require_sklearn,
)
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS
from facecycle_jax.networks.build import build_modules
from facecycle_jax.ops import normalise
from facecycle_jax.ops.normalisation import LUMA

# The fields of a model's configuration that describe its encoder.
ENCODER_FIELDS = ("width", "image_size", "code_dim", "dtype", "encoder_width")
_NEED = "The baselines LBP and HoG need scikit-image"


def _grey(images: np.ndarray) -> np.ndarray:
    """Computes the luma of images, float32 [N, H, W] in 0..255."""
    return images.astype(np.float32) @ np.array(LUMA, np.float32)


def lbp_features(images: np.ndarray, *, cell: int = 10) -> np.ndarray:
    """Computes histograms of uniform local binary patterns by cell.

    The patterns have 8 neighbours at radii 1 and 2. Square roots of the histograms are
    returned, so that cosine and Euclidean distance compare them as distributions
    (Hellinger).

    Args:
      images: uint8 [N, S, S, 3].
      cell: side of the square cells, in pixels. A remainder at the far edges is not
        used.

    Returns:
      float32 [N, cells * 118].

    Raises:
      MissingExtraError: If scikit-image is not installed.
      UserError: If an image is smaller than a cell.
    """
    with importing(_NEED, extra="eval"):
        from skimage.feature import local_binary_pattern

    side = images.shape[1] // cell
    if side < 1:
        raise UserError(
            f"images of {images.shape[1]} pixels have no cell of {cell} pixels."
        )

    # Number of its cell at every pixel, [side * cell, side * cell].
    cells = np.arange(side * side).reshape(side, side)
    cell_of_pixel = np.kron(cells, np.ones((cell, cell), np.int64))
    used = side * cell
    # Uniform patterns of 8 neighbours: 58, and one bin for all others.
    bins = 59

    rows = []
    for image in np.round(_grey(images)).astype(np.uint8):
        histograms = []
        for radius in (1, 2):
            patterns = local_binary_pattern(image, 8, radius, method="nri_uniform")
            patterns = patterns[:used, :used].astype(np.int64)

            # One count for the histograms of all cells, which follow each other.
            index = cell_of_pixel * bins + patterns
            counts = np.bincount(index.ravel(), minlength=side * side * bins)
            histograms.append(np.sqrt(counts / cell**2))
        rows.append(np.concatenate(histograms))
    return np.array(rows, np.float32)


def hog_features(images: np.ndarray, *, cell: int = 8) -> np.ndarray:
    """Computes histograms of oriented gradients (HoG).

    They have 9 orientations and blocks of 2 x 2 cells, normalised by L2-Hys, and are
    computed of the square root of the luma.

    Args:
      images: uint8 [N, S, S, 3].
      cell: side of the square cells, in pixels.

    Returns:
      float32 [N, D].

    Raises:
      MissingExtraError: If scikit-image is not installed.
    """
    with importing(_NEED, extra="eval"):
        from skimage.feature import hog

    rows = [
        hog(
            image / 255,
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
            transform_sqrt=True,
        )
        for image in _grey(images)
    ]
    return np.array(rows, np.float32)


def pixel_features(images: np.ndarray) -> np.ndarray:
    """Computes grey pixels, with mean 0 and standard deviation 1 in each image.

    Args:
      images: uint8 [N, S, S, 3].

    Returns:
      float32 [N, S * S].
    """
    flat = _grey(images).reshape(len(images), -1)

    # A lower bound of the standard deviation keeps uniform images finite.
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)


def fit_pca(
    images: np.ndarray, *, components: int = 200, seed: int = 0
) -> FeatureFunction:
    """Fits Eigenfaces: whitened principal components of `pixel_features`.

    Args:
      images: training images, uint8 [N, S, S, 3].
      components: most components. Fewer are used where images or pixels allow no more.
      seed: of the randomised solver.

    Returns:
      A function from images to float32 [N, components].

    Raises:
      MissingExtraError: If scikit-learn is not installed.
    """
    project = reduced(
        pixel_features(images), components=components, whiten=True, seed=seed
    )
    return lambda others: project(pixel_features(others))


def random_encoder(
    *,
    seed: int = 0,
    size: int = 64,
    features: str = "map",
    layer: str = LAYERS[-1],
    side: int = 0,
    width: float = 1.0,
    image_size: int = 64,
    code_dim: int = 256,
    dtype: str = "float32",
    encoder_width: float = 0.0,
) -> FeatureSet:
    """Builds the code encoder with random weights.

    Args:
      seed: of the weights.
      size: side of the images in pixels; the code needs 64.
      features: 'map' (below the dense layers) or 'code'.
      layer: of the map, one of `facecycle_jax.networks.LAYERS`, or several separated by
        commas, which need `side`.
      side: if above 0, the map is averaged to side x side areas.
      width: multiplier on all channel counts; 1 is the paper's.
      image_size: side of the images that the encoder is built for, see `CodeEncoder`.
      code_dim: length of the code.
      dtype: computation dtype, see `build_modules`.
      encoder_width: multiplier on the encoder's channels; 0 means `width`.

    Returns:
      The features.

    Raises:
      UserError: If `features` is neither 'map' nor 'code'.
    """
    if features not in ("map", "code"):
        raise UserError(f"features must be 'map' or 'code', got {features!r}.")

    encoder = build_modules(
        width=width,
        image_size=image_size,
        code_dim=code_dim,
        dtype=dtype,
        encoder_width=encoder_width,
    ).encoder
    start = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
    parameters = encoder.init(jax.random.key(seed), start)

    def encode(images: jax.Array) -> jax.Array:
        if features == "code":
            return jnp.asarray(encoder.apply(parameters, images))
        maps = encoder.apply(
            parameters, images, method="feature_map", layer=layer, side=side
        )
        return jnp.asarray(maps).reshape(len(images), -1)

    run = jax.jit(lambda images: encode(normalise(images)))
    return plain(lambda images: np.asarray(run(images)), size=size, encode=encode)


def _pca() -> FeatureSet:
    """Builds Eigenfaces."""
    # Before the features of the model, which come first, are computed.
    require_sklearn(PCA_NEED)
    return FeatureSet(fit=fit_pca, size=64, needs_fit=True)


# Functions of the encoder's options, which only random weights use.
BASELINES: dict[str, Callable[[Mapping[str, Any]], FeatureSet]] = {
    "lbp": lambda _: plain(lbp_features, size=100),
    "hog": lambda _: plain(hog_features, size=64),
    "pixels": lambda _: plain(pixel_features, size=32),
    "pca": lambda _: _pca(),
    "random": lambda options: random_encoder(
        **{"size": FEATURE_SIZE, **options}, side=FEATURE_SIDE
    ),
}
