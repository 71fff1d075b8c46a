"""Cosines of features held against pairs of pictures, one table row for each kind.

No choice sees a test answer: thresholds come from the other folds or the development
pairs, and what is fitted to pictures never sees one of a test pair, with or without its
answer.
"""

import logging
from collections.abc import Mapping

import numpy as np

from facecycle_jax.data.labelled.images import load_pictures
from facecycle_jax.data.labelled.lfw_pairs import Pairs
from facecycle_jax.evaluation.features import FeatureFunction, FeatureSet, extract
from facecycle_jax.evaluation.probes.verification import (
    cosine_scores,
    verify_folds,
    verify_split,
)
from facecycle_jax.evaluation.report import Evaluation

log = logging.getLogger(__name__)


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
      train: development pairs for threshold and fitted features; None judges `test`
        fold by fold.
      test: the pairs.
      task: for the report.
      crop: middle part of the pictures that is kept.
      warnings: for the report.

    Returns:
      The figures.
    """
    rows, computed = {}, _Computed(crop)
    for name, kind in features.items():
        log.info("%s: %s", task, name)
        if train is not None:
            used = ~np.isin(np.array(train.files), np.array(test.files))
            scores = [
                _scores(kind, train, used, pairs, computed) for pairs in (train, test)
            ]
            rows[name] = verify_split(scores[0], train.same, scores[1], test.same)
            continue
        if kind.needs_fit or kind.adapt is not None:
            # Fitted anew for every fold, on the pictures that only the others have.
            outside = [
                _only_outside(test, test.fold == k) for k in np.unique(test.fold)
            ]
            scores = [_scores(kind, test, used, test, computed) for used in outside]
            rows[name] = verify_folds(np.stack(scores), test.same, test.fold)
        else:
            every = np.ones(len(test.files), bool)
            rows[name] = verify_folds(
                _scores(kind, test, every, test, computed), test.same, test.fold
            )
    how = (
        "Threshold chosen on pairsDevTrain, tested on pairsDevTest (LFW view 1, for development)."
        if train is not None
        else f"{len(np.unique(test.fold))} folds, each with the threshold of the others."
    )
    counts = {"test pairs": len(test), "test pictures": len(test.files)}
    if train is not None:
        counts |= {
            "development pairs": len(train),
            "development pictures": len(train.files),
        }
    protocol = f"Cosine similarity of features, no training. {how} Middle {crop:g} of the pictures."
    if any(kind.adapt is not None for kind in features.values()):
        protocol += (
            " Rows 'centred' and 'whitened' are not the published protocol: their statistics come from the "
            "unlabelled pictures of the other folds or of the development pairs."
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


class _Computed:
    """Features of whole lists, kept where several kinds share them."""

    def __init__(self, crop: float) -> None:
        self.crop = crop
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def __call__(
        self, kind: FeatureSet, function: FeatureFunction, pairs: Pairs
    ) -> np.ndarray:
        key = (kind.shared, pairs.origin)
        if kind.shared and key in self._kept:
            return self._kept[key]
        values = extract(function, pairs.files, size=kind.size, crop=self.crop)
        if kind.shared:
            self._kept[key] = values
        return values


def _only_outside(pairs: Pairs, inside: np.ndarray) -> np.ndarray:
    """Marks the pictures that no pair of a fold shows, bool [pictures]."""
    used = np.zeros(len(pairs.files), bool)
    used[pairs.left[~inside]] = used[pairs.right[~inside]] = True
    used[pairs.left[inside]] = used[pairs.right[inside]] = False
    return used


def _scores(
    kind: FeatureSet, source: Pairs, used: np.ndarray, pairs: Pairs, computed: _Computed
) -> np.ndarray:
    """Computes the cosine of every pair with features fitted to the used pictures of `source`."""
    sample = np.zeros(0)
    if kind.needs_fit:
        files = [source.files[i] for i in np.flatnonzero(used)]
        sample = load_pictures(files, size=kind.size, crop=computed.crop)
    function = kind.fit(sample)
    values = computed(kind, function, pairs)
    if kind.adapt is not None:
        values = kind.adapt(computed(kind, function, source)[used])(values)
    return cosine_scores(values[pairs.left], values[pairs.right])
