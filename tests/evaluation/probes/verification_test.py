"""Verification figures agree with scikit-learn, and choices see no test pair."""

import numpy as np
import pytest

from facecycle_jax.evaluation.probes.verification import (
    best_threshold,
    cosine_scores,
    equal_error_rate,
    roc,
    verify_folds,
    verify_split,
)


def pairs(count=600, *, gap=1.0, seed=0):
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.5
    return rng.normal(size=count) + gap * same, same


def test_cosines_of_equal_opposite_and_zero_codes():
    left = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    right = np.array([[2.0, 0.0], [-1.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_scores(left, right), [1.0, -1.0, 0.0])
    with pytest.raises(ValueError, match="not finite"):
        cosine_scores(left * np.nan, right)


def test_the_best_threshold_is_the_best_of_all():
    for seed in range(20):
        scores, same = pairs(31, seed=seed)
        scores = np.round(scores, 1)  # ties
        accuracy = np.mean((scores > best_threshold(scores, same)) == same)
        cuts = np.concatenate([[-10.0], np.unique(scores)])
        assert accuracy == max(np.mean((scores > cut) == same) for cut in cuts)


def test_curve_and_area_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, same = pairs(500)
    scores = np.round(scores, 1)
    false, true = roc(scores, same)
    expected_false, expected_true, _ = metrics.roc_curve(
        same, scores, drop_intermediate=False
    )
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    figures = verify_folds(scores, same, np.arange(500) % 10)
    assert figures.auc == pytest.approx(metrics.roc_auc_score(same, scores))


def test_equal_error_rate_of_curves_with_known_answers():
    assert equal_error_rate(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])) == 0.0
    assert equal_error_rate(
        np.array([0.0, 1.0]), np.array([0.0, 1.0])
    ) == pytest.approx(0.5)
    assert equal_error_rate(
        np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.8, 1.0])
    ) == pytest.approx(0.2)


def test_separable_scores_are_perfect_and_random_ones_chance():
    scores, same = pairs(1000, gap=100.0)
    perfect = verify_folds(scores, same, np.arange(1000) % 10)
    assert (perfect.accuracy, perfect.standard_error, perfect.auc, perfect.eer) == (
        1.0,
        0.0,
        1.0,
        0.0,
    )
    assert perfect.tar_at_far[0.001] == 1.0
    scores, same = pairs(4000, gap=0.0)
    chance = verify_folds(scores, same, np.arange(4000) % 10)
    # Four standard errors of 4000 pairs.
    assert abs(chance.accuracy - 0.5) < 0.032
    assert abs(chance.auc - 0.5) < 0.037


def test_a_fold_does_not_choose_its_own_threshold():
    scores, same = pairs(1000)
    fold = np.arange(1000) % 10
    before = verify_folds(scores, same, fold)
    poisoned = same.copy()
    poisoned[fold == 3] = ~poisoned[fold == 3]
    after = verify_folds(scores, poisoned, fold)
    assert after.thresholds[3] == before.thresholds[3]
    assert after.fold_accuracies[3] == pytest.approx(1 - before.fold_accuracies[3])
    # The test would notice a leak, because a threshold chosen on all pairs does change.
    assert best_threshold(scores, poisoned) != best_threshold(scores, same)


def test_test_pairs_do_not_choose_the_threshold():
    train, test = pairs(500), pairs(500, seed=1)
    before, after = verify_split(*train, *test), verify_split(*train, test[0], ~test[1])
    assert before.thresholds == after.thresholds
    assert after.accuracy == pytest.approx(1 - before.accuracy)


def test_one_kind_of_pairs_or_one_fold_is_refused():
    with pytest.raises(ValueError, match="of one and of two people"):
        roc(np.arange(3.0), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"at least two folds are needed, got 1\.$"):
        verify_folds(np.arange(4.0), np.array([1, 0, 1, 0], bool), np.zeros(4, int))


def test_cells_have_true_accepts_in_percent_at_false_accept_rates_as_fractions():
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    figures = verify_split(
        scores, scores > 2.5, scores, np.array([True, False, True, False])
    )
    # Without a false accept one of the two true pairs is found.
    assert figures.cells()["TAR % at FAR 0.01"] == "50.00"
    assert not any(column.startswith("TAR at") for column in figures.cells())
