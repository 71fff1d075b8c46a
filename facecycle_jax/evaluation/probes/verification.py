"""Person verification.

Similarity of two pictures' codes, and how well a threshold on it tells people apart.

Scores are cosines in -1..1, higher for more alike; rates are parts of 1. No threshold
sees the pairs it is judged on.
"""

from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.errors import UserError

FALSE_ACCEPT_RATES = (0.001, 0.01, 0.1)


class Verification(NamedTuple):
    """What a threshold on similarity reaches.

    Attributes:
      accuracy: mean accuracy over the folds.
      standard_error: of that mean: over folds their standard deviation over
        sqrt(folds), with one test set the binomial one.
      fold_accuracies: accuracy of each fold.
      thresholds: the threshold used for each fold, chosen without it.
      auc: area under the ROC curve.
      eer: equal error rate.
      tar_at_far: true accept rate by the false accept rate it is allowed, both
        fractions.
      false_accept: ROC curve, horizontal axis.
      true_accept: ROC curve, vertical axis.
      same: pairs of one person judged.
      different: pairs of two people judged.
    """

    accuracy: float
    standard_error: float
    fold_accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    false_accept: np.ndarray
    true_accept: np.ndarray
    same: int
    different: int

    def figures(self) -> dict[str, Any]:
        """Returns everything but the curve, for JSON."""
        values = self._asdict()
        del values["false_accept"], values["true_accept"]
        values["tar_at_far"] = {str(far): tar for far, tar in self.tar_at_far.items()}
        return values

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        # The true accept rate is a percentage, the false accept rate a fraction.
        rates = {
            f"TAR % at FAR {far:g}": f"{100 * tar:.2f}"
            for far, tar in self.tar_at_far.items()
        }
        return {
            "accuracy %": f"{100 * self.accuracy:.2f} ± {100 * self.standard_error:.2f}",
            "AUC": f"{self.auc:.4f}",
            "EER %": f"{100 * self.eer:.2f}",
            **rates,
        }


