"""Head pose by ridge regression on frozen features.

Angles are [N, 3]: yaw, pitch and roll in degrees. No choice sees a test angle: the
penalty comes from cross-validation on the training images, with all renderings of a
photograph in one fold.
"""

import functools
import itertools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.labelled.head_pose import ANGLES, LIMIT, OFFICIAL, PoseImages
from facecycle_jax.data.labelled.images import Images, load_images
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import FeatureSet, extract
from facecycle_jax.evaluation.probes.penalties import edge_warnings
from facecycle_jax.evaluation.probes.ridge import fit_ridge
from facecycle_jax.evaluation.report import Evaluation

log = logging.getLogger(__name__)

# Edges of the ranges of the absolute true yaw, degrees.
YAW_RANGES = (0.0, 30.0, 60.0, LIMIT)


class PoseErrors(NamedTuple):
    """Mean absolute errors in degrees.

    They are means over the test images whose angles are all within 99 degrees, if not
    stated otherwise.

    Attributes:
      errors: of yaw, pitch and roll.
      images: number of these images.
      errors_all: errors over all test images.
      images_all: number of all test images.
      by_yaw: number of images and errors of yaw, pitch and roll, by the range of the
        absolute true yaw.
      true: float64 [N, 3], of all test images.
      predicted: float32 [N, 3].
    """

    errors: tuple[float, float, float]
    images: int
    errors_all: tuple[float, float, float]
    images_all: int
    by_yaw: dict[str, tuple[int, float, float, float]]
    true: np.ndarray
    predicted: np.ndarray

    def figures(self) -> dict[str, Any]:
        """Returns everything but the single predictions, for JSON."""
        by_yaw = {
            name: dict(zip(("images", *ANGLES), row, strict=True))
            for name, row in self.by_yaw.items()
        }
        return {
            "errors": _named(self.errors),
            "errors_all": _named(self.errors_all),
            "images": self.images,
            "images_all": self.images_all,
            "by_yaw": by_yaw,
        }

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        errors = {
            f"{name} °": f"{error:.2f}"
            for name, error in zip(ANGLES, self.errors, strict=True)
        }
        unfiltered = " / ".join(f"{error:.2f}" for error in self.errors_all)
        # A row of `by_yaw` begins with the number of images and the error of yaw.
        by_yaw = {
            f"yaw error, yaw {name} either way": f"{row[1]:.2f}"
            for name, row in self.by_yaw.items()
        }
        return {
            **errors,
            "mean °": f"{np.mean(self.errors):.2f}",
            "unfiltered: yaw / pitch / roll °": unfiltered,
            **by_yaw,
        }


def _named(errors: tuple[float, float, float]) -> dict[str, float]:
    """Returns the errors and their mean by name."""
    named = dict(zip(ANGLES, errors, strict=True))
    return {**named, "mean": float(np.mean(errors))}


def pose_errors(predicted: np.ndarray, true: np.ndarray) -> PoseErrors:
    """Compares predicted with true angles.

    Args:
      predicted: [N, 3], degrees.
      true: [N, 3], degrees.

    Returns:
      The errors.

    Raises:
      UserError: If shapes differ, or no image has all its angles within 99 degrees.
    """
    predicted = np.asarray(predicted)
    true = np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.ndim != 2 or true.shape[1] != 3:
        raise UserError(
            "predicted and true angles must be [N, 3], "
            f"got {predicted.shape}, {true.shape}."
        )

    error = np.abs(predicted - true)
    within = np.all(np.abs(true) <= LIMIT, axis=1)
    if not within.any():
        raise UserError(f"no test image has all its angles within {LIMIT:g} degrees.")

    # Ranges are half-open, except for the last one, which includes the limit.
    yaw = np.abs(true[:, 0])
    by_yaw = {}
    for low, high in itertools.pairwise(YAW_RANGES):
        below = (yaw <= high) if high == LIMIT else (yaw < high)
        inside = within & (yaw >= low) & below
        if inside.any():
            by_yaw[f"{low:g}-{high:g}°"] = (int(inside.sum()), *_means(error[inside]))

    return PoseErrors(
        errors=_means(error[within]),
        images=int(within.sum()),
        errors_all=_means(error),
        images_all=len(true),
        by_yaw=by_yaw,
        true=true,
        predicted=predicted,
    )


