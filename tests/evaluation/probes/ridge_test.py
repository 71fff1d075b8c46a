"""Ridge regression agrees with scikit-learn, and chooses its penalty by groups."""

import numpy as np
import pytest

from facecycle_jax.evaluation.probes.ridge import fit_ridge, group_folds


def line(count=200, *, dimensions=6, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    slope = np.random.default_rng(99).normal(size=(dimensions, 2))
    features = rng.normal(size=(count, dimensions)).astype(np.float32)
    return features, features @ slope + 7 + noise * rng.normal(size=(count, 2))


@pytest.mark.parametrize(("count", "dimensions"), [(200, 6), (30, 80)])
def test_agrees_with_scikit_learn(count, dimensions):
    linear = pytest.importorskip("sklearn.linear_model")
    features, targets = line(count, dimensions=dimensions)
    ours = fit_ridge(features, targets, strengths=(0.1,))
    standard = (features - features.mean(0)) / features.std(0)
    theirs = linear.Ridge(alpha=0.1 * count).fit(standard, targets)
    np.testing.assert_allclose(ours.weights, theirs.coef_.T, atol=1e-3)
    np.testing.assert_allclose(
        ours.predict(features), theirs.predict(standard), atol=1e-3
    )


def test_scale_and_constant_features_do_not_matter():
    features, targets = line()
    constant = np.full((200, 1), 3.0, np.float32)
    one = fit_ridge(features, targets).predict(features)
    other = fit_ridge(np.concatenate([1000 * features + 7, constant], 1), targets)
    np.testing.assert_allclose(
        one,
        other.predict(np.concatenate([1000 * features + 7, constant], 1)),
        atol=1e-2,
    )


def test_noise_leads_to_a_stronger_penalty():
    features, targets = line(120, dimensions=3)
    noisy = np.concatenate(
        [features, np.random.default_rng(1).normal(size=(120, 70))], 1
    )
    assert (
        fit_ridge(noisy, targets).strength
        >= 0.1
        > fit_ridge(features, targets).strength
    )


def test_a_grid_that_ends_too_early_grows():
    features, targets = line(120, dimensions=3)
    noisy = np.concatenate(
        [features, np.random.default_rng(1).normal(size=(120, 70))], 1
    )
    chosen = fit_ridge(noisy, targets, strengths=(0.01, 0.001))
    assert 0.01 < chosen.strength < max(chosen.validation)
    assert not chosen.at_edge
    # Validation errors: the smallest is the best.
    assert chosen.validation[chosen.strength] == min(chosen.validation.values())


def test_grouped_copies_do_not_hide_that_a_fit_does_not_generalise():
    # Every example has two copies. Without groups, those in other folds give it away.
    rng = np.random.default_rng(0)
    features, targets = (
        np.repeat(rng.normal(size=(40, 60)), 3, 0),
        np.repeat(rng.normal(size=(40, 1)), 3, 0),
    )
    alone = fit_ridge(features, targets)
    together = fit_ridge(features, targets, group=np.repeat(np.arange(40), 3))
    assert together.strength > alone.strength
    assert together.validation[together.strength] > 2 * alone.validation[alone.strength]


def test_features_of_low_rank_are_fitted_by_the_weakest_penalty():
    """Three hundred features of six directions, as of a collapsed encoder."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(400, 6))
    features = latent @ rng.normal(size=(6, 300))
    targets = latent @ rng.normal(size=(6, 2))
    fitted = fit_ridge(features, targets)
    np.testing.assert_allclose(fitted.predict(features), targets, atol=1e-3)


def test_groups_stay_within_one_fold():
    group = np.repeat(np.arange(7), 4)
    fold = group_folds(group, folds=3)
    assert all(len(set(fold[group == g])) == 1 for g in range(7))
    assert sorted(np.bincount(fold)) == [8, 8, 12]
    with pytest.raises(
        ValueError, match="3 folds need as many groups of images at least, got 2"
    ):
        group_folds(np.array([0, 0, 1]), folds=3)


def test_invalid_input_is_refused():
    features, targets = line(20)
    with pytest.raises(ValueError, match="not finite"):
        fit_ridge(features * np.nan, targets)
    with pytest.raises(ValueError, match="penalties must be above 0"):
        fit_ridge(features, targets, strengths=(0.0,))
    with pytest.raises(
        ValueError, match=r"features \[N, D\] and targets \[N, K\] are needed"
    ):
        fit_ridge(features, targets[:5])
