"""The evaluation of trained methods by the same probes, for a table of them.

Every method is evaluated with two features: the one that its authors use, and its last
convolutional map averaged to 2 x 2 areas. No choice sees a test label, and the model is
always that of the last step of its run.
"""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import (
    COMMON_SIDE,
    FeatureSet,
    extract,
    model_features,
    peer_feature_sets,
    plain,
)
from facecycle_jax.evaluation.options import FEATURES, PROBES, EvaluationOptions
from facecycle_jax.evaluation.probes.classification import Classification
from facecycle_jax.evaluation.probes.code_probes import (
    FEWEST_PEOPLE,
    POSE,
    ProbeSet,
    last_frames,
    last_people,
    measure_expression,
    measure_identity,
    measure_pose,
    probe_set,
)
from facecycle_jax.evaluation.probes.codes import reduced
from facecycle_jax.evaluation.probes.linear import DivergedProbeError, LinearOptions
from facecycle_jax.evaluation.probes.neighbours import NEIGHBOURS
from facecycle_jax.evaluation.probes.pose import PoseErrors
from facecycle_jax.evaluation.probes.verification import Verification
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.evaluation.synthetic import (
    FRAMES,
    PEOPLE,
    random_model,
    random_peer,
)
from facecycle_jax.evaluation.tasks import evaluate_features, own_size
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.methods import PEERS
from facecycle_jax.methods.base import CARRIED
from facecycle_jax.networks import FEATURE_SIDE

log = logging.getLogger(__name__)

# Names of the two features, as in the tables.
AUTHORS = "authors'"
COMMON = "last map"
# Numbers that features are reduced to.
COMPONENTS = 256
# Tasks by field of `ComparisonOptions`.
DATA_SETS = {"fer2013": "fer2013", "raf_db": "raf-db", "lfw": "lfw", "pose": "pose"}

_REDUCED = f"PCA {COMPONENTS}: "
_NEAREST = f"{NEIGHBOURS} nearest: "
# Columns of synthetic faces.
HEAD_POSE = "head pose °"
_IDENTITY = "identity %"

# Figures by column, by feature.
Figures = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """The data and the probes of a comparison.

    Attributes:
      fer2013: FER-2013 as published; '' leaves a data set out.
      raf_db: RAF-DB as published.
      lfw: LFW as published.
      pose: 300W-LP and AFLW2000-3D as published.
      probes: of emotion, some of `PROBES`.
      epochs: of the probe 'linear'.
      test_split: of FER-2013, 'PublicTest' or 'PrivateTest'.
      without: people to leave out of verification, because they were trained on.
      limit: most images or pairs of each split; 0: all.
      people: synthetic people of the head-pose probe.
      seed: of folds, sampling and the synthetic people, the same for all runs.

    Raises:
      UserError: If a value is out of range.
    """

    fer2013: str = ""
    raf_db: str = ""
    lfw: str = ""
    pose: str = ""
    probes: Sequence[str] = PROBES
    epochs: int = LinearOptions().epochs
    test_split: str = "PublicTest"
    without: Sequence[str] = ()
    limit: int = 0
    people: int = PEOPLE
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        unknown = [name for name in self.probes if name not in PROBES]
        if unknown or not self.probes:
            found = repr(unknown[0]) if unknown else "none"
            raise UserError(f"probes are some of {', '.join(PROBES)}, got {found}.")
        if self.test_split == "both":
            raise UserError("a comparison has one test split of fer2013, got 'both'.")

        if self.people < FEWEST_PEOPLE:
            raise UserError(
                f"the probes need at least {FEWEST_PEOPLE} people, got {self.people}."
            )

        # Less than one batch is nothing to train on.
        has_emotion = self.fer2013 or self.raf_db
        batch = LinearOptions().batch
        if has_emotion and "linear" in self.probes and 0 < self.limit < batch:
            raise UserError(
                f"the probe linear needs a limit of at least {batch} images, got "
                f"{self.limit}: raise the limit, or leave linear out of the probes."
            )

        # The options of the evaluations check the other values.
        self.of_task("fer2013", probe="linear")

    def of_task(self, task: str, *, probe: str = PROBES[0]) -> EvaluationOptions:
        """Returns the options of one evaluation.

        Args:
          task: one of the values of `DATA_SETS`.
          probe: of emotion.

        Returns:
          The options.
        """
        paths = {name: getattr(self, field) for field, name in DATA_SETS.items()}
        own: dict[str, Any] = {}
        if task == "lfw":
            own["without"] = tuple(self.without)
        if task == "fer2013":
            own["test_split"] = self.test_split
        if probe == "linear":
            own["epochs"] = self.epochs
        return EvaluationOptions(
            task=task,
            path=paths[task],
            probe=probe,
            limit=self.limit,
            seed=self.seed,
            **own,
        )

    def settings(self) -> dict[str, Any]:
        """Returns the options as JSON values, without names of people."""
        values = dataclasses.asdict(self) | {"probes": list(self.probes)}
        names = sorted(set(values.pop("without")))
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        return values | {"people_left_out": len(names), "names_left_out": digest}


