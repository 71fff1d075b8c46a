"""Agreement of predicted classes with the true ones.

Labels are int [N], 0 to classes - 1. Rates are fractions.
"""

from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.errors import UserError


class Classification(NamedTuple):
    """Figures of one test.

    Attributes:
      accuracy: fraction of images whose class is predicted.
      mean_class_accuracy: mean recall over the classes that occur.
      macro_f1: mean F1, the harmonic mean of precision and recall, over the classes
        that occur.
      confusion: int64 [classes, classes], row the true class, column the predicted one.
      images: number of images.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_f1: float
    confusion: np.ndarray
    images: int

    def figures(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return self._asdict() | {"confusion": self.confusion.tolist()}

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        return {
            "accuracy %": f"{100 * self.accuracy:.2f}",
            "mean per class %": f"{100 * self.mean_class_accuracy:.2f}",
            "macro F1 %": f"{100 * self.macro_f1:.2f}",
        }


def classification(
    predicted: np.ndarray, labels: np.ndarray, *, classes: int
) -> Classification:
    """Compares predicted with true classes.

    Args:
      predicted: int [N].
      labels: int [N].
      classes: number of classes.

    Returns:
      The figures.

    Raises:
      UserError: If shapes differ, there are no labels, or one is out of range.
    """
    predicted = np.asarray(predicted)
    labels = np.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise UserError(
            "predictions and labels must be [N] with N above 0, "
            f"got {predicted.shape}, {labels.shape}."
        )
    for name, values in (("predictions", predicted), ("labels", labels)):
        if values.min() < 0 or values.max() >= classes:
            raise UserError(
                f"{name} must be 0 to {classes - 1}, "
                f"got {values.min()} to {values.max()}."
            )

    # One number for each pair of a true and a predicted class, counted.
    pairs = labels * classes + predicted
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    # Classes that do not occur have no recall, and are left out of the means.
    occurs = confusion.sum(axis=1) > 0
    hits = np.diag(confusion)[occurs]
    actual = confusion.sum(axis=1)[occurs]
    claimed = confusion.sum(axis=0)[occurs]
    return Classification(
        accuracy=float(hits.sum() / len(labels)),
        mean_class_accuracy=float(np.mean(hits / actual)),
        # F1 = 2 P R / (P + R), with precision hits / claimed and recall hits / actual.
        macro_f1=float(np.mean(2 * hits / (actual + claimed))),
        confusion=confusion,
        images=len(labels),
    )
