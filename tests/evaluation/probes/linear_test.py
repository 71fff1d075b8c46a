"""The linear protocol of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax.evaluation.probes.linear import (
    LinearOptions,
    augment,
    fit_linear,
    predict_linear,
)

SHORT = LinearOptions(
    epochs=12, batch=32, learning_rate=1.0, decay_every=5, augment=False
)


def bright(count, seed):
    """Images whose left or right half is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 80, (count, 16, 16, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 8] += 120
    return images.astype(np.uint8), labels


def halves(images):
    return jnp.stack(
        [images[:, :, :8].mean((1, 2, 3)), images[:, :, 8:].mean((1, 2, 3))], axis=1
    )


def test_it_learns_and_is_deterministic():
    images, labels = bright(128, 0)
    fitted = fit_linear(
        jax.random.key(0), images, labels, classes=2, encode=halves, options=SHORT
    )
    assert len(fitted.losses) == 12
    assert fitted.losses[-1] < fitted.losses[0]
    others, answers = bright(70, 1)
    assert np.mean(predict_linear(fitted, others, encode=halves) == answers) > 0.95
    again = fit_linear(
        jax.random.key(0), images, labels, classes=2, encode=halves, options=SHORT
    )
    np.testing.assert_array_equal(again.weights, fitted.weights)


def test_it_accepts_features_instead_of_images():
    features = np.random.default_rng(0).normal(size=(96, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int32)
    fitted = fit_linear(jax.random.key(0), features, labels, classes=2, options=SHORT)
    assert np.mean(predict_linear(fitted, features) == labels) > 0.9


def test_augmentation_changes_images_and_stays_finite():
    images = jnp.asarray(bright(8, 0)[0])
    one, other = (np.asarray(augment(jax.random.key(k), images)) for k in (0, 1))
    assert one.shape == (8, 16, 16, 3)
    assert (one != other).any()
    assert np.isfinite(one).all()


def test_the_defaults_are_the_schedule_of_the_paper():
    options = LinearOptions()
    assert (options.epochs, options.batch, options.learning_rate, options.decay) == (
        300,
        256,
        30.0,
        0.1,
    )
    assert (options.decay_every, options.momentum, options.weight_decay) == (
        80,
        0.9,
        1e-4,
    )


def test_too_few_images_and_divergence_are_refused():
    images, labels = bright(20, 0)
    with pytest.raises(
        ValueError, match="at least one batch of 32 labelled images, got 20"
    ):
        fit_linear(
            jax.random.key(0), images, labels, classes=2, encode=halves, options=SHORT
        )
    wild = SHORT._replace(learning_rate=1e38)
    features = np.random.default_rng(0).normal(size=(96, 5)).astype(np.float32) * 1e20
    with pytest.raises(ValueError, match="diverged in epoch"):
        fit_linear(
            jax.random.key(0), features, np.arange(96) % 2, classes=2, options=wild
        )
