"""Linear probes for identity, pose and expression in codes of synthetic faces.

Every frame has its own motion, light and background, so that only the face tells who it
is. Angles are in degrees. No probe and no choice of a penalty sees the labels of the
frames or people that it is tested on.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from facecycle_jax.data.labelled.synthetic_sets import synthetic_labelled
from facecycle_jax.data.sources.synthetic import MOTION
from facecycle_jax.data.sources.synthetic_truth import UNSEEN
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import FeatureFunction
from facecycle_jax.evaluation.probes.logistic import fit_logistic
from facecycle_jax.evaluation.probes.neighbours import predict_classes, predict_values
from facecycle_jax.evaluation.probes.ridge import fit_ridge
from facecycle_jax.evaluation.quantity import Figure

POSE = ("yaw", "pitch", "roll")
EXPRESSION = tuple(name for name in MOTION if name not in POSE)
# Smallest number of people that is enough for training and test.
FEWEST_PEOPLE = 8
# One in three frames of a person is a test frame, and one in four people.
_TEST_FRAMES = 3
_TEST_PEOPLE = 4


class ProbeSet(NamedTuple):
    """Labelled synthetic faces for probes; see `synthetic_labelled`.

    Attributes:
      frames: uint8 [F, S, S, 3].
      identity: int32 [F].
      motion: {name: [F]}.
    """

    frames: np.ndarray
    identity: np.ndarray
    motion: Mapping[str, np.ndarray]


def probe_set(seed: int, *, people: int, frames: int, size: int) -> ProbeSet:
    """Renders the faces that probes are trained and tested on.

    Args:
      seed: of the people, who are in no training data.
      people: number of people, 8 or more.
      frames: number of frames of each, 6 or more.
      size: side in pixels.

    Returns:
      The faces.

    Raises:
      UserError: If there are too few people or frames for training and test.
    """
    if people < FEWEST_PEOPLE or frames < 6:
        raise UserError(
            f"the probes need at least {FEWEST_PEOPLE} people (the limit of the task "
            f"synthetic) with 6 frames each, got {people} with {frames}."
        )
    faces = synthetic_labelled(
        seed + UNSEEN + 3, people=people, frames=frames, size=size
    )
    return ProbeSet(faces["frames"], faces["identity"], faces["motion"])


def evaluate_code(
    name: str, function: FeatureFunction, data: ProbeSet, *, seed: int = 0
) -> dict[str, Figure]:
    """Measures identity, pose and expression in a code by linear probes.

    Penalties come from cross-validation on the training parts.

    Args:
      name: of the code, for the rows.
      function: from images to codes.
      data: labelled faces.
      seed: of the folds.

    Returns:
      Figures by name.
    """
    codes = np.asarray(function(data.frames), np.float32)

    figures = {f"identity from {name}": measure_identity(codes, data, seed=seed)}
    for angle, figure in measure_pose(codes, data, seed=seed).items():
        figures[f"{angle} from {name}"] = figure
    figures[f"expression from {name}"] = measure_expression(codes, data, seed=seed)
    return figures


def measure_identity(
    codes: np.ndarray, data: ProbeSet, *, seed: int = 0, neighbours: bool = False
) -> Figure:
    """Measures how well people are told apart, on the last frames of each.

    Args:
      codes: float32 [F, D], of the frames.
      data: labelled faces.
      seed: of the folds.
      neighbours: whether the nearest training codes predict people instead of logistic
        regression; see `predict_classes`.

    Returns:
      The accuracy.
    """
    people = int(data.identity.max()) + 1
    is_test = last_frames(data.identity)
    if neighbours:
        known = data.identity[~is_test]
        predicted = predict_classes(
            codes[~is_test], known, codes[is_test], classes=people
        )
    else:
        predicted = predict_people(codes, data.identity, is_test, seed=seed)

    hits = predicted == data.identity[is_test]
    return Figure(
        value=100 * float(np.mean(hits)),
        reference=100 / people,
        meaning="chance",
        unit="%",
    )


def measure_pose(
    codes: np.ndarray, data: ProbeSet, *, seed: int = 0, neighbours: bool = False
) -> dict[str, Figure]:
    """Measures how well head pose is predicted, on the frames of the last people.

    Args:
      codes: float32 [F, D], of the frames.
      data: labelled faces.
      seed: of the folds.
      neighbours: whether the nearest training codes predict angles instead of ridge
        regression; see `predict_values`.

    Returns:
      Mean absolute errors by angle.
    """
    is_test = last_people(data.identity)
    angles = np.stack([data.motion[angle] for angle in POSE], axis=1)
    if neighbours:
        predicted = predict_values(codes[~is_test], angles[~is_test], codes[is_test])
    else:
        predicted = predict_motion(codes, angles, data.identity, is_test, seed=seed)

    true = angles[is_test]
    constant = angles[~is_test].mean(0)
    errors = np.abs(predicted - true).mean(0)
    references = np.abs(constant - true).mean(0)
    return {
        angle: Figure(
            value=float(error),
            reference=float(reference),
            meaning="always the mean",
            unit="degrees",
        )
        for error, reference, angle in zip(errors, references, POSE, strict=True)
    }


def measure_expression(codes: np.ndarray, data: ProbeSet, *, seed: int = 0) -> Figure:
    """Measures how well expression is predicted, on the frames of the last people.

    Args:
      codes: float32 [F, D], of the frames.
      data: labelled faces.
      seed: of the folds.

    Returns:
      The mean R2 over the parameters of expression, by ridge regression.
    """
    # In units of the standard deviation of each parameter, [F, K].
    is_test = last_people(data.identity)
    scaled = np.stack(
        [data.motion[part] / MOTION[part][1] for part in EXPRESSION], axis=1
    )
    predicted = predict_motion(codes, scaled, data.identity, is_test, seed=seed)

    true = scaled[is_test]
    constant = scaled[~is_test].mean(0)
    residual = np.square(predicted - true).sum(0)
    total = np.square(constant - true).sum(0)
    return Figure(
        value=float((1 - residual / total).mean()),
        reference=0.0,
        meaning="always the mean",
        unit="R2",
    )


def last_frames(identity: np.ndarray) -> np.ndarray:
    """Marks the last third of the frames of each person.

    Args:
      identity: int [F], person by person.

    Returns:
      bool [F].
    """
    counts = np.bincount(identity)
    # Number of each frame among those of its person, [F].
    number = np.concatenate([np.arange(count) for count in counts])
    return number >= np.repeat(counts - counts // _TEST_FRAMES, counts)


def last_people(identity: np.ndarray) -> np.ndarray:
    """Marks the frames of the last quarter of the people.

    Args:
      identity: int [F].

    Returns:
      bool [F].
    """
    people = int(identity.max()) + 1
    return identity >= people - people // _TEST_PEOPLE


def predict_people(
    codes: np.ndarray, identity: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Predicts the people whom the test frames show.

    Args:
      codes: float32 [F, D].
      identity: int32 [F]; those of test frames are not used.
      test: bool [F].
      seed: of folds.

    Returns:
      int32 [test frames].
    """
    known = identity[~test]
    fitted = fit_logistic(codes[~test], known, classes=int(known.max()) + 1, seed=seed)
    return fitted.predict(codes[test])


def predict_motion(
    codes: np.ndarray,
    values: np.ndarray,
    identity: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Predicts the motion in the test frames.

    Args:
      codes: float32 [F, D].
      values: [F, K]; those of test frames are not used.
      identity: int32 [F]; the cross-validation keeps frames of a person together.
      test: bool [F].
      seed: of folds.

    Returns:
      float32 [test frames, K].
    """
    fitted = fit_ridge(codes[~test], values[~test], group=identity[~test], seed=seed)
    return fitted.predict(codes[test])
