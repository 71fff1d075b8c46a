"""One label file of 300W-LP or AFLW2000-3D.

Angles and the square that holds the face.
"""

from typing import Any

import numpy as np

from facecycle_jax.errors import MissingExtraError, UserError

# Added on each side, in parts of the landmarks' extent, as FSA-Net's crops have it.
MARGIN = 0.6
Box = tuple[int, int, int, int]


def read_mat(path: str, *, margin: float = MARGIN) -> tuple[np.ndarray, Box | None]:
    """Reads the head pose and the landmarks' surroundings.

    Args:
      path: the .mat file, with Pose_Para (pitch, yaw, roll in radians first) and, of
        300W-LP, pt2d [2, 68], of AFLW2000-3D pt3d_68 [3, 68], pixels.
      margin: added on each side, in parts of the landmarks' width and height.

    Returns:
      Degrees [3]: yaw, pitch, roll; and left, top, right, bottom in pixels, which may
      lie outside the picture, or None if the file has no landmarks.

    Raises:
      FileNotFoundError: if it is missing.
      ValueError: if it is damaged or has no such pose, in one sentence.
      ImportError: if scipy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError(
            "Reading .mat files needs scipy: pip install 'facecycle_jax[eval]'."
        ) from error
    try:
        content = loadmat(path, variable_names=("Pose_Para", "pt2d", "pt3d_68"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    # scipy raises ValueError, TypeError, zlib.error, struct.error and others
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a .mat file ({type(error).__name__})."
        ) from None
    if "Pose_Para" not in content:
        raise UserError(f"{path} has no Pose_Para.")
    pose = np.asarray(content["Pose_Para"]).ravel()
    if pose.size < 3 or pose.dtype.kind not in "fiu" or not np.isfinite(pose[:3]).all():
        raise UserError(
            f"{path}: Pose_Para must start with three finite angles, got {pose[:3].tolist()}."
        )
    # Two turns are beyond any label and nearly always degrees.
    if np.abs(pose[:3]).max() > 4 * np.pi:
        raise UserError(
            f"{path}: Pose_Para must be in radians, got {pose[:3].tolist()}."
        )
    pitch, yaw, roll = np.rad2deg(pose[:3].astype(np.float64))
    return np.array([yaw, pitch, roll]), _box(content, path, margin)


def _box(content: dict[str, Any], path: str, margin: float) -> Box | None:
    """Surrounds the landmarks."""
    # AFLW2000's pt2d are 21 points with gaps; its pt3d_68 are the same 68 as 300W-LP's
    # pt2d.
    name = next((name for name in ("pt3d_68", "pt2d") if name in content), None)
    if name is None:
        return None
    points = np.asarray(content[name])
    if (
        points.ndim != 2
        or points.shape[0] not in (2, 3)
        or points.dtype.kind not in "fiu"
    ):
        raise UserError(
            f"{path}: {name} must be [2 or 3, points], got {points.dtype} {points.shape}."
        )
    # Points that cannot be seen are marked by negative places.
    seen = points[
        :2, np.isfinite(points[:2]).all(axis=0) & (points[:2] > 0).all(axis=0)
    ].astype(np.float64)
    if seen.shape[1] < 2:
        return None
    low, high = seen.min(axis=1), seen.max(axis=1)
    around = margin * (high - low)
    (left, top), (right, bottom) = np.floor(low - around), np.ceil(high + around)
    return int(left), int(top), int(right), int(bottom)
