"""Features held against labels: a probe on emotions, cosines on pairs, one table row for each kind.

No choice sees a test label: thresholds come from the other folds or the development pairs, penalties from
cross-validation on the training set, and features that are fitted never see a test picture.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from facecycle_jax.data.labelled import LabelledPictures, load_pictures
from facecycle_jax.data.lfw_pairs import Pairs
from facecycle_jax.probes.classification import Classification, classification
from facecycle_jax.probes.features import FeatureSet, extract
from facecycle_jax.probes.linear import LinearOptions, fit_linear, predict_linear
from facecycle_jax.probes.logistic import fit_logistic
from facecycle_jax.probes.report import Evaluation
from facecycle_jax.probes.verification import Verification, cosine_scores, verify_folds, verify_split

log = logging.getLogger(__name__)


def judge_emotion(
    features: Mapping[str, FeatureSet],
    train: LabelledPictures,
    test: LabelledPictures,
    *,
    task: str,
    names: tuple[str, str] = ("train", "test"),
    counts: Mapping[str, int] | None = None,
    probe: str = "logistic",
    crop: float = 1.0,
    seed: int = 0,
    options: LinearOptions | None = None,
) -> Evaluation:
    """Fits a probe on training pictures for each kind of features and judges it on test pictures.

    Args:
      features: by name.
      train: the training split.
      test: the test split; its labels are used once, after all predictions are made.
      task: for the report.
      names: of the splits.
      counts: official number of pictures by split, warned of where others are found.
      probe: 'logistic' or 'linear'.
      crop: middle part of the pictures that is kept.
      seed: of folds or initial weights.
      options: of the linear protocol.

    Returns:
      The figures.
    """
    rows: dict[str, Verification | Classification] = {}
    details = {}
    for name, kind in features.items():
        log.info("%s: %s", task, name)
        predicted, details[name] = _predict(kind, train, test.pictures, probe, crop, seed, options)
        rows[name] = classification(predicted, test.labels, classes=len(test.classes))
    found = {names[0]: len(train), names[1]: len(test)}
    warnings = [
        f"{split} has {count:,} pictures, the official split {counts[split]:,}."
        for split, count in found.items()
        if counts and counts.get(split) not in (None, count)
    ]
    words = {
        "logistic": "Logistic regression on frozen features, to convergence, its penalty chosen by 3-fold "
        "cross-validation on the training pictures.",
        "linear": "One dense layer on frozen features, SGD for 300 epochs, augmented pictures, as in "
        "the paper.",
    }
    return Evaluation(
        task,
        f"{words[probe]} Seed {seed}. Accuracy over {names[1]}.",
        rows,
        details,
        test.classes,
        found,
        tuple(warnings),
    )


def _predict(
    kind: FeatureSet,
    train: LabelledPictures,
    test: Sequence[str] | np.ndarray,
    probe: str,
    crop: float,
    seed: int,
    options: LinearOptions | None,
) -> tuple[np.ndarray, dict[str, object]]:
    """Predicts the test pictures' classes; test labels are not among the arguments."""
    classes = len(train.classes)
    if probe == "linear" and kind.encode is not None:
        fitted = fit_linear(
            jax.random.key(seed),
            load_pictures(train.pictures, size=kind.size, crop=crop),
            train.labels,
            classes=classes,
            encode=kind.encode,
            options=options,
        )
        images = load_pictures(test, size=kind.size, crop=crop)
        return predict_linear(fitted, images, encode=kind.encode), {
            "losses": [float(x) for x in fitted.losses]
        }
    sample = load_pictures(train.pictures, size=kind.size, crop=crop) if kind.needs_fit else np.zeros(0)
    function = kind.fit(sample)
    values = extract(function, train.pictures, size=kind.size, crop=crop)
    fitted_logistic = fit_logistic(values, train.labels, classes=classes, seed=seed)
    predicted = fitted_logistic.predict(extract(function, test, size=kind.size, crop=crop))
    chosen: dict[str, object] = {
        "strength": fitted_logistic.strength,
        "validation": {str(k): v for k, v in fitted_logistic.validation.items()},
        "gradient_norm": fitted_logistic.gradient_norm,
        "dimensions": values.shape[1],
    }
    return predicted, chosen


def judge_pairs(
    features: Mapping[str, FeatureSet],
    train: Pairs | None,
    test: Pairs,
    *,
    task: str,
    crop: float = 1.0,
    warnings: tuple[str, ...] = (),
) -> Evaluation:
    """Judges cosines of features on pairs.

    Args:
      features: by name.
      train: development pairs for threshold and fitted features; None judges `test` fold by fold.
      test: the pairs.
      task: for the report.
      crop: middle part of the pictures that is kept.
      warnings: for the report.

    Returns:
      The figures.
    """
    rows: dict[str, Verification | Classification] = {}
    for name, kind in features.items():
        log.info("%s: %s", task, name)
        if train is not None:
            function = kind.fit(_fit_pictures(kind, train, np.ones(len(train), bool), crop))
            scores = [_scores(function, kind, pairs, crop) for pairs in (train, test)]
            rows[name] = verify_split(scores[0], train.same, scores[1], test.same)
        elif kind.needs_fit:
            # Fitted anew for every fold, on the pictures of the others.
            folds = [test.fold != k for k in np.unique(test.fold)]
            functions = [kind.fit(_fit_pictures(kind, test, inside, crop)) for inside in folds]
            scores = [_scores(function, kind, test, crop) for function in functions]
            rows[name] = verify_folds(np.stack(scores), test.same, test.fold)
        else:
            function = kind.fit(np.zeros(0))
            rows[name] = verify_folds(_scores(function, kind, test, crop), test.same, test.fold)
    how = (
        "Threshold chosen on pairsDevTrain, tested on pairsDevTest (LFW view 1, for development)."
        if train is not None
        else "Ten folds, each with the threshold of the other nine."
    )
    counts = {"test pairs": len(test), "test pictures": len(test.files)}
    if train is not None:
        counts |= {"development pairs": len(train), "development pictures": len(train.files)}
    protocol = f"Cosine similarity of features, no training. {how} Middle {crop:g} of the pictures."
    return Evaluation(task, protocol, rows, {}, (), counts, warnings)


def _fit_pictures(kind: FeatureSet, pairs: Pairs, chosen: np.ndarray, crop: float) -> np.ndarray:
    """Reads the pictures of chosen pairs for features that are fitted; nothing for others."""
    if not kind.needs_fit:
        return np.zeros(0)
    used = np.unique(np.concatenate([pairs.left[chosen], pairs.right[chosen]]))
    return load_pictures([pairs.files[i] for i in used], size=kind.size, crop=crop)


def _scores(
    function: Callable[[np.ndarray], np.ndarray], kind: FeatureSet, pairs: Pairs, crop: float
) -> np.ndarray:
    """Computes the cosine of every pair, each picture's features once."""
    values = extract(function, pairs.files, size=kind.size, crop=crop)
    return cosine_scores(values[pairs.left], values[pairs.right])
