"""Logistic regression agrees with scikit-learn, and chooses its penalty itself."""

import numpy as np
import pytest

from facecycle_jax.evaluation.probes.classification import classification
from facecycle_jax.evaluation.probes.logistic import fit_logistic, fold_numbers


def blobs(count=300, *, classes=4, dimensions=12, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dimensions))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, dimensions))).astype(
        np.float32
    ), labels


def test_agrees_with_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs()
    ours = fit_logistic(features, labels, classes=4, strengths=(0.1,), tolerance=1e-5)
    standard = (features - features.mean(0)) / features.std(0)
    theirs = linear.LogisticRegression(
        C=1 / (0.1 * len(labels)), tol=1e-8, max_iter=2000
    )
    theirs.fit(standard, labels)
    # Weights are unique but for a constant over classes.
    weights = ours.weights - ours.weights.mean(1, keepdims=True)
    expected = theirs.coef_.T - theirs.coef_.T.mean(1, keepdims=True)
    np.testing.assert_allclose(weights, expected, atol=2e-3)
    assert ours.gradient_norm <= 1e-5


def test_scale_of_features_does_not_matter():
    features, labels = blobs()
    one = fit_logistic(features, labels, classes=4, strengths=(0.1,))
    other = fit_logistic(features * 1000 + 7, labels, classes=4, strengths=(0.1,))
    assert np.mean(one.predict(features) == other.predict(features * 1000 + 7)) > 0.99


def test_correlated_features_converge_in_few_iterations():
    """Five hundred features of thirty directions, whose variances are 1 to 1e-6."""
    rng = np.random.default_rng(0)
    latent, labels = blobs(600, dimensions=30)
    seen = (latent * np.logspace(0, -3, 30)) @ rng.normal(size=(30, 500)).astype(
        np.float32
    )
    seen += 1e-4 * rng.normal(size=seen.shape)
    fitted = fit_logistic(seen, labels, classes=4, strengths=(0.001,), iterations=100)
    assert fitted.gradient_norm <= 1e-4
    assert fitted.iterations < 60
    # At the solution the objective's own gradient is zero too.
    standard = (seen - fitted.mean) * fitted.scale
    logits = standard @ fitted.weights + fitted.bias
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    slope = (
        standard.T @ (share - np.eye(4)[labels]) / len(labels) + 0.001 * fitted.weights
    )
    assert np.abs(slope).max() < 2e-3


def test_features_of_low_rank_are_fitted_by_the_weakest_penalty():
    """Three hundred features of six directions, as of a collapsed encoder."""
    rng = np.random.default_rng(0)
    latent, labels = blobs(400, dimensions=6, spread=0.5)
    features = latent @ rng.normal(size=(6, 300)).astype(np.float32)
    fitted = fit_logistic(features, labels, classes=4, strengths=(1e-6,))
    accuracy = np.mean(fitted.predict(features) == labels)

    of_latent = fit_logistic(latent, labels, classes=4, strengths=(1e-6,))
    assert accuracy == pytest.approx(
        np.mean(of_latent.predict(latent) == labels), abs=0.01
    )


def test_noise_leads_to_a_stronger_penalty():
    rng = np.random.default_rng(0)
    features, labels = blobs(120, dimensions=4)
    noisy = np.concatenate(
        [features, rng.normal(size=(120, 400)).astype(np.float32)], 1
    )
    chosen = fit_logistic(noisy, labels, classes=4)
    assert chosen.strength >= 0.1
    assert set(chosen.validation) >= {1.0, 0.1, 0.01, 0.001}


def test_a_grid_that_ends_too_early_grows():
    """Noise needs a stronger penalty than those of the grid."""
    rng = np.random.default_rng(0)
    features, labels = blobs(300, dimensions=4)
    noisy = np.concatenate([features, rng.normal(size=(300, 60)).astype(np.float32)], 1)
    chosen = fit_logistic(noisy, labels, classes=4, strengths=(0.01, 0.001))
    assert chosen.strength > 0.01
    assert not chosen.at_edge
    assert chosen.strength < max(chosen.validation)
    assert chosen.validation[chosen.strength] >= chosen.validation[0.01]


def test_folds_hold_every_class():
    labels = np.repeat([0, 1, 2], [30, 9, 6])
    numbers = fold_numbers(labels, folds=3)
    for k in range(3):
        np.testing.assert_array_equal(np.bincount(labels[numbers == k]), [10, 3, 2])
    with pytest.raises(
        ValueError, match=r"in 3 folds needs at least 3 examples .*got 2"
    ):
        fold_numbers(labels[:2], folds=3)


def test_features_not_finite_and_labels_out_of_range_are_refused():
    features, labels = blobs(20)
    with pytest.raises(ValueError, match="not finite"):
        fit_logistic(features * np.inf, labels, classes=4)
    with pytest.raises(ValueError, match="labels must be 0 to 2"):
        fit_logistic(features, labels, classes=3)


def test_classification_figures_equal_those_computed_by_hand():
    figures = classification(
        np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1]), classes=3
    )
    assert figures.accuracy == pytest.approx(0.8)
    assert figures.mean_class_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert figures.macro_f1 == pytest.approx((0.8 + 0.8) / 2)
    assert figures.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