class Checkpoint(NamedTuple):
    """A checkpoint of a run.

    Attributes:
      path: WORKDIR/checkpoints/STEP.
      images: images that all networks of it have seen, stages before it included.
    """

    path: epath.Path
    images: int


def method_features(
    model: FaceCycle | PeerModel, *, task: str
) -> dict[str, FeatureSet]:
    """Lists the two features that a method is compared with.

    Args:
      model: a loaded model.
      task: 'synthetic', or one of the values of `DATA_SETS`.

    Returns:
      Features by name. The authors' feature of FaceCycle is the feature map at 100
      pixels for emotion and head pose, and the identity code for verification (the
      motion code of a model of stage 1). Those of others are in `peer_features`.
    """
    of_maps = "feature_map" in FEATURES.get(task, ("feature_map",))
    if isinstance(model, PeerModel):
        sets = peer_feature_sets(model, size=own_size(model, of_maps=of_maps))
        return {AUTHORS: sets["features"], COMMON: sets["map"]}

    sets = model_features(model, size=model.size)
    name = "identity_code" if model.has_identity else "motion_code"
    if of_maps:
        name = "feature_map"
        traced = functools.partial(model.traced_feature_map, side=FEATURE_SIDE)
        sets[name] = sets[name]._replace(encode=traced)

    def common_map(images: np.ndarray) -> np.ndarray:
        return model.feature_map(images, size=model.size, side=COMMON_SIDE)

    traced_map = functools.partial(model.traced_feature_map, side=COMMON_SIDE)
    common = plain(common_map, size=model.size, encode=traced_map)
    return {AUTHORS: sets[name], COMMON: common}


def random_weights(config: Mapping[str, Any], *, seed: int) -> FaceCycle | PeerModel:
    """Builds the untrained model of a run.

    Args:
      config: of a run; of one with stages, that of the last stage.
      seed: of the weights.

    Returns:
      The model.
    """
    if config["method"] in PEERS:
        return random_peer(config, seed=seed)

    has_identity = config["method"] == "identity_cycle"
    model = {**config["model"], "trunk": "learned"}
    return random_model(model, seed=seed, has_identity=has_identity)


def evaluate_method(
    model: FaceCycle | PeerModel, options: ComparisonOptions
) -> dict[str, Any]:
    """Evaluates a model on all data sets of a comparison and on synthetic faces.

    Args:
      model: a loaded model.
      options: the data and probes.

    Returns:
      JSON values: parameters (of all networks that were trained, and of the encoder
      that has the features), numbers (in each feature, by task), tasks (figures by
      task, feature and column) and notes (sentences).

    Raises:
      UserError: If data cannot be used.
      FileNotFoundError: If data are missing.
      MissingExtraError: If scikit-learn is not installed.
    """
    tasks: dict[str, Figures] = {}
    numbers: dict[str, dict[str, int]] = {}
    notes: list[str] = []

    for field, task in DATA_SETS.items():
        if not getattr(options, field):
            continue
        log.info("Evaluating on %s", task)
        kinds = method_features(model, task=task)
        numbers[task] = _numbers(kinds)
        if task == "lfw":
            tasks[task] = _verification(options.of_task(task), kinds, notes)
        elif task == "pose":
            tasks[task] = _pose(options.of_task(task), kinds, notes)
        else:
            tasks[task] = _emotion(task, kinds, options, notes)

    log.info("Evaluating head pose on synthetic faces")
    kinds = method_features(model, task="synthetic")
    numbers["synthetic"] = _numbers(kinds)
    tasks["synthetic"] = _synthetic(kinds, _faces(options, model.size), options)

    return {
        "parameters": _parameters(model),
        "numbers": numbers,
        "tasks": tasks,
        "notes": list(dict.fromkeys(notes)),
    }


