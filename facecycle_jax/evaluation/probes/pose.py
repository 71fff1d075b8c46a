"""Head pose by ridge regression on frozen features. Angles [N, 3], degrees.

Yaw, pitch, roll.

No choice sees a test angle: the penalty comes from cross-validation on the training
pictures, all renderings of a photograph in one fold.
"""

import itertools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.labelled.head_pose import ANGLES, LIMIT, OFFICIAL, PosePictures
from facecycle_jax.data.labelled.images import Pictures, load_pictures
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import FeatureSet, extract
from facecycle_jax.evaluation.probes.penalties import edge_warnings
from facecycle_jax.evaluation.probes.ridge import fit_ridge
from facecycle_jax.evaluation.report import Evaluation

log = logging.getLogger(__name__)

# Edges of the ranges of the true yaw, either way, degrees.
YAW_RANGES = (0.0, 30.0, 60.0, LIMIT)


class PoseErrors(NamedTuple):
    """Mean absolute errors in degrees, over the test pictures whose angles are all within 99 degrees.

    Attributes:
      errors: of yaw, pitch and roll.
      pictures: how many were judged.
      errors_all: over all test pictures.
      pictures_all: how many those are.
      by_yaw: for each range of the true yaw, either way: pictures and errors of yaw,
        pitch and roll.
      true: float64 [N, 3], of all test pictures.
      predicted: float32 [N, 3].
    """

    errors: tuple[float, float, float]
    pictures: int
    errors_all: tuple[float, float, float]
    pictures_all: int
    by_yaw: dict[str, tuple[int, float, float, float]]
    true: np.ndarray
    predicted: np.ndarray

    def figures(self) -> dict[str, Any]:
        """Returns everything but the single predictions, for JSON."""
        named = {
            key: dict(
                zip((*ANGLES, "mean"), (*errors, float(np.mean(errors))), strict=True)
            )
            for key, errors in (
                ("errors", self.errors),
                ("errors_all", self.errors_all),
            )
        }
        by_yaw = {
            name: dict(zip(("pictures", *ANGLES), row, strict=True))
            for name, row in self.by_yaw.items()
        }
        return {
            **named,
            "pictures": self.pictures,
            "pictures_all": self.pictures_all,
            "by_yaw": by_yaw,
        }

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        cells = {
            f"{name} °": f"{error:.2f}"
            for name, error in zip(ANGLES, self.errors, strict=True)
        }
        cells["mean °"] = f"{np.mean(self.errors):.2f}"
        cells["unfiltered: yaw / pitch / roll °"] = " / ".join(
            f"{error:.2f}" for error in self.errors_all
        )
        return cells | {
            f"yaw error, yaw {name} either way": f"{row[1]:.2f}"
            for name, row in self.by_yaw.items()
        }


def pose_errors(predicted: np.ndarray, true: np.ndarray) -> PoseErrors:
    """Compares predicted with true angles.

    Args:
      predicted: [N, 3], degrees.
      true: [N, 3], degrees.

    Returns:
      The errors.

    Raises:
      ValueError: if shapes differ, or no picture is within 99 degrees.
    """
    predicted, true = np.asarray(predicted), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.ndim != 2 or true.shape[1] != 3:
        raise UserError(
            f"predicted and true angles must be [N, 3], got {predicted.shape}, {true.shape}."
        )
    error = np.abs(predicted - true)
    within = np.all(np.abs(true) <= LIMIT, axis=1)
    if not within.any():
        raise UserError(f"no test picture has all its angles within {LIMIT:g} degrees.")
    yaw = np.abs(true[:, 0])
    by_yaw = {}
    for low, high in itertools.pairwise(YAW_RANGES):
        inside = (
            within & (yaw >= low) & ((yaw <= high) if high == LIMIT else (yaw < high))
        )
        if inside.any():
            by_yaw[f"{low:g}-{high:g}°"] = (int(inside.sum()), *_triple(error[inside]))
    return PoseErrors(
        _triple(error[within]),
        int(within.sum()),
        _triple(error),
        len(true),
        by_yaw,
        true,
        predicted,
    )


def _triple(error: np.ndarray) -> tuple[float, float, float]:
    yaw, pitch, roll = (float(value) for value in error.mean(axis=0))
    return yaw, pitch, roll


def judge_pose(
    features: Mapping[str, FeatureSet],
    train: PosePictures,
    test: PosePictures,
    *,
    crop: float = 1.0,
    seed: int = 0,
    warnings: tuple[str, ...] = (),
) -> Evaluation:
    """Fits ridge regression on training pictures for each kind of features and judges it on test pictures.

    Args:
      features: by name; a row that always says the mean training angles stands below
        them.
      train: training pictures; those beyond 99 degrees are left out.
      test: test pictures; their angles are used once, after all predictions are made.
      crop: middle part of the pictures that is kept.
      seed: of the folds.
      warnings: for the report.

    Returns:
      The figures.

    Raises:
      ValueError: if too few training pictures are within 99 degrees.

    References:
      FaceCycle (ICCV 2021), head pose regression.
    """
    found = {
        "train": len(train),
        "test": len(test),
        "test within limit": int(test.within_limit().sum()),
    }
    train = train.select(train.within_limit())
    rows, details = {}, {}
    for name, kind in features.items():
        log.info("pose: %s", name)
        predicted, details[name] = _predict(kind, train, test.pictures, crop, seed)
        rows[name] = pose_errors(predicted, test.angles)
    constant = np.broadcast_to(train.angles.mean(axis=0), test.angles.shape)
    rows["mean training angles"] = pose_errors(constant, test.angles)
    notes = [
        f"{what} has {count:,} pictures, officially {OFFICIAL[what]:,}."
        for what, count in found.items()
        if count != OFFICIAL[what]
    ]
    for pictures in (train, test):
        if pictures.without_landmarks:
            notes.append(
                f"{pictures.without_landmarks:,} labels in {pictures.origin} name no landmarks: all of their "
                "pictures is used."
            )
    protocol = (
        "Ridge regression on frozen features, its penalty chosen by 3-fold cross-validation on the training "
        "pictures (300W-LP: AFW, HELEN, IBUG, LFPW and their mirror images, angles within 99 degrees), "
        "tested on AFLW2000-3D. Mean absolute errors over the test pictures with all angles within 99 "
        f"degrees, and unfiltered. Seed {seed}."
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
    kind: FeatureSet, train: PosePictures, test: Pictures, crop: float, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Predicts the test pictures' angles; test angles are not among the arguments."""
    sample = (
        load_pictures(train.pictures, size=kind.size, crop=crop)
        if kind.needs_fit
        else np.zeros(0)
    )
    function = kind.fit(sample)
    values = extract(function, train.pictures, size=kind.size, crop=crop)
    fitted = fit_ridge(values, train.angles, group=train.group, seed=seed)
    chosen = {
        "strength": fitted.strength,
        "validation": {str(k): v for k, v in fitted.validation.items()},
        "at_edge": fitted.at_edge,
        "dimensions": values.shape[1],
    }
    return fitted.predict(extract(function, test, size=kind.size, crop=crop)), chosen
