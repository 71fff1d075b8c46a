"""Linear probes of codes on drawn faces.

How much of identity, pose and expression a code tells.

Every frame has its own motion, light and background, so that nothing but the face tells
who it is. Angles are degrees. No probe and no choice sees the answers of the frames or
people it is tested on.
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
from facecycle_jax.evaluation.probes.ridge import fit_ridge
from facecycle_jax.evaluation.quantity import Figure

POSE = ("yaw", "pitch", "roll")
EXPRESSION = tuple(name for name in MOTION if name not in POSE)
# Of a person's frames the last third tests; of the people the last quarter.
_TEST_FRAMES, _TEST_PEOPLE = 3, 4


class ProbeSet(NamedTuple):
    """Labelled drawn faces for probes; see `synthetic_labelled`.

    Attributes:
      frames: uint8 [F, S, S, 3].
      identity: int32 [F].
      motion: {name: [F]}.
    """

    frames: np.ndarray
    identity: np.ndarray
    motion: Mapping[str, np.ndarray]


def probe_set(seed: int, *, people: int, frames: int, size: int) -> ProbeSet:
    """Draws the faces that probes are trained and tested on.

    Args:
      seed: of the people, who are in no training data.
      people: how many, 8 or more.
      frames: of each, 6 or more.
      size: side in pixels.

    Returns:
      The faces.

    Raises:
      ValueError: if there are too few for training and test.
    """
    if people < 8 or frames < 6:
        raise UserError(
            f"the probes need at least 8 people with 6 frames each, got {people} with {frames}."
        )
    drawn = synthetic_labelled(
        seed + UNSEEN + 3, people=people, frames=frames, size=size
    )
    return ProbeSet(drawn["frames"], drawn["identity"], drawn["motion"])


def judge_code(
    name: str, function: FeatureFunction, data: ProbeSet, *, seed: int = 0
) -> dict[str, Figure]:
    """Measures by linear probes how much of identity, pose and expression a code tells.

    Who it is: logistic regression over people, trained on some frames of each and
    tested on others. Pose and expression: ridge regression, tested on other people.
    Penalties come from cross-validation on the training parts.

    Args:
      name: of the code, for the rows.
      function: pictures to codes.
      data: labelled faces.
      seed: of folds.

    Returns:
      Figures by name.
    """
    codes = np.asarray(function(data.frames), np.float32)
    people = int(data.identity.max()) + 1
    last = last_frames(data.identity)
    hits = predict_people(codes, data.identity, last, seed=seed) == data.identity[last]
    figures = {
        f"identity from {name}": Figure(
            100 * float(np.mean(hits)), 100 / people, "chance", "%"
        )
    }
    others = last_people(data.identity)
    angles = np.stack([data.motion[angle] for angle in POSE], axis=1)
    true, constant = angles[others], angles[~others].mean(0)
    predicted = predict_motion(codes, angles, data.identity, others, seed=seed)
    errors, floor = np.abs(predicted - true).mean(0), np.abs(constant - true).mean(0)
    for place, angle in enumerate(POSE):
        figures[f"{angle} from {name}"] = Figure(
            float(errors[place]), float(floor[place]), "always the mean", "degrees"
        )
    scaled = np.stack(
        [data.motion[part] / MOTION[part][1] for part in EXPRESSION], axis=1
    )
    true, constant = scaled[others], scaled[~others].mean(0)
    predicted = predict_motion(codes, scaled, data.identity, others, seed=seed)
    explained = 1 - np.square(predicted - true).sum(0) / np.square(constant - true).sum(
        0
    )
    figures[f"expression from {name}"] = Figure(
        float(explained.mean()), 0.0, "always the mean", "R2"
    )
    return figures


def last_frames(identity: np.ndarray) -> np.ndarray:
    """Marks the last third of everyone's frames, bool [F].

    Identity int [F], person by person.
    """
    counts = np.bincount(identity)
    place = np.concatenate([np.arange(count) for count in counts])
    return place >= np.repeat(counts - counts // _TEST_FRAMES, counts)


def last_people(identity: np.ndarray) -> np.ndarray:
    """Marks the frames of the last quarter of the people, bool [F].

    Identity int [F].
    """
    people = int(identity.max()) + 1
    return identity >= people - people // _TEST_PEOPLE


def predict_people(
    codes: np.ndarray, identity: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Predicts who the test frames show.

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
    """Predicts motion of the test frames.

    Args:
      codes: float32 [F, D].
      values: [F, K]; those of test frames are not used.
      identity: int32 [F], people whom the cross-validation keeps together.
      test: bool [F].
      seed: of folds.

    Returns:
      float32 [test frames, K].
    """
    fitted = fit_ridge(codes[~test], values[~test], group=identity[~test], seed=seed)
    return fitted.predict(codes[test])
