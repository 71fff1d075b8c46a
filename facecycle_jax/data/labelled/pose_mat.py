"""Label files of 300W-LP and AFLW2000-3D: angles, and the box that holds the face."""

from typing import Any

import numpy as np

from facecycle_jax.errors import UserError, importing

# Added on each side, as a fraction of the landmarks' extent, as in FSA-Net's crops.
MARGIN = 0.6
Box = tuple[int, int, int, int]


def read_mat(path: str, *, margin: float = MARGIN) -> tuple[np.ndarray, Box | None]:
    """Reads the head pose and the box around the landmarks.

    Args:
      path: the .mat file. It has Pose_Para, which starts with pitch, yaw and roll in
        radians, and the landmarks in pixels, pt2d [2, 68] (300W-LP) or pt3d_68 [3, 68]
        (AFLW2000-3D).
      margin: added on each side, as a fraction of the landmarks' width and height.

    Returns:
      Degrees [3]: yaw, pitch, roll; and left, top, right, bottom in pixels, which may
      lie outside the image, or None if the file has no landmarks.

    Raises:
      FileNotFoundError: If the file is missing.
      UserError: If it is damaged or has no valid pose.
      MissingExtraError: If scipy is not installed.
    """
    with importing("Reading .mat files needs scipy", extra="eval"):
        from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("Pose_Para", "pt2d", "pt3d_68"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except Exception as error:
        # scipy raises ValueError, TypeError, zlib.error, struct.error and others.
        raise UserError(
            f"{path} cannot be read as a .mat file ({type(error).__name__})."
        ) from None

    if "Pose_Para" not in content:
        raise UserError(f"{path} has no Pose_Para.")

    pose = np.asarray(content["Pose_Para"]).ravel()
    if pose.size < 3 or pose.dtype.kind not in "fiu" or not np.isfinite(pose[:3]).all():
        raise UserError(
            f"{path}: Pose_Para must start with three finite angles, got "
            f"{pose[:3].tolist()}."
        )

    # No label is beyond two turns, so larger numbers are degrees.
    if np.abs(pose[:3]).max() > 4 * np.pi:
        raise UserError(
            f"{path}: Pose_Para must be in radians, got {pose[:3].tolist()}."
        )

    pitch, yaw, roll = np.rad2deg(pose[:3].astype(np.float64))

    return np.array([yaw, pitch, roll]), _box(content, path, margin)


def _box(content: dict[str, Any], path: str, margin: float) -> Box | None:
    """Computes the box around the landmarks, or None without any."""
    # AFLW2000's pt2d has 21 points with gaps. Its pt3d_68 has the same 68 points as
    # pt2d of 300W-LP.
    name = next((name for name in ("pt3d_68", "pt2d") if name in content), None)
    if name is None:
        return None

    points = np.asarray(content[name])
    has_rows = points.ndim == 2 and points.shape[0] in (2, 3)
    if not has_rows or points.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: {name} must be [2 or 3, points], got {points.dtype} "
            f"{points.shape}."
        )

    # Invisible points have negative coordinates.
    positions = points[:2]
    is_visible = np.isfinite(positions).all(axis=0) & (positions > 0).all(axis=0)
    visible = positions[:, is_visible].astype(np.float64)
    if visible.shape[1] < 2:
        return None

    # Corners of the extent, (x, y) each, moved outwards by the margin.
    low = visible.min(axis=1)
    high = visible.max(axis=1)
    around = margin * (high - low)
    left, top = np.floor(low - around)
    right, bottom = np.ceil(high + around)

    return int(left), int(top), int(right), int(bottom)
