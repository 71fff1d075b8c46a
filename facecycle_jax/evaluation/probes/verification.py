"""Person verification by a threshold on the similarity of two codes.

Scores are cosines in -1..1, higher for more similar images. Rates are fractions. No
threshold is chosen on the pairs that it is evaluated on.
"""

from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.errors import UserError

FALSE_ACCEPT_RATES = (0.001, 0.01, 0.1)


class Verification(NamedTuple):
    """Figures of verification.

    Attributes:
      accuracy: mean accuracy over the folds.
      standard_error: of that mean. Over folds, it is their standard deviation divided
        by sqrt(folds). For one test set, it is the binomial one.
      fold_accuracies: accuracy of each fold.
      thresholds: threshold used for each fold, chosen without it.
      auc: area under the ROC curve.
      eer: equal error rate.
      tar_at_far: true accept rate by the highest allowed false accept rate.
      false_accept: ROC curve, horizontal axis.
      true_accept: ROC curve, vertical axis.
      same: number of pairs of one person.
      different: number of pairs of two people.
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
        del values["false_accept"]
        del values["true_accept"]
        values["tar_at_far"] = {str(far): tar for far, tar in self.tar_at_far.items()}
        return values

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        # The true accept rate is a percentage, the false accept rate a fraction.
        rates = {
            f"TAR % at FAR {far:g}": f"{100 * tar:.2f}"
            for far, tar in self.tar_at_far.items()
        }
        accuracy = f"{100 * self.accuracy:.2f} ± {100 * self.standard_error:.2f}"
        return {
            "accuracy %": accuracy,
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
      UserError: If the shapes differ, or a value is not finite.
    """
    left = np.asarray(left, np.float64)
    right = np.asarray(right, np.float64)
    if left.shape != right.shape or left.ndim != 2:
        raise UserError(
            "cosine_scores needs two arrays [P, D], "
            f"got {left.shape} and {right.shape}."
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise UserError(
            "codes have values that are not finite; the model that made them is broken."
        )

    # The bound of the lengths avoids a division by 0 for codes of zeros.
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    return products / np.maximum(lengths, np.finfo(np.float64).tiny)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Finds the threshold of highest accuracy.

    Pairs with scores above it are accepted as one person.

    Args:
      scores: [P].
      same: bool [P].

    Returns:
      The middle between two neighbouring scores. Of equally good ones it is the median.

    Raises:
      UserError: If there are no pairs.
    """
    scores, same = _checked(scores, same)
    order = np.argsort(scores, kind="stable")
    values = scores[order]
    answers = same[order]

    # Cut i of P + 1 rejects the i lowest pairs. It is right about rejected pairs of two
    # people, and about accepted pairs of one.
    rejected_different = np.concatenate([[0], np.cumsum(~answers)])
    rejected_same = np.concatenate([[0], np.cumsum(answers)])
    right = rejected_different + answers.sum() - rejected_same

    middles = (values[1:] + values[:-1]) / 2
    cuts = np.concatenate([[values[0] - 1e-6], middles, [values[-1] + 1e-6]])

    # No cut lies between equal scores.
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = np.flatnonzero(possible & (right == right[possible].max()))
    return float(cuts[best[len(best) // 2]])


def roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the ROC curve.

    It is not scikit-learn's `roc_curve`, because verification of peers and of plain
    baselines otherwise needs numpy alone, without the extra [eval].

    Args:
      scores: [P].
      same: bool [P], with both values.

    Returns:
      False and true accept rates, rising from (0, 0) to (1, 1).

    Raises:
      UserError: If all pairs are of one person, or all of two people.
    """
    scores, same = _checked(scores, same)
    if same.all() or not same.any():
        raise UserError(
            "a ROC curve needs pairs of one and of two people, "
            f"got {same.sum()} of {len(same)}."
        )

    # The curve has one point for each distinct score: at the last pair that has it.
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(same[order])[last]
    false = np.cumsum(~same[order])[last]

    false_accept = np.append(0.0, false / (~same).sum())
    true_accept = np.append(0.0, true / same.sum())
    return false_accept, true_accept


def area_under_roc(false_accept: np.ndarray, true_accept: np.ndarray) -> float:
    """Computes the area under a ROC curve (AUC) as returned by `roc`."""
    return float(np.trapezoid(true_accept, false_accept))


def identification(scores: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Computes how well a gallery of people is told apart.

    Args:
      scores: [N, G] of every image with every gallery image, higher for more similar
        ones.
      own: int [N], index in the gallery of each image's person.

    Returns:
      Rank-1, the fraction of images whose best score is that of the right person, and
      the AUC of right against other people.
    """
    rank_1 = float(np.mean(scores.argmax(axis=1) == own))

    # An image has one pair with its own person, [N, G].
    is_own = np.arange(scores.shape[1])[None] == own[:, None]
    return rank_1, area_under_roc(*roc(scores.ravel(), is_own.ravel()))


def equal_error_rate(false_accept: np.ndarray, true_accept: np.ndarray) -> float:
    """Computes the rate at which false accepts and false rejects are equally frequent.

    Args:
      false_accept: ROC curve as returned by `roc`.
      true_accept: likewise.

    Returns:
      The rate, interpolated linearly.
    """
    # The first point of the curve with as many false accepts as false rejects, or more.
    gap = false_accept - (1 - true_accept)
    index = int(np.argmax(gap >= 0))
    if index == 0 or gap[index] == 0:
        return float(false_accept[index])

    # The gap is 0 at this fraction of the way from the point before.
    fraction = -gap[index - 1] / (gap[index] - gap[index - 1])
    before = false_accept[index - 1]
    return float(before + fraction * (false_accept[index] - before))


def verify_folds(
    scores: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> Verification:
    """Evaluates each fold with the best threshold of all other folds (LFW view 2).

    Args:
      scores: [P], or [K, P] where row k has the scores of features fitted without fold
        k.
      same: bool [P].
      fold: int [P], 0..K-1.

    Returns:
      The figures. AUC, EER and TAR are those of all pairs, each with the score in the
      row of its own fold.

    Raises:
      UserError: If there are fewer than two folds.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise UserError(
            "the threshold of a fold is chosen on the others, so at least two folds "
            f"are needed, got {len(folds)}."
        )
    rows = np.asarray(scores, np.float64)
    if rows.ndim == 1:
        rows = np.broadcast_to(rows, (len(folds), rows.shape[0]))

    thresholds = []
    accuracies = []
    own = np.empty(len(fold))
    for row, k in zip(rows, folds, strict=True):
        inside = fold == k
        threshold = best_threshold(row[~inside], same[~inside])
        right = (row[inside] > threshold) == same[inside]
        thresholds.append(threshold)
        accuracies.append(float(np.mean(right)))
        own[inside] = row[inside]

    error = np.std(accuracies, ddof=1) / np.sqrt(len(folds))
    return _verification(own, same, accuracies, thresholds, float(error))


def verify_split(
    train_scores: np.ndarray,
    train_same: np.ndarray,
    test_scores: np.ndarray,
    test_same: np.ndarray,
) -> Verification:
    """Evaluates test pairs with the best threshold of training pairs (LFW view 1).

    Args:
      train_scores: [P].
      train_same: bool [P].
      test_scores: [Q].
      test_same: bool [Q].

    Returns:
      The figures on the test pairs.

    Raises:
      UserError: If there are no pairs.
    """
    test_scores, test_same = _checked(test_scores, test_same)
    threshold = best_threshold(train_scores, train_same)
    accuracy = float(np.mean((test_scores > threshold) == test_same))

    # Of a mean of independent outcomes, right or wrong.
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(test_same)))
    return _verification(test_scores, test_same, [accuracy], [threshold], error)


def _verification(
    scores: np.ndarray,
    same: np.ndarray,
    accuracies: list[float],
    thresholds: list[float],
    error: float,
) -> Verification:
    """Adds the figures that need no threshold."""
    false, true = roc(scores, same)

    # The highest true accept rate whose false accepts do not exceed the bound.
    tar_at_far = {far: float(true[false <= far].max()) for far in FALSE_ACCEPT_RATES}

    return Verification(
        accuracy=float(np.mean(accuracies)),
        standard_error=error,
        fold_accuracies=tuple(accuracies),
        thresholds=tuple(thresholds),
        auc=area_under_roc(false, true),
        eer=equal_error_rate(false, true),
        tar_at_far=tar_at_far,
        false_accept=false,
        true_accept=true,
        same=int(same.sum()),
        different=int((~same).sum()),
    )


def _checked(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts both to arrays, and checks that they have one length."""
    scores = np.asarray(scores, np.float64)
    same = np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or not len(scores):
        raise UserError(
            "scores and answers must be [P] with P above 0, "
            f"got {scores.shape} and {same.shape}."
        )
    if not np.isfinite(scores).all():
        raise UserError(
            "scores have values that are not finite; "
            "the model that made them is broken."
        )
    return scores, same
