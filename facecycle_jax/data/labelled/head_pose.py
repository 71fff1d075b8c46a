"""Head poses: 300W-LP and AFLW2000-3D, from .jpg and .mat or FSA-Net's .npz files.

Angles are degrees [N, 3]: yaw, pitch, roll. A published .mat file holds Pose_Para,
whose first three numbers are pitch, yaw and roll in radians. An .npz file holds
`image`, uint8 [N, S, S, 3] in the order blue, green, red, and `pose`, [N, 3] in
degrees.

References:
  Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016.
  Yang et al., "FSA-Net", CVPR 2019, for the .npz files and the crop.
"""

import dataclasses
import os

import numpy as np

from facecycle_jax.data.labelled.images import CroppedFile, Images, select_images
from facecycle_jax.data.labelled.pose_mat import read_mat
from facecycle_jax.errors import UserError

ANGLES = ("yaw", "pitch", "roll")
# XM2VTS, the fifth part of 300W-LP, is not used by this protocol.
TRAINING_SETS = ("AFW", "HELEN", "IBUG", "LFPW")
# Images of each training set, without as many mirrored ones.
OFFICIAL_SETS = {"AFW": 5_207, "HELEN": 37_676, "IBUG": 1_786, "LFPW": 16_556}
OFFICIAL = {
    "train": 2 * sum(OFFICIAL_SETS.values()),
    "test": 2_000,
    "test within limit": 1_969,
}
LIMIT = 99.0
_FLIP = "_Flip"
# Number of consecutive images of an .npz file that count as one photograph, because the
# file has no names.
_NEIGHBOURS = 16


@dataclasses.dataclass(frozen=True)
class PoseImages:
    """Images with head poses.

    Attributes:
      images: files with the square to cut from each, or uint8 [N, S, S, 3], RGB.
      angles: float64 [N, 3], degrees: yaw, pitch, roll.
      group: int32 [N]; images rendered from one photograph have one number.
      origin: where the images come from, for messages.
      without_landmarks: number of files without landmarks, whose whole image is used.
    """

    images: Images
    angles: np.ndarray
    group: np.ndarray
    origin: str
    without_landmarks: int = 0

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.angles)

    def within_limit(self) -> np.ndarray:
        """Whether each image has no angle beyond 99 degrees either way, bool [N]."""
        return np.all(np.abs(self.angles) <= LIMIT, axis=1)

    def select(self, chosen: np.ndarray) -> "PoseImages":
        """Returns the images of these indices, or of this mask, in their order."""
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return dataclasses.replace(
            self,
            images=select_images(self.images, indices),
            angles=self.angles[indices],
            group=self.group[indices],
        )


def read_300w_lp(path: str) -> PoseImages:
    """Reads the training images: AFW, HELEN, IBUG, LFPW and their mirror images.

    Args:
      path: folder with `AFW/*.jpg`, `AFW/*.mat`, `AFW_Flip/...` and so on, in it or in
        `300W_LP` below it; or with `AFW.npz`, `AFW_Flip.npz`, ..., in it or in `type1`
        or `data/type1` below it.

    Returns:
      The images of all sets that are there.

    Raises:
      FileNotFoundError: If there is no set.
      UserError: If a file has another form.
      MissingExtraError: If scipy is not installed.
    """
    names = [name + flip for name in TRAINING_SETS for flip in ("", _FLIP)]

    for root in (path, os.path.join(path, "300W_LP"), os.path.join(path, "300W-LP")):
        folders = [os.path.join(root, name) for name in names]
        folders = [folder for folder in folders if os.path.isdir(folder)]
        if folders:
            return _join([_read_folder(folder) for folder in folders], root)

    for root in _npz_roots(path):
        files = [os.path.join(root, f"{name}.npz") for name in names]
        files = [file for file in files if os.path.isfile(file)]
        if files:
            return _join([_read_npz(file) for file in files], root)

    raise FileNotFoundError(
        f"{path} holds none of the sets {', '.join(TRAINING_SETS)} of 300W-LP, as "
        "folders of .jpg and .mat or as .npz files."
    )


def read_aflw2000(path: str) -> PoseImages:
    """Reads all 2,000 test images; see `PoseImages.within_limit`.

    Args:
      path: folder with `AFLW2000/*.jpg` and `AFLW2000/*.mat` (or `AFLW2000-3D`), or
        with `AFLW2000.npz`, also in `type1` or `data/type1`.

    Returns:
      The images.

    Raises:
      FileNotFoundError: If they are missing.
      UserError: If a file has another form.
      MissingExtraError: If scipy is not installed.
    """
    for name in ("AFLW2000", "AFLW2000-3D"):
        folder = os.path.join(path, name)
        if os.path.isdir(folder):
            return _join([_read_folder(folder)], folder)

    for root in _npz_roots(path):
        file = os.path.join(root, "AFLW2000.npz")
        if os.path.isfile(file):
            return _join([_read_npz(file)], file)

    raise FileNotFoundError(
        f"{path} holds neither a folder AFLW2000 of .jpg and .mat nor AFLW2000.npz."
    )


