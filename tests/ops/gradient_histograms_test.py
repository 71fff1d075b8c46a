"""Histograms of gradients, against images whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax.ops import HISTOGRAM_SIZE, gradient_histograms, normalise

DIRECTIONS = 16


def histograms(brightness, side=2):
    """Of images whose square root of the luma is given; [side, side, 4, 16]."""
    image = np.repeat(brightness[..., None] ** 2, 3, axis=-1).astype(np.float32)
    found = jax.jit(lambda x: gradient_histograms(normalise(x)[None], side=side))(image)
    return np.asarray(found).reshape(side, side, 4, DIRECTIONS)


@pytest.mark.parametrize("direction", [0, 2, 4, 8, 13])
def test_a_slope_votes_for_its_direction_alone(direction):
    angle = 2 * np.pi * direction / DIRECTIONS
    y, x = np.mgrid[:32, :32] / 32 - 0.5
    found = histograms(0.5 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y), side=4)

    # A cell inside: four equal parts, cut at 0.3 of the length.
    inside = found[1, 2]
    np.testing.assert_allclose(inside[:, direction], np.sqrt(0.3), atol=0.01)
    others = np.delete(inside, direction, axis=-1)
    assert others.max() < 0.15


def test_a_slope_between_two_directions_votes_for_both():
    angle = 2 * np.pi * 2.5 / DIRECTIONS
    y, x = np.mgrid[:32, :32] / 32 - 0.5
    found = histograms(0.5 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y), side=4)
    np.testing.assert_allclose(found[1, 1, :, 2], found[1, 1, :, 3], rtol=0.05)


def test_flat_images_have_no_histogram_and_pass_no_gradient():
    flat = jnp.zeros((1, 32, 32, 3))
    found, back = jax.vjp(lambda x: gradient_histograms(x, side=2), flat)
    assert found.shape == (1, 2, 2, HISTOGRAM_SIZE)
    assert float(found.max()) < 0.02
    np.testing.assert_array_equal(back(jnp.ones_like(found))[0], 0)


def test_brightness_of_the_whole_image_makes_little_difference():
    image = np.random.default_rng(0).uniform(0.2, 0.9, (32, 32))
    np.testing.assert_allclose(histograms(0.6 * image), histograms(image), atol=0.02)