def _means(error: np.ndarray) -> tuple[float, float, float]:
    """Averages errors [N, 3] over images."""
    yaw, pitch, roll = (float(value) for value in error.mean(axis=0))
    return yaw, pitch, roll


def evaluate_pose(
    features: Mapping[str, FeatureSet],
    train: PoseImages,
    test: PoseImages,
    *,
    crop: float = 1.0,
    seed: int = 0,
    warnings: tuple[str, ...] = (),
) -> Evaluation:
    """Fits ridge regression on training images and evaluates it on test images.

    Args:
      features: by name; each kind has its own regression and its own row. A last row
        always predicts the mean training angles.
      train: training images. Those beyond 99 degrees are left out.
      test: test images. Their angles are used once, after all predictions are made.
      crop: central fraction of the images that is kept.
      seed: of the folds.
      warnings: for the report.

    Returns:
      The evaluation.

    Raises:
      UserError: If too few training images are within 99 degrees.

    References:
      FaceCycle (ICCV 2021), head pose regression.
    """
    found = {
        "train": len(train),
        "test": len(test),
        "test within limit": int(test.within_limit().sum()),
    }
    train = train.select(train.within_limit())

    rows = {}
    details = {}
    for name, kind in features.items():
        log.info("pose: %s", name)
        predicted, details[name] = _predict(kind, train, test.images, crop, seed)
        rows[name] = pose_errors(predicted, test.angles)

    # The baseline without features.
    constant = np.broadcast_to(train.angles.mean(axis=0), test.angles.shape)
    rows["mean training angles"] = pose_errors(constant, test.angles)

    notes = [
        f"{what} has {count:,} images, officially {OFFICIAL[what]:,}."
        for what, count in found.items()
        if count != OFFICIAL[what]
    ]
    for part in (train, test):
        if part.without_landmarks:
            notes.append(
                f"{part.without_landmarks:,} labels in {part.origin} name no "
                "landmarks: their whole images are used."
            )

    protocol = (
        "Ridge regression on frozen features, its penalty chosen by 3-fold "
        "cross-validation on the training images (300W-LP: AFW, HELEN, IBUG, LFPW and "
        "their mirror images, angles within 99 degrees), tested on AFLW2000-3D. Mean "
        "absolute errors over the test images with all angles within 99 degrees, and "
        f"unfiltered. Seed {seed}."
    )
    return Evaluation(
        task="pose",
        protocol=protocol,
        rows=rows,
        details=details,
        classes=(),
        counts={**found, "train within limit": len(train)},
        warnings=(*warnings, *notes, *edge_warnings(details)),
    )


def _predict(
    kind: FeatureSet, train: PoseImages, test: Images, crop: float, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Predicts the angles of the test images.

    Test angles are not among the arguments.
    """
    function = kind.fitted(
        functools.partial(load_images, train.images, size=kind.size, crop=crop)
    )
    compute = functools.partial(extract, function, size=kind.size, crop=crop)
    values = compute(train.images)
    test_values = compute(test)
    if kind.adapt is not None:
        adapted = kind.adapt(values)
        values = adapted(values)
        test_values = adapted(test_values)

    fitted = fit_ridge(values, train.angles, group=train.group, seed=seed)
    chosen = {
        "strength": fitted.strength,
        "validation": {str(k): v for k, v in fitted.validation.items()},
        "at_edge": fitted.at_edge,
        "dimensions": values.shape[1],
    }
    return fitted.predict(test_values), chosen
