"""Codes centred, or whitened, by statistics of unlabelled training pictures.

A cosine is measured from the origin, and codes need not lie about it. The published
protocol takes them as they are, so what this module makes is a row of its own. Codes
float32 [N, D].
"""

import numpy as np

from facecycle_jax.errors import MissingExtraError
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet


def centred(codes: np.ndarray) -> FeatureFunction:
    """Subtracts the mean of training codes.

    Args:
      codes: float32 [N, D], of training pictures.

    Returns:
      Codes [M, D] to centred codes [M, D].
    """
    mean = codes.mean(axis=0)
    return lambda others: others - mean


def whitened(codes: np.ndarray) -> FeatureFunction:
    """Centres codes and scales their principal directions to deviation 1 on training codes.

    The covariance is shrunk as Ledoit and Wolf do, so that directions which the codes
    hardly fill are not blown up.

    Args:
      codes: float32 [N, D], of training pictures.

    Returns:
      Codes [M, D] to whitened codes [M, D].

    Raises:
      ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn.covariance import LedoitWolf
    except ImportError as error:
        raise MissingExtraError(
            "Whitened codes need scikit-learn: pip install 'facecycle_jax[eval]'."
        ) from error
    fitted = LedoitWolf().fit(codes.astype(np.float64))
    values, directions = np.linalg.eigh(fitted.covariance_)
    # Of very few codes the shrunk covariance may still be singular.
    turn = directions / np.sqrt(np.maximum(values, max(1e-3 * values.mean(), 1e-12)))
    return lambda others: ((others - fitted.location_) @ turn).astype(np.float32)


def with_adapted(name: str, kind: FeatureSet) -> dict[str, FeatureSet]:
    """Lists codes as they are, centred and whitened; they are computed once.

    Args:
      name: of the codes.
      kind: the codes, which need no fitting.

    Returns:
      The three by name: NAME, 'NAME centred' and 'NAME whitened'.
    """
    shared = kind._replace(shared=name)
    return {
        name: shared,
        f"{name} centred": shared._replace(name=f"{name} centred", adapt=centred),
        f"{name} whitened": shared._replace(name=f"{name} whitened", adapt=whitened),
    }