def curve_of(
    checkpoints: Sequence[Checkpoint], options: ComparisonOptions
) -> list[tuple[int, float]]:
    """Measures the head pose in the authors' feature at every checkpoint of a run.

    Args:
      checkpoints: of one run, in their order.
      options: the synthetic people.

    Returns:
      Images seen, and the mean absolute error of yaw, pitch and roll in degrees on
      synthetic people not trained on, by ridge regression.

    Raises:
      UserError: If a checkpoint is damaged.
    """
    points = []
    for checkpoint in checkpoints:
        # Typed as FaceCycle, and a peer's model for runs of peers.
        model: FaceCycle | PeerModel = load(checkpoint.path)
        kind = method_features(model, task="synthetic")[AUTHORS]
        faces = _faces(options, model.size)
        values = _computed(kind, faces)
        points.append((checkpoint.images, _pose_error(values, faces, options)))
    return points


def _parameters(model: FaceCycle | PeerModel) -> dict[str, int]:
    """Counts the parameters of all trained networks and of the encoder."""
    # A VGG-19 is not trained, and carried values are not parameters.
    trained = {
        name: tree
        for name, tree in model.trees.items()
        if name not in ("vgg", *CARRIED)
    }

    def count(tree: Any) -> int:
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))

    encoders = ("motion_encoder", "encoder", "trunk")
    encoder = next(name for name in encoders if name in trained)
    return {"all": count(trained), "encoder": count(trained[encoder])}


def _numbers(kinds: Mapping[str, FeatureSet]) -> dict[str, int]:
    """Counts the numbers of each feature."""
    found = {}
    for name, kind in kinds.items():
        blank = np.zeros((1, kind.size, kind.size, 3), np.uint8)
        found[name] = int(np.size(kind.fitted()(blank)))
    return found