def _npz_roots(path: str) -> list[str]:
    return [path, os.path.join(path, "type1"), os.path.join(path, "data", "type1")]


@dataclasses.dataclass(frozen=True)
class _Part:
    """One set; `sources` names the photograph of each image."""

    images: list[CroppedFile] | np.ndarray
    angles: np.ndarray
    sources: list[str]
    without_landmarks: int = 0


def _read_folder(folder: str) -> _Part:
    """Reads pairs of .jpg and .mat."""
    files = sorted(f for f in os.listdir(folder) if f.endswith(".jpg"))
    labels = {f for f in os.listdir(folder) if f.endswith(".mat")}
    if not files:
        raise UserError(f"{folder} holds no .jpg images.")

    # Labels without an image, or the other way round.
    lonely = sorted({f"{f[:-4]}.mat" for f in files} ^ labels)
    if lonely:
        there, other = (".mat", ".jpg") if lonely[0] in labels else (".jpg", ".mat")
        raise FileNotFoundError(
            f"{folder} has {lonely[0][:-4]}{there} but no {lonely[0][:-4]}{other}."
        )

    base = os.path.basename(folder).removesuffix(_FLIP)
    images = []
    angles = []
    sources = []
    without_landmarks = 0

    for file in files:
        path = os.path.join(folder, file)
        degrees, box = read_mat(f"{path[:-4]}.mat")
        without_landmarks += box is None
        images.append(CroppedFile(path, box))
        angles.append(degrees)

        # NAME_3.jpg is the third image rendered from the photograph NAME.
        photograph = file[:-4].rpartition("_")[0] or file
        sources.append(f"{base}/{photograph}")

    return _Part(
        images=images,
        angles=np.array(angles),
        sources=sources,
        without_landmarks=without_landmarks,
    )


def _read_npz(file: str) -> _Part:
    """Reads one of FSA-Net's files."""
    try:
        with np.load(file, allow_pickle=False) as content:
            image = content["image"]
            pose = np.asarray(content["pose"], np.float64)
    except KeyError as error:
        raise UserError(
            f"{file} lacks the array {error.args[0].split()[0]}; image and pose are "
            "needed."
        ) from None
    except Exception as error:
        # A damaged archive raises BadZipFile, EOFError, zlib.error and others.
        raise UserError(
            f"{file} cannot be read as .npz ({type(error).__name__})."
        ) from None

    is_rgb = image.dtype == np.uint8 and image.ndim == 4 and image.shape[3] == 3
    if not is_rgb or pose.shape != (len(image), 3):
        raise UserError(
            f"{file}: expected image uint8 [N, S, S, 3] and pose [N, 3], got "
            f"{image.dtype} {image.shape} and {pose.shape}."
        )

    is_finite = np.isfinite(pose).all(axis=1)
    is_beyond_a_turn = (np.abs(pose) > 360).any(axis=1)
    bad = np.flatnonzero(~is_finite | is_beyond_a_turn)
    if len(bad):
        raise UserError(
            f"{file}, row {bad[0]}: yaw, pitch and roll must be degrees, got "
            f"{pose[bad[0]].tolist()}."
        )

    base = os.path.basename(file)[:-4].removesuffix(_FLIP)
    sources = [f"{base}/{row // _NEIGHBOURS}" for row in range(len(image))]

    # Blue, green, red to RGB.
    return _Part(image[..., ::-1], pose, sources)


def _join(parts: list[_Part], origin: str) -> PoseImages:
    """Concatenates sets."""
    if isinstance(parts[0].images, np.ndarray):
        sizes = {
            part.images.shape[1:]
            for part in parts
            if isinstance(part.images, np.ndarray)
        }
        if len(sizes) > 1:
            raise UserError(
                f"the .npz files in {origin} have images of different sizes: "
                f"{sorted(sizes)}."
            )

        images: Images = np.concatenate([np.asarray(part.images) for part in parts])
    else:
        images = [image for part in parts for image in part.images]

    # Photographs are numbered in the order of their first appearance.
    numbers: dict[str, int] = {}
    group = [
        numbers.setdefault(source, len(numbers))
        for part in parts
        for source in part.sources
    ]

    return PoseImages(
        images=images,
        angles=np.concatenate([part.angles for part in parts]),
        group=np.array(group, np.int32),
        origin=origin,
        without_landmarks=sum(part.without_landmarks for part in parts),
    )
