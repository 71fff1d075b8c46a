"""Ridge regression in closed form.

A probe without a learning rate, for angles and other numbers.

Features [N, D] of any scale are standardised by their mean and deviation on the
training set. The only choice, the strength of the penalty, is made by cross-validation
on the training set, whole groups of pictures at a time.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.penalties import choose_penalty

log = logging.getLogger(__name__)

# The penalty is strength |W|^2 in addition to the mean squared error. The grid grows
# where it must.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
_CHUNK = 8192


class Ridge(NamedTuple):
    """A fitted probe.

    Attributes:
      mean: float32 [D], of the training features.
      scale: float32 [D], 1 over their deviation, 0 for constant ones.
      weights: float32 [D, K].
      bias: float32 [K].
      strength: the penalty chosen.
      validation: mean absolute error of the cross-validation by strength; empty where
        there was no choice.
      at_edge: whether the penalty is an end of those tried, so that one beyond it may
        be better.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    strength: float
    validation: dict[float, float]
    at_edge: bool

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts float32 [N, K] of features [N, D]."""
        standard = (np.asarray(features, np.float32) - self.mean) * self.scale
        return standard @ self.weights + self.bias


class _Sums(NamedTuple):
    """What a least-squares fit needs of some examples.

    That of a part is subtracted from that of all.
    """

    number: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    def minus(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.number - other.number,
            self.x - other.x,
            self.y - other.y,
            self.xx - other.xx,
            self.xy - other.xy,
        )


def _sums(values: np.ndarray, targets: np.ndarray) -> _Sums:
    """Adds up [N, D] and [N, K].

    Products in the values' precision, their sum in float64.
    """
    xx, xy = (
        np.zeros((values.shape[1],) * 2),
        np.zeros((values.shape[1], targets.shape[1])),
    )
    for start in range(0, len(values), _CHUNK):
        part, wanted = values[start : start + _CHUNK], targets[start : start + _CHUNK]
        xx += part.T @ part
        xy += part.T @ wanted
    return _Sums(len(values), values.sum(0, dtype=np.float64), targets.sum(0), xx, xy)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and deviation [D] in float64, without a second copy of all features."""
    mean = features.mean(0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(features), _CHUNK):
        square += np.square(features[start : start + _CHUNK] - mean).sum(0)
    return mean, np.sqrt(square / len(features))


def _solve(sums: _Sums, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Fits weights [D, K] and a bias [K], which is not penalised."""
    mean, level = sums.x / sums.number, sums.y / sums.number
    left = sums.xx / sums.number - np.outer(mean, mean)
    left[np.diag_indices_from(left)] += strength
    right = sums.xy / sums.number - np.outer(mean, level)
    weights = scipy.linalg.solve(
        left, right, assume_a="pos", overwrite_a=True, check_finite=False
    )
    return weights, level - mean @ weights


def group_folds(group: np.ndarray, *, folds: int, seed: int = 0) -> np.ndarray:
    """Deals groups into folds of nearly equal numbers of groups.

    Args:
      group: int [N], one number for the examples that must stay together.
      folds: number of folds, 2 or more.
      seed: of the order.

    Returns:
      int [N], 0 to folds - 1.

    Raises:
      ValueError: if there are fewer groups than folds.
    """
    names, number = np.unique(group, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise UserError(
            f"{folds} folds need as many groups of pictures at least, got {len(names)}."
        )
    dealt = np.empty(len(names), np.int64)
    dealt[np.random.default_rng(seed).permutation(len(names))] = (
        np.arange(len(names)) % folds
    )
    return dealt[number]


def fit_ridge(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    group: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    seed: int = 0,
) -> Ridge:
    """Fits the probe on a training set, the penalty chosen by cross-validation within it.

    Args:
      features: [N, D], training set only.
      targets: [N, K].
      group: int [N], examples that the cross-validation keeps together; None: each on
        its own.
      strengths: penalties to choose from, above 0, and ten times stronger or weaker
        ones while an end of them is the best; with one there is no choice to make.
      folds: of the cross-validation.
      seed: of the folds.

    Returns:
      The probe, fitted on all training examples; of equally good penalties the
      stronger.

    Raises:
      ValueError: for values that are not finite, shapes that differ or a penalty of 0
        or less.
    """
    features, targets = (
        np.asarray(features, np.float32),
        np.asarray(targets, np.float64),
    )
    if (
        features.ndim != 2
        or targets.ndim != 2
        or len(targets) != len(features)
        or len(targets) < 2
    ):
        raise UserError(
            f"features [N, D] and targets [N, K] are needed, got {features.shape}, {targets.shape}."
        )
    if not (np.isfinite(features).all() and np.isfinite(targets).all()):
        raise UserError(
            "features or targets have values that are not finite; what made them is broken."
        )
    mean, deviation = _moments(features)
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation)).astype(
        np.float32
    )
    mean = mean.astype(np.float32)
    values = features - mean
    values *= scale
    basis = None
    if values.shape[1] > len(values):
        # The same fit in the span of the examples: the penalty does not see a rotation.
        basis = np.linalg.qr(values.T.astype(np.float64))[0]
        values = (values @ basis).astype(np.float32)
    every = _sums(values, targets)
    groups = np.arange(len(values)) if group is None else group

    def scores(path: Sequence[float]) -> dict[float, float]:
        """Computes the negative error over left-out groups for each penalty."""
        fold = group_folds(groups, folds=folds, seed=seed)
        errors = _validate(values, targets, every, fold, path)
        return {strength: -error for strength, error in errors.items()}

    choice = choose_penalty(strengths, scores)
    if choice.at_edge:
        log.warning(
            "The penalty chosen, %g, is at an end of those tried.", choice.strength
        )
    weights, bias = _solve(every, choice.strength)
    weights = weights if basis is None else basis @ weights
    return Ridge(
        mean=mean,
        scale=scale,
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        strength=choice.strength,
        validation={strength: -score for strength, score in choice.validation.items()},
        at_edge=choice.at_edge,
    )


def _validate(
    values: np.ndarray,
    targets: np.ndarray,
    every: _Sums,
    fold: np.ndarray,
    path: Sequence[float],
) -> dict[float, float]:
    """Computes the mean absolute error over left-out folds for each penalty."""
    errors = dict.fromkeys(path, 0.0)
    for k in np.unique(fold):
        left_out = fold == k
        others = every.minus(_sums(values[left_out], targets[left_out]))
        for strength in path:
            weights, bias = _solve(others, strength)
            errors[strength] += float(
                np.abs(values[left_out] @ weights + bias - targets[left_out]).sum()
            )
    return {strength: error / targets.size for strength, error in errors.items()}
