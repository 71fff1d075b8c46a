"""Ridge regression in closed form: a probe without a learning rate, for numbers.

Features [N, D] of any scale are standardised by their mean and standard deviation on
the training set. The only choice is the strength of the penalty. It is made by
cross-validation on the training set, with groups of examples kept together.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.penalties import choose_penalty
from facecycle_jax.evaluation.scaling import second_moments, standardising

log = logging.getLogger(__name__)

# The objective is the mean squared error plus strength |W|^2. The grid grows as long as
# its best value is at an end.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
# Examples whose products with the targets are summed up at a time.
_CHUNK = 8192


class Ridge(NamedTuple):
    """A fitted probe.

    Attributes:
      mean: float32 [D], of the training features.
      scale: float32 [D], 1 over their standard deviation, 0 for constant features.
      weights: float32 [D, K].
      bias: float32 [K].
      strength: the chosen penalty.
      validation: mean absolute error of the cross-validation by strength, empty if
        there was no choice.
      at_edge: whether the penalty is at an end of those tried, so that one beyond it
        may be better.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    strength: float
    validation: dict[float, float]
    at_edge: bool

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts targets float32 [N, K] of features [N, D]."""
        standard = (np.asarray(features, np.float32) - self.mean) * self.scale
        return standard @ self.weights + self.bias


class _Sums(NamedTuple):
    """Sums over examples, which a least-squares fit needs.

    The sums of all examples but a part are those of all minus those of the part.

    Attributes:
      number: number of examples.
      x: [D], sum of the features.
      y: [K], sum of the targets.
      xx: [D, D], sum of the outer products of features.
      xy: [D, K], sum of the outer products of features and targets.
    """

    number: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    def minus(self, other: "_Sums") -> "_Sums":
        """Returns the sums without those of a part."""
        return _Sums(
            number=self.number - other.number,
            x=self.x - other.x,
            y=self.y - other.y,
            xx=self.xx - other.xx,
            xy=self.xy - other.xy,
        )


def _sums(values: np.ndarray, targets: np.ndarray) -> _Sums:
    """Sums values [N, D] and targets [N, K] over examples, in float64."""
    # In chunks, because a copy of all values in float64 may not fit into memory.
    xy = np.zeros((values.shape[1], targets.shape[1]))
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        xy += values[part].T @ targets[part]

    return _Sums(
        number=len(values),
        x=values.sum(0, dtype=np.float64),
        y=targets.sum(0),
        xx=second_moments(values),
        xy=xy,
    )


def _solve(sums: _Sums, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Fits weights [D, K] and a bias [K], which is not penalised."""
    # Imported here because it takes 0.2 s, and no command but a probe needs it.
    import scipy.linalg

    mean = sums.x / sums.number
    target_mean = sums.y / sums.number

    # Normal equations of centred data: (cov(x, x) + strength I) W = cov(x, y).
    left = sums.xx / sums.number - np.outer(mean, mean)
    left[np.diag_indices_from(left)] += strength
    right = sums.xy / sums.number - np.outer(mean, target_mean)
    weights = scipy.linalg.solve(
        left, right, assume_a="pos", overwrite_a=True, check_finite=False
    )
    return weights, target_mean - mean @ weights


def group_folds(group: np.ndarray, *, folds: int, seed: int = 0) -> np.ndarray:
    """Assigns groups to folds of nearly equal numbers of groups.

    Args:
      group: int [N], the same number for examples that must stay together.
      folds: number of folds, 2 or more.
      seed: of the order.

    Returns:
      int [N], 0 to folds - 1.

    Raises:
      UserError: If there are fewer groups than folds.
    """
    names, number = np.unique(group, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise UserError(
            f"{folds} folds need as many groups of images at least, got {len(names)}."
        )

    # Groups in random order go to the folds one by one.
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), np.int64)
    fold_of_group[order] = np.arange(len(names)) % folds
    return fold_of_group[number]


def fit_ridge(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    group: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    seed: int = 0,
) -> Ridge:
    """Fits the probe, with a penalty chosen by cross-validation on the training set.

    Args:
      features: [N, D], training set only.
      targets: [N, K].
      group: int [N], the same number for examples that the cross-validation keeps
        together. With None, each example is a group.
      strengths: penalties to choose from, above 0. Ten times stronger or weaker ones
        are tried while an end of them is the best. A single one is used without
        cross-validation.
      folds: number of folds of the cross-validation.
      seed: of the folds.

    Returns:
      The probe, fitted on all training examples. Of equally good penalties it uses the
      stronger one.

    Raises:
      UserError: If values are not finite, shapes differ, or a penalty is 0 or less.
    """
    features = np.asarray(features, np.float32)
    targets = np.asarray(targets, np.float64)
    if (
        features.ndim != 2
        or targets.ndim != 2
        or len(targets) != len(features)
        or len(targets) < 2
    ):
        raise UserError(
            "features [N, D] and targets [N, K] are needed, "
            f"got {features.shape}, {targets.shape}."
        )
    if not (np.isfinite(features).all() and np.isfinite(targets).all()):
        raise UserError(
            "features or targets have values that are not finite; "
            "what made them is broken."
        )

    mean, scale = standardising(features)
    values = features - mean
    values *= scale

    # With more features than examples, the fit in the span of the examples is the same
    # and smaller: weights outside of it are 0, and a rotation leaves the penalty alone.
    basis = None
    if values.shape[1] > len(values):
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
    if basis is not None:
        weights = basis @ weights
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
            predicted = values[left_out] @ weights + bias
            errors[strength] += float(np.abs(predicted - targets[left_out]).sum())

    return {strength: error / targets.size for strength, error in errors.items()}
