"""Nearest neighbours of codes by cosine, their votes, and maps in two dimensions.

Codes are [N, D].
"""

import numpy as np

from facecycle_jax.errors import UserError, importing
from facecycle_jax.evaluation.scaling import unit_length

PROJECTIONS = ("pca", "tsne")
# Neighbours that predict, and the divisor of their cosines in the weights
# exp(cosine / TEMPERATURE), as usual for self-supervised features.
NEIGHBOURS = 20
TEMPERATURE = 0.07
# Codes compared with all training codes at a time.
_CHUNK = 1024


def nearest(
    codes: np.ndarray, queries: np.ndarray, *, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest other codes of some codes.

    Args:
      codes: [N, D] floating point.
      queries: int [Q], indices of the codes whose neighbours are sought.
      count: number of neighbours. At most N - 1 are returned.

    Returns:
      int64 [Q, count] indices, nearest first, and float64 [Q, count] their cosines.

    Raises:
      UserError: If there are fewer than two codes, or one is not finite.
    """
    codes = np.asarray(codes, np.float64)
    if codes.ndim != 2 or len(codes) < 2 or not np.isfinite(codes).all():
        raise UserError(
            f"neighbours need at least two finite codes [N, D], got {codes.shape}."
        )

    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    unit = codes / np.maximum(lengths, np.finfo(np.float64).tiny)

    # A code is not its own neighbour: it comes last, and is cut off. [Q, N].
    cosines = unit[queries] @ unit.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")
    order = order[:, : min(count, len(codes) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def predict_classes(
    train: np.ndarray, labels: np.ndarray, codes: np.ndarray, *, classes: int
) -> np.ndarray:
    """Predicts classes by the weighted vote of the nearest training codes.

    Neighbours are those of highest cosine, after the mean of the training codes is
    subtracted from all codes. Nothing is fitted or tuned.

    Args:
      train: [N, D] floating point.
      labels: int [N].
      codes: [M, D].
      classes: number of classes.

    Returns:
      int32 [M]. Of classes with equal votes it is the first.

    Raises:
      UserError: If there is no training code, or one is not finite.

    References:
      Wu et al., "Unsupervised feature learning via non-parametric instance
      discrimination", CVPR 2018, section 3.4.
    """
    one_hot = np.eye(classes)[np.asarray(labels)]
    votes = predict_values(train, one_hot, codes)
    return np.argmax(votes, axis=1).astype(np.int32)


def predict_values(
    train: np.ndarray, values: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Predicts numbers by the weighted mean of those of the nearest training codes.

    Args:
      train: [N, D] floating point.
      values: [N, K].
      codes: [M, D].

    Returns:
      float64 [M, K].

    Raises:
      UserError: See `predict_classes`.
    """
    train = np.asarray(train, np.float32)
    codes = np.asarray(codes, np.float32)
    finite = bool(np.isfinite(train).all() and np.isfinite(codes).all())
    if train.ndim != 2 or not len(train) or not finite:
        raise UserError(
            f"neighbours need finite training codes [N, D], got {train.shape}."
        )

    mean = train.mean(axis=0)
    known = unit_length(train - mean)
    count = min(NEIGHBOURS, len(train))

    predicted = []
    for start in range(0, len(codes), _CHUNK):
        cosines = unit_length(codes[start : start + _CHUNK] - mean) @ known.T
        # The nearest ones, in any order, [chunk, count].
        nearest_ones = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(cosines, nearest_ones, axis=1).astype(np.float64)

        # Relative to the nearest, so that no exponential overflows.
        weights = np.exp((found - found.max(axis=1, keepdims=True)) / TEMPERATURE)
        weights /= weights.sum(axis=1, keepdims=True)
        predicted.append(np.einsum("mn,mnk->mk", weights, values[nearest_ones]))
    return np.concatenate(predicted)


def project(codes: np.ndarray, *, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Projects codes to two dimensions.

    Args:
      codes: [N, D].
      method: 'pca' (the two directions of most variance) or 'tsne' (keeps neighbours
        together).
      seed: of t-SNE.

    Returns:
      float64 [N, 2], in arbitrary units.

    Raises:
      UserError: If the method is unknown, or there are fewer than three codes, or all
        are the same and the method is t-SNE.
      MissingExtraError: If scikit-learn is not installed.
    """
    if method not in PROJECTIONS:
        raise UserError(
            f"a map is made by one of {', '.join(PROJECTIONS)}, got {method!r}."
        )
    if len(codes) < 3:
        raise UserError(f"a map needs at least three codes, got {len(codes)}.")
    with importing("Maps of codes need scikit-learn", extra="eval"):
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

    values = np.asarray(codes, np.float64)
    are_equal = np.all(values == values[0])
    if method == "pca" and are_equal:
        # PCA would divide by their variance.
        return np.zeros((len(values), 2))
    if method == "pca":
        return PCA(2, svd_solver="full").fit_transform(values)
    if are_equal:
        raise UserError(
            f"t-SNE has nothing to map, because all {len(values)} codes are the same: "
            "use pca."
        )

    # The perplexity must be below the number of codes.
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)

    # For few codes, threads wait for each other far longer than they compute.
    with threadpool_limits(limits=1 if len(values) < 1000 else None):
        return tsne.fit_transform(values).astype(np.float64)
