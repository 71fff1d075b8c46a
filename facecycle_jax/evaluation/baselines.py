"""Features that need no training: the floor under every figure.

Pictures uint8 [N, S, S, 3], RGB.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet, plain
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS
from facecycle_jax.networks.build import build_networks
from facecycle_jax.ops import normalise

_NEEDS = (
    "The baselines LBP and HoG need scikit-image: pip install 'facecycle_jax[eval]'."
)


def _grey(pictures: np.ndarray) -> np.ndarray:
    """Luma [N, H, W] of 0..255."""
    return pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def lbp_features(pictures: np.ndarray, *, cell: int = 10) -> np.ndarray:
    """Computes square roots of uniform local binary pattern histograms (8 neighbours, radii 1 and 2) by cell.

    The root makes cosine and Euclidean distance compare histograms as distributions
    (Hellinger).

    Args:
      pictures: uint8 [N, S, S, 3].
      cell: side of the square cells, in pixels; what is left over at the far edges is
        not used.

    Returns:
      float32 [N, cells * 118].

    Raises:
      ImportError: if scikit-image is not installed.
      ValueError: if a picture is smaller than a cell.
    """
    try:
        from skimage.feature import local_binary_pattern
    except ImportError as error:
        raise MissingExtraError(_NEEDS) from error
    side = pictures.shape[1] // cell
    if side < 1:
        raise UserError(
            f"pictures of {pictures.shape[1]} pixels have no cell of {cell} pixels."
        )
    rows, bins, used = [], 59, side * cell
    places = np.kron(
        np.arange(side * side).reshape(side, side), np.ones((cell, cell), np.int64)
    )
    for picture in np.round(_grey(pictures)).astype(np.uint8):
        histograms = []
        for radius in (1, 2):
            codes = local_binary_pattern(picture, 8, radius, method="nri_uniform")[
                :used, :used
            ]
            index = places * bins + codes.astype(np.int64)
            counts = np.bincount(index.ravel(), minlength=side * side * bins)
            histograms.append(np.sqrt(counts / cell**2))
        rows.append(np.concatenate(histograms))
    return np.array(rows, np.float32)


def hog_features(pictures: np.ndarray, *, cell: int = 8) -> np.ndarray:
    """Computes histograms of oriented gradients.

    9 orientations, 2x2-cell blocks, L2-Hys, roots of the grey.

    Args:
      pictures: uint8 [N, S, S, 3].
      cell: side of the square cells, in pixels.

    Returns:
      float32 [N, D].

    Raises:
      ImportError: if scikit-image is not installed.
    """
    try:
        from skimage.feature import hog
    except ImportError as error:
        raise MissingExtraError(_NEEDS) from error
    rows = [
        hog(
            picture / 255,
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
            transform_sqrt=True,
        )
        for picture in _grey(pictures)
    ]
    return np.array(rows, np.float32)


def pixel_features(pictures: np.ndarray) -> np.ndarray:
    """Computes grey pixels, each picture at zero mean and unit deviation.

    Args:
      pictures: uint8 [N, S, S, 3].

    Returns:
      float32 [N, S * S].
    """
    flat = _grey(pictures).reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)


def fit_pca(
    pictures: np.ndarray, *, components: int = 200, seed: int = 0
) -> FeatureFunction:
    """Fits Eigenfaces: whitened principal components of `pixel_features`.

    Args:
      pictures: training pictures, uint8 [N, S, S, 3].
      components: most components; no more than pictures or pixels allow are used.
      seed: of the randomised solver.

    Returns:
      Pictures to float32 [N, components].

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise MissingExtraError(
            "Eigenfaces need scikit-learn: pip install 'facecycle_jax[eval]'."
        ) from error
    values = pixel_features(pictures)
    count = min(components, values.shape[0] - 1, values.shape[1])
    pca = PCA(count, whiten=True, svd_solver="randomized", random_state=seed).fit(
        values
    )
    # Directions that training pictures do not fill would be blown up in others.
    kept = pca.explained_variance_ > 1e-7 * pca.explained_variance_.max()
    return lambda others: pca.transform(pixel_features(others))[:, kept].astype(
        np.float32
    )


def random_encoder(
    *,
    seed: int = 0,
    size: int = 64,
    features: str = "map",
    layer: str = LAYERS[-1],
    side: int = 0,
    **options: Any,
) -> FeatureSet:
    """Builds the code encoder with random weights.

    Args:
      seed: of the weights.
      size: side of the pictures in pixels; the code needs 64.
      features: 'map' (below the dense layers) or 'code'.
      layer: whose map, one of `facecycle_jax.networks.LAYERS`.
      side: above 0, the map is averaged over side x side areas.
      **options: of `build_networks`: width, code_dim, ...

    Returns:
      The features.

    Raises:
      ValueError: for another kind of features.
    """
    if features not in ("map", "code"):
        raise UserError(f"features must be 'map' or 'code', got {features!r}.")
    encoder = build_networks(**options).encoder
    start = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
    parameters = encoder.init(jax.random.key(seed), start)

    def encode(images: jax.Array) -> jax.Array:
        if features == "code":
            return jnp.asarray(encoder.apply(parameters, images))
        maps = encoder.apply(
            parameters, images, method="feature_map", layer=layer, side=side
        )
        return jnp.asarray(maps).reshape(len(images), -1)

    run = jax.jit(lambda pictures: encode(normalise(pictures)))
    return plain(
        f"random {features}", lambda p: np.asarray(run(p)), size=size, encode=encode
    )


# Made by `random_encoder` options of the encoder to compare with, which only random
# weights have a use for.
BASELINES: dict[str, Callable[[Mapping[str, Any]], FeatureSet]] = {
    "lbp": lambda _: plain("lbp", lbp_features, size=100),
    "hog": lambda _: plain("hog", hog_features, size=64),
    "pixels": lambda _: plain("pixels", pixel_features, size=32),
    "pca": lambda _: FeatureSet("pca", fit_pca, 64, needs_fit=True),
    "random": lambda options: random_encoder(
        **{"size": FEATURE_SIZE, **options}, side=FEATURE_SIDE
    ),
}