def cosine_scores(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Computes the cosine of every pair of codes.

    Args:
      left: [P, D] floating point.
      right: [P, D].

    Returns:
      float64 [P] in -1..1; 0 where a code is all zeros.

    Raises:
      ValueError: if the shapes differ or a value is not finite.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if left.shape != right.shape or left.ndim != 2:
        raise UserError(
            f"cosine_scores needs two arrays [P, D], got {left.shape} and {right.shape}."
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise UserError(
            "codes have values that are not finite; the model that made them is broken."
        )
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.sum(left * right, axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Finds the threshold of highest accuracy.

    Pairs scored above it are taken to be one person.

    Args:
      scores: [P].
      same: bool [P].

    Returns:
      The middle between two neighbouring scores; of equally good ones the median.

    Raises:
      ValueError: if there are no pairs.
    """
    scores, same = _checked(scores, same)
    order = np.argsort(scores, kind="stable")
    values, answers = scores[order], same[order]
    # Cutting before place i rejects the i lowest pairs.
    right = np.concatenate([[0], np.cumsum(~answers)]) + answers.sum()
    right = right - np.concatenate([[0], np.cumsum(answers)])
    cuts = np.concatenate(
        [[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, [values[-1] + 1e-6]]
    )
    # Equal scores cannot be parted.
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = np.flatnonzero(possible & (right == right[possible].max()))
    return float(cuts[best[len(best) // 2]])


def roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the ROC curve.

    Args:
      scores: [P].
      same: bool [P], with both answers.

    Returns:
      False and true accept rates, rising from (0, 0) to (1, 1).

    Raises:
      ValueError: if one of the answers is missing.
    """
    scores, same = _checked(scores, same)
    if same.all() or not same.any():
        raise UserError(
            f"a ROC curve needs pairs of one and of two people, got {same.sum()} of {len(same)}."
        )
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true, false = np.cumsum(same[order])[last], np.cumsum(~same[order])[last]
    return np.append(0.0, false / (~same).sum()), np.append(0.0, true / same.sum())


def equal_error_rate(false_accept: np.ndarray, true_accept: np.ndarray) -> float:
    """Computes the rate at which false accepts and false rejects are as frequent, along the ROC curve.

    Args:
      false_accept: as `roc` returns it.
      true_accept: likewise.

    Returns:
      The rate, interpolated linearly.
    """
    gap = false_accept - (1 - true_accept)
    place = int(np.argmax(gap >= 0))
    if place == 0 or gap[place] == 0:
        return float(false_accept[place])
    share = -gap[place - 1] / (gap[place] - gap[place - 1])
    return float(
        false_accept[place - 1]
        + share * (false_accept[place] - false_accept[place - 1])
    )


def verify_folds(
    scores: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> Verification:
    """Judges scores fold by fold, each with the best threshold of all other folds (LFW view 2).

    Args:
      scores: [P], or [K, P] with row k the scores of a feature fitted without fold k.
      same: bool [P].
      fold: int [P], 0..K-1.

    Returns:
      The figures; AUC, EER and TAR over all pairs, each scored by its own fold's row.

    Raises:
      ValueError: if there are fewer than two folds.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise UserError(
            f"fold by fold needs at least two folds, got {len(folds)}; use verify_split."
        )
    rows = np.asarray(scores, np.float64)
    rows = (
        np.broadcast_to(rows, (len(folds), rows.shape[0])) if rows.ndim == 1 else rows
    )
    thresholds, accuracies, own = [], [], np.empty(len(fold))
    for row, k in zip(rows, folds, strict=True):
        inside = fold == k
        threshold = best_threshold(row[~inside], same[~inside])
        thresholds.append(threshold)
        accuracies.append(float(np.mean((row[inside] > threshold) == same[inside])))
        own[inside] = row[inside]
    error = np.std(accuracies, ddof=1) / np.sqrt(len(folds))
    return _verification(own, same, accuracies, thresholds, float(error))


def verify_split(
    train_scores: np.ndarray,
    train_same: np.ndarray,
    test_scores: np.ndarray,
    test_same: np.ndarray,
) -> Verification:
    """Judges test pairs with the best threshold of the training pairs (LFW view 1).

    Args:
      train_scores: [P].
      train_same: bool [P].
      test_scores: [Q].
      test_same: bool [Q].

    Returns:
      The figures on the test pairs.

    Raises:
      ValueError: if there are no pairs.
    """
    test_scores, test_same = _checked(test_scores, test_same)
    threshold = best_threshold(train_scores, train_same)
    accuracy = float(np.mean((test_scores > threshold) == test_same))
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(test_same)))
    return _verification(test_scores, test_same, [accuracy], [threshold], error)


def _verification(
    scores: np.ndarray,
    same: np.ndarray,
    accuracies: list[float],
    thresholds: list[float],
    error: float,
) -> Verification:
    """Adds what needs no threshold."""
    false, true = roc(scores, same)
    return Verification(
        accuracy=float(np.mean(accuracies)),
        standard_error=error,
        fold_accuracies=tuple(accuracies),
        thresholds=tuple(thresholds),
        auc=float(np.trapezoid(true, false)),
        eer=equal_error_rate(false, true),
        # The highest rate whose false accepts do not exceed the bound.
        tar_at_far={far: float(true[false <= far].max()) for far in FALSE_ACCEPT_RATES},
        false_accept=false,
        true_accept=true,
        same=int(same.sum()),
        different=int((~same).sum()),
    )


def _checked(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brings both to arrays of one length."""
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or not len(scores):
        raise UserError(
            f"scores and answers must be [P] with P above 0, got {scores.shape} and {same.shape}."
        )
    if not np.isfinite(scores).all():
        raise UserError(
            "scores have values that are not finite; the model that made them is broken."
        )
    return scores, same
