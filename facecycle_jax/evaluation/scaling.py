"""Scaling of features before they are compared or fitted."""

import numpy as np

# Rows at a time, because a second copy of all features may not fit into memory.
_CHUNK = 1024


def unit_length(codes: np.ndarray) -> np.ndarray:
    """Scales codes [N, D] to unit length; a code of zeros stays as it is."""
    return codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-12)


def second_moments(features: np.ndarray) -> np.ndarray:
    """Sums the outer products of features over examples.

    In float32, features of low rank would get sums with negative eigenvalues, which a
    weak penalty does not make positive.

    Args:
      features: [N, D].

    Returns:
      float64 [D, D].
    """
    dimensions = features.shape[1]
    total = np.zeros((dimensions, dimensions))
    for start in range(0, len(features), _CHUNK):
        # The product of an array with itself takes half the time of that of two.
        part = features[start : start + _CHUNK].astype(np.float64)
        total += part.T @ part
    return total


def standardising(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes what brings features to mean 0 and standard deviation 1.

    Args:
      features: [N, D].

    Returns:
      Mean and scale, float32 [D]: `(features - mean) * scale` is standardised. Features
      that are constant up to rounding get the scale 0.
    """
    mean = features.mean(0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(features), _CHUNK):
        difference = features[start : start + _CHUNK] - mean
        square += np.square(difference).sum(0)
    deviation = np.sqrt(square / len(features))

    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    return mean.astype(np.float32), scale.astype(np.float32)
