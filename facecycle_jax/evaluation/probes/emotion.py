"""Emotions by a probe on frozen features, one table row for each kind.

No choice sees a test label: penalties come from cross-validation on the training set,
and features that are fitted never see a test picture.
"""

import logging
from collections.abc import Mapping

import jax
import numpy as np

from facecycle_jax.data.labelled.images import LabelledPictures, Pictures, load_pictures
from facecycle_jax.evaluation.features import FeatureSet, extract
from facecycle_jax.evaluation.probes.classification import classification
from facecycle_jax.evaluation.probes.linear import (
    LinearOptions,
    fit_linear,
    predict_linear,
)
from facecycle_jax.evaluation.probes.logistic import fit_logistic
from facecycle_jax.evaluation.probes.penalties import edge_warnings
from facecycle_jax.evaluation.report import Evaluation

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
    also: Mapping[str, LabelledPictures] | None = None,
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
      also: further test splits by name, judged by the same probe in rows of their own,
        'NAME (SPLIT)'.

    Returns:
      The figures.
    """
    rows, details = {}, {}
    splits = {names[1]: test, **(also or {})}
    for name, kind in features.items():
        log.info("%s: %s", task, name)
        pictures = [split.pictures for split in splits.values()]
        every, chosen = _predict(kind, train, pictures, probe, crop, seed, options)
        for (split, content), predicted in zip(splits.items(), every, strict=True):
            row = name if split == names[1] else f"{name} ({split})"
            rows[row] = classification(
                predicted, content.labels, classes=len(test.classes)
            )
            details[row] = chosen
    found = {
        names[0]: len(train),
        **{split: len(content) for split, content in splits.items()},
    }
    warnings = [
        f"{split} has {count:,} pictures, the official split {counts[split]:,}."
        for split, count in found.items()
        if counts and counts.get(split) not in (None, count)
    ]
    warnings += edge_warnings({name: details[name] for name in features})
    other = [name for name, kind in features.items() if kind.encode is None]
    if probe == "linear" and other:
        warnings.append(
            f"{', '.join(other)}: judged by logistic regression to convergence, since pictures cannot be "
            "augmented below these features."
        )
    words = {
        "logistic": "Logistic regression on frozen features, to convergence, its penalty chosen by 3-fold "
        "cross-validation on the training pictures.",
        "linear": "One dense layer on frozen features, SGD for 300 epochs, augmented pictures, as in "
        "the paper.",
    }
    return Evaluation(
        task=task,
        protocol=f"{words[probe]} Seed {seed}. Accuracy over {names[1]} where no other split is named.",
        rows=rows,
        details=details,
        classes=test.classes,
        counts=found,
        warnings=tuple(warnings),
    )


def _predict(
    kind: FeatureSet,
    train: LabelledPictures,
    tests: list[Pictures],
    probe: str,
    crop: float,
    seed: int,
    options: LinearOptions | None,
) -> tuple[list[np.ndarray], dict[str, object]]:
    """Predicts the classes of each test split.

    Test labels are not among the arguments.
    """
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
        images = [load_pictures(test, size=kind.size, crop=crop) for test in tests]
        found = [predict_linear(fitted, part, encode=kind.encode) for part in images]
        return found, {"losses": [float(x) for x in fitted.losses]}
    sample = (
        load_pictures(train.pictures, size=kind.size, crop=crop)
        if kind.needs_fit
        else np.zeros(0)
    )
    function = kind.fit(sample)
    values = extract(function, train.pictures, size=kind.size, crop=crop)
    fitted_logistic = fit_logistic(values, train.labels, classes=classes, seed=seed)
    predicted = [
        fitted_logistic.predict(extract(function, test, size=kind.size, crop=crop))
        for test in tests
    ]
    chosen: dict[str, object] = {
        "strength": fitted_logistic.strength,
        "validation": {str(k): v for k, v in fitted_logistic.validation.items()},
        "at_edge": fitted_logistic.at_edge,
        "gradient_norm": fitted_logistic.gradient_norm,
        "dimensions": values.shape[1],
    }
    return predicted, chosen
