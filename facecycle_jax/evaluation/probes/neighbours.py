"""Nearest neighbours of codes by cosine, and maps of codes in two dimensions.

Codes are [N, D].
"""

import numpy as np

from facecycle_jax.errors import MissingExtraError, UserError

PROJECTIONS = ("pca", "tsne")


def nearest(codes: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest other codes of every code.

    Args:
      codes: [N, D] floating point.
      count: number of neighbours. At most N - 1 are returned.

    Returns:
      int64 [N, count] indices, nearest first, and float64 [N, count] their cosines.

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

    # A code is not its own neighbour: on the diagonal it comes last, and is cut off.
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")
    order = order[:, : min(count, len(codes) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


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
      UserError: If the method is unknown, or there are fewer than three codes.
      MissingExtraError: If scikit-learn is not installed.
    """
    if method not in PROJECTIONS:
        raise UserError(
            f"a map is made by one of {', '.join(PROJECTIONS)}, got {method!r}."
        )
    if len(codes) < 3:
        raise UserError(f"a map needs at least three codes, got {len(codes)}.")
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError(
            "Maps of codes need scikit-learn: pip install 'facecycle_jax[eval]'."
        ) from error

    values = np.asarray(codes, np.float64)
    if method == "pca":
        return PCA(2, svd_solver="full").fit_transform(values)

    # The perplexity must be below the number of codes.
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)

    # For few codes, threads wait for each other far longer than they compute.
    with threadpool_limits(limits=1 if len(values) < 1000 else None):
        return tsne.fit_transform(values).astype(np.float64)
