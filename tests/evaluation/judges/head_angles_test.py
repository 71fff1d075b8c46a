"""Head pose from landmarks of known poses."""

import numpy as np
import pytest

from facecycle_jax.evaluation.judges import head_angles as module
from facecycle_jax.evaluation.judges.head_angles import head_angles, rotation

POSES = [
    (0, 0, 0),
    (35, 0, 0),
    (-50, 10, 5),
    (0, 25, 0),
    (10, -20, -30),
    (5, 5, 60),
    (0, 0, -110),
]


def landmarks(yaw, pitch, roll, *, distance=None):
    """Projects the model; a camera without a distance in millimetres is far away."""
    turned = module._MODEL @ rotation(yaw, pitch, roll).T
    if distance:
        turned = turned * distance / (distance + turned[:, 2:])
    points = np.zeros((68, 2))
    points[module._INDICES] = 0.4 * turned[:, :2] + (31, 35)
    return points


@pytest.mark.parametrize("pose", POSES)
def test_known_poses_are_recovered(pose):
    found = head_angles(np.stack([landmarks(*pose), landmarks(*pose) * 5 + 100]))
    np.testing.assert_allclose(found, [pose, pose], atol=0.05)


def test_perspective_of_a_close_camera_changes_angles_little():
    found = head_angles(
        np.stack([landmarks(*pose, distance=1000) for pose in POSES[:5]])
    )
    np.testing.assert_allclose(found, POSES[:5], atol=3)


def test_noise_of_a_pixel_costs_a_few_degrees():
    rng = np.random.default_rng(0)
    points = np.stack([landmarks(20, 5, 0) for _ in range(50)])
    found = head_angles(points + rng.normal(0, 0.5, points.shape))
    np.testing.assert_allclose(found.mean(axis=0), [20, 5, 0], atol=1.5)
    assert (found.std(axis=0) < 4).all()


def test_positive_angles_are_right_up_and_clockwise():
    """Yaw turns the nose to the right of the image, pitch up, and roll is clockwise."""
    assert rotation(30, 0, 0)[0] @ [0, 0, -1] > 0
    assert rotation(0, 30, 0)[1] @ [0, 0, -1] < 0
    np.testing.assert_allclose(rotation(0, 0, 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("shape", [(68, 2), (3, 5, 2), (1, 68, 3)])
def test_other_shapes_and_nan_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[N, 68, 2\]"):
        head_angles(np.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        head_angles(np.full((1, 68, 2), np.nan))