def _remembered(kind: FeatureSet) -> FeatureSet:
    """Keeps the features of every batch, so that several probes compute them once."""
    function = kind.fitted()
    kept: dict[bytes, np.ndarray] = {}

    def remember(images: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in kept:
            kept[key] = np.asarray(function(images))
        return kept[key]

    return kind._replace(fit=lambda _: remember)


def _with_reduced(kinds: Mapping[str, FeatureSet]) -> dict[str, FeatureSet]:
    """Adds features reduced by PCA, which is fitted on training images."""
    reduce = functools.partial(reduced, components=COMPONENTS)
    both = dict(kinds)
    for name, kind in kinds.items():
        both[_REDUCED + name] = kind._replace(adapt=reduce)
    return both


def _emotion(
    task: str,
    kinds: Mapping[str, FeatureSet],
    options: ComparisonOptions,
    notes: list[str],
) -> Figures:
    """Evaluates emotion by each probe, and reduced features by the logistic one."""
    remembered = {name: _remembered(kind) for name, kind in kinds.items()}
    figures: Figures = {name: {} for name in kinds}

    def accuracies(probe: str, sets: Mapping[str, FeatureSet]) -> dict[str, float]:
        result = evaluate_features(options.of_task(task, probe=probe), sets)
        _note(notes, result)
        rows = cast(Mapping[str, Classification], result.rows)
        return {name: 100 * row.accuracy for name, row in rows.items()}

    if "linear" in options.probes:
        for name, kind in kinds.items():
            # Features of any scale meet one learning rate, which may be too high.
            try:
                found = accuracies("linear", {name: kind})
            except DivergedProbeError as error:
                notes.append(f"{task}, {name} feature: {error}")
                continue
            figures[name]["linear protocol %"] = found[name]

    if "logistic" in options.probes:
        found = accuracies("logistic", _with_reduced(remembered))
        for name in kinds:
            figures[name]["logistic %"] = found[name]
            figures[name][f"{_REDUCED}logistic %"] = found[_REDUCED + name]

    if "neighbours" in options.probes:
        found = accuracies("neighbours", remembered)
        for name in kinds:
            figures[name][f"{NEIGHBOURS} nearest %"] = found[name]
    return figures


def _verification(
    options: EvaluationOptions, kinds: Mapping[str, FeatureSet], notes: list[str]
) -> Figures:
    """Evaluates verification by cosines, which nothing is trained for."""
    shared = {name: kind._replace(shared=name) for name, kind in kinds.items()}
    result = evaluate_features(options, _with_reduced(shared))
    _note(notes, result)

    rows = cast(Mapping[str, Verification], result.rows)
    figures: Figures = {}
    for name in kinds:
        figures[name] = {"cosine %": 100 * rows[name].accuracy, "AUC": rows[name].auc}

        # It has no row where no image is left to fit the PCA to.
        other = rows.get(_REDUCED + name)
        if other is not None:
            figures[name][f"{_REDUCED}cosine %"] = 100 * other.accuracy
            figures[name][f"{_REDUCED}AUC"] = other.auc
    return figures


def _pose(
    options: EvaluationOptions, kinds: Mapping[str, FeatureSet], notes: list[str]
) -> Figures:
    """Evaluates head pose by ridge regression."""
    remembered = {name: _remembered(kind) for name, kind in kinds.items()}
    result = evaluate_features(options, _with_reduced(remembered))
    _note(notes, result)

    rows = cast(Mapping[str, PoseErrors], result.rows)
    figures: Figures = {}
    for name in kinds:
        errors = rows[name].errors
        other = rows[_REDUCED + name].errors
        figures[name] = {
            f"{angle} °": error for angle, error in zip(POSE, errors, strict=True)
        }
        figures[name]["mean °"] = float(np.mean(errors))
        figures[name][f"{_REDUCED}mean °"] = float(np.mean(other))
    return figures


def _note(notes: list[str], result: Evaluation) -> None:
    """Keeps what the reader of a table must know."""
    for warning in result.warnings:
        notes.append(f"{result.task}: {warning}")


@functools.lru_cache(maxsize=2)
def _rendered(seed: int, people: int, size: int) -> ProbeSet:
    return probe_set(seed, people=people, frames=FRAMES, size=size)


def _faces(options: ComparisonOptions, size: int) -> ProbeSet:
    """Renders the synthetic faces, once for all runs of an image size."""
    return _rendered(options.seed, options.people, size)


def _computed(kind: FeatureSet, faces: ProbeSet) -> np.ndarray:
    """Computes the features of synthetic faces, [F, D]."""
    return extract(kind.fitted(), faces.frames, size=kind.size)


def _synthetic(
    kinds: Mapping[str, FeatureSet], faces: ProbeSet, options: ComparisonOptions
) -> Figures:
    """Evaluates head pose, identity and expression on synthetic faces."""
    # Frames and people that no probe is tested on.
    seen = ~(last_frames(faces.identity) | last_people(faces.identity))

    found: Figures = {}
    for name, kind in kinds.items():
        values = _computed(kind, faces)
        project = reduced(values[seen], components=COMPONENTS)
        projected = project(values)

        found[name] = {
            HEAD_POSE: _pose_error(values, faces, options),
            _IDENTITY: _identity(values, faces, options),
            "expression R2": measure_expression(values, faces, seed=options.seed).value,
            _REDUCED + HEAD_POSE: _pose_error(projected, faces, options),
            _REDUCED + _IDENTITY: _identity(projected, faces, options),
            _NEAREST + HEAD_POSE: _pose_error(values, faces, options, neighbours=True),
            _NEAREST + _IDENTITY: _identity(values, faces, options, neighbours=True),
        }
    return found


def _pose_error(
    values: np.ndarray,
    faces: ProbeSet,
    options: ComparisonOptions,
    *,
    neighbours: bool = False,
) -> float:
    """Averages the errors of yaw, pitch and roll read from features [F, D]."""
    figures = measure_pose(values, faces, seed=options.seed, neighbours=neighbours)
    return float(np.mean([figures[angle].value for angle in POSE]))


def _identity(
    values: np.ndarray,
    faces: ProbeSet,
    options: ComparisonOptions,
    *,
    neighbours: bool = False,
) -> float:
    """Computes the accuracy of people read from features [F, D], percent."""
    return measure_identity(
        values, faces, seed=options.seed, neighbours=neighbours
    ).value
