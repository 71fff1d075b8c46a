"""Emotion recognition by a probe on frozen features.

No choice sees a test label: penalties come from cross-validation on the training set,
and features that are fitted never see a test image.
"""

import functools
import logging
from collections.abc import Mapping

import jax
import numpy as np

from facecycle_jax.data.labelled.images import Images, LabelledImages, load_images
from facecycle_jax.evaluation.features import Encode, FeatureSet, extract
from facecycle_jax.evaluation.probes.classification import classification
from facecycle_jax.evaluation.probes.linear import (
    LinearOptions,
    fit_linear,
    predict_linear,
)
from facecycle_jax.evaluation.probes.logistic import fit_logistic
from facecycle_jax.evaluation.probes.neighbours import (
    NEIGHBOURS,
    TEMPERATURE,
    predict_classes,
)
from facecycle_jax.evaluation.probes.penalties import edge_warnings
from facecycle_jax.evaluation.report import Evaluation

log = logging.getLogger(__name__)


_PROTOCOLS = {
    "logistic": (
        "Logistic regression on frozen features, to convergence, its penalty chosen by "
        "3-fold cross-validation on the training images."
    ),
    "neighbours": (
        f"Vote of the {NEIGHBOURS} nearest training images by the cosine of centred "
        f"features, weighted by exp(cosine / {TEMPERATURE:g})."
    ),
    "linear": (
        "One dense layer on frozen features, SGD, augmented images, as in the paper."
    ),
}


def evaluate_emotion(
    features: Mapping[str, FeatureSet],
    train: LabelledImages,
    test: LabelledImages,
    *,
    task: str,
    names: tuple[str, str] = ("train", "test"),
    counts: Mapping[str, int] | None = None,
    probe: str = "logistic",
    crop: float = 1.0,
    seed: int = 0,
    options: LinearOptions | None = None,
    also: Mapping[str, LabelledImages] | None = None,
) -> Evaluation:
    """Fits a probe on training images and evaluates it on test images.

    Args:
      features: by name; each kind has its own probe and its own row.
      train: the training split.
      test: the test split. Its labels are used once, after all predictions are made.
      task: for the report.
      names: of the splits.
      counts: official number of images by split. Other numbers cause a warning.
      probe: 'logistic', 'linear' or 'neighbours'.
      crop: central fraction of the images that is kept.
      seed: of folds or initial weights.
      options: of the linear protocol.
      also: further test splits by name. They are predicted by the same probe and have
        rows of their own, 'NAME (SPLIT)'.

    Returns:
      The evaluation.
    """
    rows = {}
    details = {}
    splits = {names[1]: test, **(also or {})}
    for name, kind in features.items():
        log.info("%s: %s", task, name)
        tests = [split.images for split in splits.values()]
        every, chosen = _predict(kind, train, tests, probe, crop, seed, options)

        # The first split has the name of the features, further ones also their own.
        for (split, content), predicted in zip(splits.items(), every, strict=True):
            row = name if split == names[1] else split_row(name, split)
            rows[row] = classification(
                predicted, content.labels, classes=len(test.classes)
            )
            details[row] = chosen

    # What the reader must know before comparing figures.
    found = {names[0]: len(train)}
    found |= {split: len(content) for split, content in splits.items()}
    warnings = [
        f"{split} has {count:,} images, the official split {counts[split]:,}."
        for split, count in found.items()
        if counts and counts.get(split) not in (None, count)
    ]
    warnings += edge_warnings({name: details[name] for name in features})
    other = [name for name, kind in features.items() if _augmentable(kind) is None]
    if probe == "linear" and other:
        warnings.append(
            f"{', '.join(other)}: evaluated by logistic regression to convergence, "
            "since images cannot be augmented below these features."
        )

    protocol = (
        f"{_PROTOCOLS[probe]} Seed {seed}. "
        f"Accuracy over {names[1]} where no other split is named."
    )
    return Evaluation(
        task=task,
        protocol=protocol,
        rows=rows,
        details=details,
        classes=test.classes,
        counts=found,
        warnings=tuple(warnings),
    )


def split_row(name: str, split: str) -> str:
    """Names the row of features on a further test split."""
    return f"{name} ({split})"


def _augmentable(kind: FeatureSet) -> Encode | None:
    """Returns the function below which the linear protocol augments images, if any."""
    return kind.encode if kind.adapt is None else None


def _predict(
    kind: FeatureSet,
    train: LabelledImages,
    tests: list[Images],
    probe: str,
    crop: float,
    seed: int,
    options: LinearOptions | None,
) -> tuple[list[np.ndarray], dict[str, object]]:
    """Predicts the classes of each test split.

    Test labels are not among the arguments.
    """
    classes = len(train.classes)
    load = functools.partial(load_images, size=kind.size, crop=crop)
    encode = _augmentable(kind)
    if probe == "linear" and encode is not None:
        layer = fit_linear(
            jax.random.key(seed),
            load(train.images),
            train.labels,
            classes=classes,
            encode=encode,
            options=options,
        )
        images = [load(test) for test in tests]
        found = [predict_linear(layer, part, encode=encode) for part in images]
        return found, {"losses": [float(loss) for loss in layer.losses]}

    # Other features are computed once, without augmentation.
    function = kind.fitted(lambda: load(train.images))
    extracted = functools.partial(extract, function, size=kind.size, crop=crop)
    values = extracted(train.images)
    adapted = None if kind.adapt is None else kind.adapt(values)

    def compute(images: Images) -> np.ndarray:
        found = extracted(images)
        return found if adapted is None else adapted(found)

    if adapted is not None:
        values = adapted(values)
    if probe == "neighbours":
        predicted = [
            predict_classes(values, train.labels, compute(test), classes=classes)
            for test in tests
        ]
        return predicted, {"dimensions": values.shape[1]}

    fitted = fit_logistic(values, train.labels, classes=classes, seed=seed)
    predicted = [fitted.predict(compute(test)) for test in tests]
    chosen: dict[str, object] = {
        "strength": fitted.strength,
        "validation": {str(k): v for k, v in fitted.validation.items()},
        "at_edge": fitted.at_edge,
        "gradient_norm": fitted.gradient_norm,
        "dimensions": values.shape[1],
    }
    return predicted, chosen
