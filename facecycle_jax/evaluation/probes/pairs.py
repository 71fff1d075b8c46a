"""Verification of pairs of images by the cosine of their features.

No choice sees a test label: thresholds come from the other folds or the development
pairs. What is fitted to images never sees an image of a test pair, even without label.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.data.labelled.lfw_pairs import Pairs
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet, extract
from facecycle_jax.evaluation.probes.verification import (
    Verification,
    cosine_scores,
    verify_folds,
    verify_split,
)
from facecycle_jax.evaluation.report import Evaluation

log = logging.getLogger(__name__)


def evaluate_pairs(
    features: Mapping[str, FeatureSet],
    train: Pairs | None,
    test: Pairs,
    *,
    task: str,
    crop: float = 1.0,
    warnings: tuple[str, ...] = (),
) -> Evaluation:
    """Evaluates cosines of features on pairs.

    Args:
      features: by name; each kind has its own row. Kinds that are fitted have none
        where no image is left to fit them to.
      train: development pairs for the threshold and fitted features. With None, each
        fold of `test` is evaluated with the other folds.
      test: the pairs.
      task: for the report.
      crop: central fraction of the images that is kept.
      warnings: for the report.

    Returns:
      The evaluation.

    Raises:
      UserError: If `test` has to be evaluated fold by fold and has one fold.
    """
    folds = len(np.unique(test.fold))
    if train is None and folds < 2:
        raise UserError(
            f"{test.origin} has one fold: the threshold of a fold is chosen on the "
            "others, so at least two are needed."
        )

    usable = _usable_images(train, test)
    left_out = []
    if not all(images.any() for images in usable):
        left_out = [name for name, kind in features.items() if _is_fitted(kind)]
    if left_out:
        warnings = (
            *warnings,
            f"{', '.join(left_out)} left out: they are fitted to images that no tested "
            f"pair shows, and {(train or test).origin} has none.",
        )

    computed = _Computed(crop)
    rows = {}
    for name, kind in features.items():
        if name in left_out:
            continue
        log.info("%s: %s", task, name)
        if train is None:
            rows[name] = _verify_by_fold(kind, test, usable, computed)
            continue

        (used,) = usable
        train_scores = _scores(kind, train, used, train, computed)
        test_scores = _scores(kind, train, used, test, computed)
        rows[name] = verify_split(train_scores, train.same, test_scores, test.same)

    counts = {"test pairs": len(test), "test images": len(test.files)}
    if train is None:
        how = f"{folds} folds, each with the threshold of the others."
    else:
        how = (
            "Threshold chosen on pairsDevTrain, tested on pairsDevTest "
            "(LFW view 1, for development)."
        )
        counts["development pairs"] = len(train)
        counts["development images"] = len(train.files)

    protocol = (
        f"Cosine similarity of features, no training. {how} "
        f"Middle {crop:g} of the images."
    )
    if any(kind.adapt is not None for kind in features.values()):
        protocol += (
            " Rows 'centred' and 'whitened' are not the published protocol: their "
            "statistics come from the unlabelled images of the other folds or of the "
            "development pairs."
        )
    return Evaluation(
        task=task,
        protocol=protocol,
        rows=rows,
        details={},
        classes=(),
        counts=counts,
        warnings=warnings,
    )


def _verify_by_fold(
    kind: FeatureSet,
    test: Pairs,
    usable: Sequence[np.ndarray],
    computed: "_Computed",
) -> Verification:
    """Evaluates each fold with the threshold of the others."""
    if not _is_fitted(kind):
        everything = np.ones(len(test.files), bool)
        scores = _scores(kind, test, everything, test, computed)
        return verify_folds(scores, test.same, test.fold)

    # Fitted anew for every fold, on the images that only the other folds have.
    rows = [_scores(kind, test, used, test, computed) for used in usable]
    return verify_folds(np.stack(rows), test.same, test.fold)


def _is_fitted(kind: FeatureSet) -> bool:
    """Whether features depend on training images."""
    return kind.needs_fit or kind.adapt is not None


def _usable_images(train: Pairs | None, test: Pairs) -> list[np.ndarray]:
    """Marks the images that may be fitted to, since no tested pair shows them.

    Returns bool [images of train]; without `train` bool [images of test] for each fold.
    """
    if train is not None:
        return [~np.isin(np.array(train.files), np.array(test.files))]
    return [_only_outside(test, test.fold == fold) for fold in np.unique(test.fold)]


class _Computed:
    """Computes features of whole lists, and keeps those that several kinds share."""

    def __init__(self, crop: float) -> None:
        self.crop = crop
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def __call__(
        self, kind: FeatureSet, function: FeatureFunction, pairs: Pairs
    ) -> np.ndarray:
        """Computes the features [N, D] of all images of a list."""
        key = (kind.shared, pairs.origin)
        if kind.shared and key in self._kept:
            return self._kept[key]

        values = extract(function, pairs.files, size=kind.size, crop=self.crop)
        if kind.shared:
            self._kept[key] = values
        return values


def _only_outside(pairs: Pairs, inside: np.ndarray) -> np.ndarray:
    """Marks the images of pairs outside of a fold that no pair inside shows.

    Args:
      pairs: the pairs.
      inside: bool [pairs], those of the fold.

    Returns:
      bool [images].
    """
    # An image in pairs of both kinds is not used: the second step overrides the first.
    used = np.zeros(len(pairs.files), bool)
    used[pairs.left[~inside]] = True
    used[pairs.right[~inside]] = True
    used[pairs.left[inside]] = False
    used[pairs.right[inside]] = False
    return used


def _scores(
    kind: FeatureSet, source: Pairs, used: np.ndarray, pairs: Pairs, computed: _Computed
) -> np.ndarray:
    """Computes the cosine of every pair.

    Args:
      kind: the features.
      source: the list whose images features are fitted to.
      used: bool [images of source], those that fitting may see.
      pairs: the pairs.
      computed: computes features of lists.

    Returns:
      float64 [pairs].
    """

    def fitting_images() -> np.ndarray:
        files = [source.files[i] for i in np.flatnonzero(used)]
        return load_images(files, size=kind.size, crop=computed.crop)

    function = kind.fitted(fitting_images)

    # Statistics such as a mean come from the source, and are applied to the pairs.
    values = computed(kind, function, pairs)
    if kind.adapt is not None:
        source_values = computed(kind, function, source)
        adapted = kind.adapt(source_values[used])
        values = adapted(values)
    return cosine_scores(values[pairs.left], values[pairs.right])
