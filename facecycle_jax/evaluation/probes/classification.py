"""How well predicted classes agree with the true ones.

Labels int [N], 0 to classes - 1; rates parts of 1.
"""

from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.errors import UserError


class Classification(NamedTuple):
    """Figures of one test.

    Attributes:
      accuracy: over pictures.
      mean_class_accuracy: mean over the classes that occur of the share found.
      macro_f1: mean over the classes that occur of the harmonic mean of precision and
        recall.
      confusion: int64 [classes, classes], row the true class, column the predicted one.
      pictures: how many were judged.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_f1: float
    confusion: np.ndarray
    pictures: int

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
      ValueError: if shapes differ, nothing is there, or a label is out of range.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise UserError(
            f"predictions and labels must be [N] with N above 0, got {predicted.shape}, {labels.shape}."
        )
    for name, values in (("predictions", predicted), ("labels", labels)):
        if values.min() < 0 or values.max() >= classes:
            raise UserError(
                f"{name} must be 0 to {classes - 1}, got {values.min()} to {values.max()}."
            )
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(
        classes, classes
    )
    hits, actual, claimed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    occurs = actual > 0
    return Classification(
        accuracy=float(hits.sum() / len(labels)),
        mean_class_accuracy=float(np.mean(hits[occurs] / actual[occurs])),
        macro_f1=float(np.mean(2 * hits[occurs] / (actual + claimed)[occurs])),
        confusion=confusion,
        pictures=len(labels),
    )
