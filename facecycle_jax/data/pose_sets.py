"""Head pose: 300W-LP and AFLW2000-3D, a .mat beside each picture. Needs scipy (extra `eval`)."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

# 300W-LP's folders: four sets and their mirrored copies.
SUBSETS = tuple(f"{name}{flip}" for name in ("AFW", "HELEN", "IBUG", "LFPW") for flip in ("", "_Flip"))
OFFICIAL = {"300w_lp": 122_450, "aflw2000": 2_000}


@dataclasses.dataclass(frozen=True)
class PosedPictures:
    """Pictures with head poses.

    Attributes:
      pictures: file names.
      angles: float32 [N, 3], yaw, pitch and roll in degrees, as the sets give them.
      subsets: the folder of each, '' for AFLW2000-3D.
      origin: where they come from, for messages.
    """

    pictures: Sequence[str]
    angles: np.ndarray
    subsets: Sequence[str]
    origin: str

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.pictures)


def read_300w_lp(path: str) -> PosedPictures:
    """Reads 300W-LP.

    Args:
      path: the folder `300W_LP` of the distribution, with AFW, AFW_Flip, HELEN, HELEN_Flip, IBUG, IBUG_Flip,
        LFPW and LFPW_Flip, or the one that holds it.

    Returns:
      The pictures of all subsets.

    Raises:
      FileNotFoundError: if a subset or a .mat is missing.
      ValueError: if a .mat cannot be read or has no Pose_Para.
    """
    inner = os.path.join(path, "300W_LP")
    root = inner if os.path.isdir(inner) else path
    missing = [name for name in SUBSETS if not os.path.isdir(os.path.join(root, name))]
    if missing:
        raise FileNotFoundError(
            f"{root} has no folder {', '.join(missing)}; 300W-LP has {', '.join(SUBSETS)}."
        )
    parts = [_read_folder(os.path.join(root, name), name) for name in SUBSETS]
    return PosedPictures(
        [picture for part in parts for picture in part.pictures],
        np.concatenate([part.angles for part in parts]),
        [subset for part in parts for subset in part.subsets],
        root,
    )


def read_aflw2000(path: str) -> PosedPictures:
    """Reads AFLW2000-3D.

    Args:
      path: the folder `AFLW2000` of the distribution (image00002.jpg, image00002.mat, ...), or the one that
        holds it.

    Returns:
      The pictures, those beyond 99 degrees too.

    Raises:
      FileNotFoundError: if there are no pictures or a .mat is missing.
      ValueError: if a .mat cannot be read or has no Pose_Para.
    """
    inner = os.path.join(path, "AFLW2000")
    return _read_folder(inner if os.path.isdir(inner) else path, "")


def _read_folder(folder: str, subset: str) -> PosedPictures:
    """Reads the pictures of one folder, in the order of their names."""
    names = sorted(f for f in os.listdir(folder) if f.endswith(".jpg")) if os.path.isdir(folder) else []
    if not names:
        raise FileNotFoundError(f"{folder} holds no pictures *.jpg.")
    paths = [os.path.join(folder, name) for name in names]
    angles = np.array([_angles(f"{path[:-4]}.mat") for path in paths], np.float32)
    return PosedPictures(paths, angles, [subset] * len(paths), folder)


def _angles(path: str) -> list[float]:
    """Reads yaw, pitch, roll in degrees."""
    import scipy.io

    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}, which holds the pose of the picture beside it.")
    try:
        pose = np.asarray(scipy.io.loadmat(path, variable_names=["Pose_Para"])["Pose_Para"]).ravel()
        pitch, yaw, roll = (float(np.degrees(value)) for value in pose[:3])
    except KeyError:
        raise ValueError(f"{path} has no Pose_Para.") from None
    except Exception as error:  # scipy raises many kinds on damaged files
        raise ValueError(f"{path} cannot be read as a .mat file: {error}.") from None
    return [yaw, pitch, roll]
