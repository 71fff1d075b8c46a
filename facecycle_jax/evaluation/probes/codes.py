"""Codes centred, whitened or reduced by statistics of unlabelled training images.

A cosine is measured from the origin, and codes need not lie around it. The published
protocol uses codes as they are, so adapted codes have rows of their own. Codes are
float32 [N, D].
"""

import numpy as np

from facecycle_jax.errors import UserError, check_installed
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet

PCA_NEED = "PCA needs scikit-learn"
_WHITENED_NEED = "Whitened codes need scikit-learn"


def require_sklearn(need: str) -> None:
    """Raises MissingExtraError if scikit-learn is not installed.

    Args:
      need: see `errors.missing_extra`.
    """
    check_installed("sklearn", need, extra="eval")


def centred(codes: np.ndarray) -> FeatureFunction:
    """Subtracts the mean of training codes.

    Args:
      codes: float32 [N, D], of training images.

    Returns:
      A function from codes [M, D] to centred codes [M, D].
    """
    mean = codes.mean(axis=0)
    return lambda others: others - mean


def whitened(codes: np.ndarray) -> FeatureFunction:
    """Centres codes and scales their principal directions to variance 1.

    The covariance of the training codes is shrunk as by Ledoit and Wolf, so that
    directions in which codes hardly vary are not amplified.

    Args:
      codes: float32 [N, D], of training images.

    Returns:
      A function from codes [M, D] to whitened codes [M, D].

    Raises:
      MissingExtraError: If scikit-learn is not installed.
    """
    require_sklearn(_WHITENED_NEED)
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(codes.astype(np.float64))
    variances, directions = np.linalg.eigh(fitted.covariance_)

    # With very few codes the shrunk covariance can still be singular.
    smallest = max(1e-3 * variances.mean(), 1e-12)
    whitening = directions / np.sqrt(np.maximum(variances, smallest))
    return lambda others: ((others - fitted.location_) @ whitening).astype(np.float32)


def reduced(
    codes: np.ndarray, *, components: int = 256, whiten: bool = False, seed: int = 0
) -> FeatureFunction:
    """Projects codes on the directions of most variance of training codes (PCA).

    Args:
      codes: float32 [N, D], of training images.
      components: most directions. Fewer are used where codes hardly vary in more.
      whiten: whether to divide each direction by its standard deviation.
      seed: of the randomised solver.

    Returns:
      A function from codes [M, D] to centred codes [M, components].

    Raises:
      MissingExtraError: If scikit-learn is not installed.
      UserError: If there are fewer than two codes.
    """
    require_sklearn(PCA_NEED)
    if len(codes) < 2:
        raise UserError(
            f"PCA needs at least two training images, got {len(codes)}: raise the "
            "limit."
        )
    from sklearn.decomposition import PCA

    # Centred, N codes span N - 1 directions at most.
    count = min(components, len(codes) - 1, codes.shape[1])
    pca = PCA(count, whiten=whiten, svd_solver="randomized", random_state=seed)
    pca.fit(codes)

    # Whitening, or a probe that scales, would amplify directions that are rounding.
    variances = pca.explained_variance_
    kept = variances >= 1e-7 * variances.max()
    return lambda others: pca.transform(others)[:, kept].astype(np.float32)


def with_adapted(name: str, kind: FeatureSet) -> dict[str, FeatureSet]:
    """Lists codes as they are, centred and whitened, all computed only once.

    Args:
      name: of the codes.
      kind: the codes, which need no fitting.

    Returns:
      The three kinds by name: NAME, 'NAME centred' and 'NAME whitened'.

    Raises:
      MissingExtraError: If scikit-learn is not installed.
    """
    # Before codes of a whole data set are computed.
    require_sklearn(_WHITENED_NEED)
    shared = kind._replace(shared=name)
    return {
        name: shared,
        f"{name} centred": shared._replace(adapt=centred),
        f"{name} whitened": shared._replace(adapt=whitened),
    }
