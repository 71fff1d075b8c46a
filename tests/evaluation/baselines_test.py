"""Baselines: shapes, what they are invariant to, and what they distinguish."""

import numpy as np
import pytest

from facecycle_jax.evaluation.baselines import (
    fit_pca,
    hog_features,
    lbp_features,
    pixel_features,
    random_encoder,
)


def images(count=6, size=40, seed=0):
    coarse = np.random.default_rng(seed).integers(
        0, 200, (count, size // 4, size // 4, 1)
    )
    return np.kron(coarse, np.ones((1, 4, 4, 3))).astype(np.uint8)


def test_lbp_counts_patterns_and_ignores_brightness():
    pytest.importorskip("skimage")
    features = lbp_features(images())
    assert features.shape == (6, 4 * 4 * 118)
    # The roots of each cell's two histograms are of unit length.
    np.testing.assert_allclose((features**2).sum(1), 2 * 16, rtol=1e-5)
    # Noise, because patterns of uniform areas depend on rounding. Outer cells are left
    # out, because their patterns compare with the black outside of the image.
    noise = (
        np.random.default_rng(1)
        .integers(0, 200, (6, 40, 40, 1))
        .repeat(3, -1)
        .astype(np.uint8)
    )
    inner = [
        lbp_features(x).reshape(6, 2, 4, 4, 59)[:, :, 1:3, 1:3]
        for x in (noise, noise + 30)
    ]
    np.testing.assert_allclose(*inner, atol=1e-6)
    with pytest.raises(ValueError, match="no cell of 50"):
        lbp_features(images(), cell=50)


def test_hog_sees_the_direction_of_edges():
    pytest.importorskip("skimage")
    across = (
        np.tile(np.arange(40) * 6, (40, 1))[None, :, :, None]
        .repeat(3, -1)
        .astype(np.uint8)
    )
    one, other = hog_features(across), hog_features(across.transpose(0, 2, 1, 3))
    assert one.shape == other.shape
    assert (
        float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)) < 0.2
    )


def test_pixels_ignore_brightness_and_contrast():
    values = pixel_features(images())
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(1), 1, atol=1e-4)
    np.testing.assert_allclose(
        pixel_features((images() // 2) * 1 + 10), values, atol=0.03
    )


def test_eigenfaces_are_white_on_their_training_images():
    pytest.importorskip("sklearn")
    values = fit_pca(images(60), components=8)(images(60))
    np.testing.assert_allclose(np.cov(values.T), np.eye(8), atol=1e-3)
    assert fit_pca(images(5))(images(5)).shape == (5, 4)
    # Ten images, each repeated, span nine directions. Other directions of new images
    # are not amplified.
    function = fit_pca(np.tile(images(10), (6, 1, 1, 1)))
    values = function(images(20, seed=1))
    assert values.shape == (20, 9)
    assert np.abs(values).max() < 20


def test_random_encoders_differ_by_seed():
    one, same, other = (random_encoder(seed=s, width=0.0625) for s in (0, 0, 1))
    faces = images(3, 64)
    values = one.fit(faces)(faces)
    np.testing.assert_array_equal(values, same.fit(faces)(faces))
    assert (values != other.fit(faces)(faces)).any()
    with pytest.raises(ValueError, match="'map' or 'code'"):
        random_encoder(features="none")
