"""Turns of a head that never were."""

import functools

import jax
import numpy as np
import pytest

from facecycle_jax.ops import identity_grid, turned_flow, turned_grid

SIZE = 64


@functools.cache
def compiled():
    return jax.jit(functools.partial(turned_grid, size=SIZE))


def turned(yaw, pitch=0.0, magnification=1.0):
    return np.asarray(compiled()(yaw, pitch, magnification))


def find(yaw, *positions):
    """Where positions of the frontal head are in the turned one, and how well seen."""
    places, shown = turned_flow(turned(yaw), np.array([positions], np.float32))
    return np.asarray(places[0]), np.asarray(shown[0])


def test_no_turn_leaves_the_image_alone():
    still = identity_grid(height=SIZE, width=SIZE)
    np.testing.assert_allclose(turned(0.0), still, atol=0.03)
    assert np.abs(turned(0.0) - still).mean() < 2e-3


def test_a_turn_to_the_other_side_is_the_mirror_image():
    right, left = turned(30.0, 5.0, 1.1), turned(-30.0, 5.0, 1.1)
    apart = np.abs(right - left[:, ::-1] * [-1, 1])
    # Pixels at the outline of the head may fall to either side of it.
    assert np.median(apart) < 1e-5
    assert apart.mean() < 2e-3


@pytest.mark.parametrize("yaw", [10.0, 25.0, 40.0])
def test_the_nose_moves_and_the_eyes_stay_in_the_middle(yaw):
    (nose, left_eye, right_eye), shown = find(
        yaw, (0, 0.1), (-0.28, -0.18), (0.28, -0.18)
    )
    assert nose[0] > 0.15 * np.sin(np.deg2rad(yaw))
    assert shown[:2].min() > 0.8
    middle = (left_eye + right_eye) / 2
    np.testing.assert_allclose(middle, [0, -0.18], atol=0.04)
    assert right_eye[0] - left_eye[0] < 0.56


def test_pitch_raises_the_nose_and_magnification_enlarges():
    nose = np.array([[[0.0, 0.1]]], np.float32)
    level = turned_flow(turned(0.0), nose)[0][0, 0]
    up = turned_flow(turned(0.0, 15.0), nose)[0][0, 0]
    assert up[1] < level[1] - 0.05
    chin = np.array([[[0.0, 0.6]]], np.float32)
    larger = turned_flow(turned(0.0, 0.0, 1.2), chin)[0][0, 0]
    # From the height of the eyes.
    np.testing.assert_allclose(larger[1], -0.18 + 1.2 * 0.78, atol=0.04)


def test_what_is_seen_is_found_again_and_the_far_cheek_is_hidden():
    grid = turned(40.0)
    places = np.asarray(identity_grid(height=16, width=16))
    found, shown = turned_flow(grid, places)
    # Reading the grid at the nearest pixel to what was found gives the position back.
    pixel = np.rint((np.asarray(found) + 1) / 2 * (SIZE - 1)).astype(int)
    again = grid[pixel[..., 1], pixel[..., 0]]
    seen = np.asarray(shown) > 0.9
    assert seen.mean() > 0.3
    assert np.linalg.norm(again - places, axis=-1)[seen].max() < 0.03

    _, (near, far) = find(60.0, (-0.3, 0.1), (0.43, 0.1))
    assert near > 0.9
    assert far < 0.5
