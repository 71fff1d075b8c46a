"""Head pose from facial landmarks, by a least-squares fit of a rigid face model.

Image coordinates are x to the right and y down. Depth grows away from the camera.
Angles are in degrees: yaw is positive where the nose points to the right of the image,
pitch where it points up, roll where the head is tilted clockwise.
"""

import numpy as np

from facecycle_jax.errors import UserError

# Landmarks of iBUG 300-W that move little with expression: corners of the eyes, root,
# bridge and base of the nose. Positions are those in a face of average size, in
# millimetres from the tip of the nose (x, y, depth).
_POINTS = {
    27: (0.0, -36.0, 17.0),
    28: (0.0, -25.0, 12.0),
    29: (0.0, -13.0, 6.0),
    30: (0.0, 0.0, 0.0),
    31: (-14.0, 9.0, 16.0),
    33: (0.0, 13.0, 12.0),
    35: (14.0, 9.0, 16.0),
    36: (-45.0, -33.0, 34.0),
    39: (-17.0, -32.0, 26.0),
    42: (17.0, -32.0, 26.0),
    45: (45.0, -33.0, 34.0),
    # The corners of the mouth move, but without a point below the nose the pitch is
    # uncertain.
    48: (-25.0, 34.0, 22.0),
    54: (25.0, 34.0, 22.0),
}
_INDICES = list(_POINTS)
_MODEL = np.array(list(_POINTS.values()))
# Steps of the fit, which converges in five or six.
_STEPS = 20


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Computes the rotation matrix of a head: yaw first, then pitch, then roll.

    Args:
      yaw: degrees.
      pitch: degrees.
      roll: degrees.

    Returns:
      float64 [3, 3]. That of a frontal face is the identity.
    """
    radians = np.radians([yaw, pitch, roll])
    sines = np.sin(radians)
    cosines = np.cos(radians)

    # Yaw turns around y, pitch around x, and roll around the depth.
    about_y = np.array(
        [[cosines[0], 0, -sines[0]], [0, 1, 0], [sines[0], 0, cosines[0]]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, cosines[1], sines[1]], [0, -sines[1], cosines[1]]]
    )
    about_z = np.array(
        [[cosines[2], -sines[2], 0], [sines[2], cosines[2], 0], [0, 0, 1]]
    )
    return about_z @ about_x @ about_y


def head_angles(landmarks: np.ndarray) -> np.ndarray:
    """Fits the pose of a rigid face model under scaled orthography.

    Args:
      landmarks: float [N, 68, 2], (x, y) in pixels, in the order of iBUG 300-W.

    Returns:
      float64 [N, 3]: yaw, pitch and roll in degrees.

    Raises:
      UserError: If the shape differs, or a number is not finite.
    """
    landmarks = np.asarray(landmarks, np.float64)
    is_shaped = landmarks.ndim == 3 and landmarks.shape[1:] == (68, 2)
    if not is_shaped or not np.isfinite(landmarks).all():
        raise UserError(
            f"landmarks must be finite [N, 68, 2], got {list(landmarks.shape)}."
        )

    # The shape also holds for no faces at all.
    angles = [_fit(points) for points in landmarks[:, _INDICES]]
    return np.array(angles).reshape(-1, 3)


def _fit(points: np.ndarray) -> np.ndarray:
    """Fits one face by the method of Levenberg and Marquardt.

    Args:
      points: float64 [P, 2].

    Returns:
      float64 [3]: yaw, pitch and roll in degrees.
    """
    centre = points.mean(axis=0)
    spread = max(float(points.std()), 1e-6)
    scaled = (points - centre) / spread

    # Yaw, pitch and roll in units of 30 degrees, scale, x and y: all of about one size.
    values = np.array([0.0, 0.0, _tilt(scaled) / 30, 1.0, 0.0, 0.0])
    damping = 1e-2

    errors = _errors(values, scaled)
    for _ in range(_STEPS):
        # Jacobian of the errors by forward differences, [2 P, 6].
        step = 1e-5
        columns = [
            (_errors(values + step * unit, scaled) - errors) / step
            for unit in np.eye(6)
        ]
        jacobian = np.stack(columns, axis=1)

        # (J' J + damping I) step = J' errors. A step that helps lowers the damping.
        normal = jacobian.T @ jacobian + damping * np.eye(6)
        moved = values - np.linalg.solve(normal, jacobian.T @ errors)
        moved_errors = _errors(moved, scaled)
        if moved_errors @ moved_errors < errors @ errors:
            values = moved
            errors = moved_errors
            damping /= 10
        else:
            damping *= 10
    return 30 * values[:3]


def _tilt(points: np.ndarray) -> float:
    """Estimates the roll from the outer corners of the eyes, degrees."""
    across = points[_INDICES.index(45)] - points[_INDICES.index(36)]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def _errors(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Computes the differences between the projected model and the points, [2 P]."""
    yaw, pitch, roll = 30 * values[:3]
    model = _MODEL / _MODEL[:, :2].std()
    turned = model @ rotation(yaw, pitch, roll).T

    # Scaled orthography leaves out the depth.
    projected = values[3] * turned[:, :2] + values[4:]
    return (projected - points).ravel()
