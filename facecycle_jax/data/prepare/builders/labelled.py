"""Builders of evaluation sets, which use the readers of `data.labelled`.

One example is one image, or one pair of CPLFW.
"""

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from facecycle_jax.data.labelled import fer2013, raf_db
from facecycle_jax.data.labelled.head_pose import (
    ANGLES,
    PoseImages,
    read_300w_lp,
    read_aflw2000,
)
from facecycle_jax.data.labelled.images import LabelledImages
from facecycle_jax.data.labelled.lfw_pairs import Pairs, read_cplfw_pairs
from facecycle_jax.data.prepare.encoding import read_checked
from facecycle_jax.data.prepare.lock import locked
from facecycle_jax.errors import UserError

Examples = Iterator[tuple[int, dict[str, Any]]]
# Formats that TFDS decodes to one image, as Pillow names them.
_FORMATS = ("JPEG", "PNG", "BMP")


class _LabelledBuilder(tfds.core.GeneratorBasedBuilder):
    """Base class of the builders of evaluation sets."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the set, one run at a time.

        Args:
          **options: options of TFDS.

        Raises:
          UserError: If the set would be written to a bucket, an image cannot be read,
            or another run prepares the set.
        """
        with locked(os.path.dirname(os.fspath(self.data_path))):
            super().download_and_prepare(**options)

    def _describe(self, features: dict[str, Any]) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description=type(self).__doc__,
            supervised_keys=None,
        )

    def _generate_examples(self, labelled: LabelledImages) -> Examples:
        items = zip(labelled.images, labelled.labels, strict=True)
        for number, (image, label) in enumerate(items):
            # Arrays are grey, [H, W], and get a channel.
            is_array = isinstance(image, np.ndarray)
            content = image[..., None] if is_array else _read(image)
            yield number, {"image": content, "label": int(label)}


def _read(path: str) -> bytes:
    """Reads an image file.

    TFDS stores bytes unseen and fails on a damaged image only when it is read.
    """
    content, form = read_checked(path)
    if form not in _FORMATS:
        raise UserError(
            f"{path} is an image of the format {form}, which TFDS does not read; "
            "convert it to JPEG or PNG."
        )
    return content


class FacecycleFer2013(_LabelledBuilder):
    """FER-2013, seven emotions of 48x48 grey faces."""

    name = "facecycle_fer2013"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds fer2013.csv or icml_face_data.csv, or <split>/<class>/*.jpg with
    the splits Training, PublicTest and PrivateTest. Missing folders are left out.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=fer2013.CLASSES)
        return self._describe(
            {"image": tfds.features.Image(shape=(48, 48, 1)), "label": label}
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        root = dl_manager.manual_dir

        # A csv has all splits. Without any data, reading one split raises the error.
        names = ("fer2013.csv", "icml_face_data.csv")
        is_csv = any((root / name).exists() for name in names)
        found = [
            split for split in fer2013.OFFICIAL if is_csv or (root / split).is_dir()
        ]
        read = {
            split: fer2013.read_fer2013(str(root), split=split)
            for split in found or ["Training"]
        }

        return {
            split: self._generate_examples(labelled) for split, labelled in read.items()
        }


class FacecycleRafDb(_LabelledBuilder):
    """RAF-DB, seven basic emotions of aligned faces."""

    name = "facecycle_raf_db"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds basic/EmoLabel/list_patition_label.txt and
    basic/Image/aligned/*_aligned.jpg.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=raf_db.CLASSES)
        return self._describe(
            {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        root = str(dl_manager.manual_dir)
        return {
            split: self._generate_examples(raf_db.read_raf_db(root, split=split))
            for split in raf_db.OFFICIAL
        }


class _PoseBuilder(_LabelledBuilder):
    """Base class of the builders of head poses."""

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {"image": tfds.features.Image(shape=(None, None, 3))}
        features |= dict.fromkeys(ANGLES, tf.float32)
        # Left, top, right, bottom of the face in pixels; zeros where the label file has
        # no landmarks.
        features["box"] = tfds.features.Tensor(shape=(4,), dtype=tf.int32)
        return self._describe(features | {"name": tfds.features.Text()})

    def _generate_examples(self, posed: PoseImages) -> Examples:  # type: ignore[override]
        items = zip(posed.images, posed.angles, strict=True)
        for number, (item, angles) in enumerate(items):
            image: np.ndarray | bytes
            if isinstance(item, np.ndarray):
                image, box, name = item, None, str(number)
            else:
                # Named by its set and its file.
                image, box = _read(item.path), item.box
                name = "/".join(item.path.rsplit("/", 2)[1:])

            example = {"image": image, "box": box or (0, 0, 0, 0), "name": name}
            degrees = dict(zip(ANGLES, angles.tolist(), strict=True))
            yield number, example | degrees


class Facecycle300wLp(_PoseBuilder):
    """300W-LP, head poses in degrees; one split, `train`."""

    name = "facecycle_300w_lp"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir is 300W_LP or holds it: AFW, AFW_Flip, HELEN, HELEN_Flip, IBUG,
    IBUG_Flip, LFPW and LFPW_Flip, each with *.jpg and a .mat of the same name for each,
    or as FSA-Net's .npz files. Missing sets are left out.
    """

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        return {
            "train": self._generate_examples(read_300w_lp(str(dl_manager.manual_dir)))
        }


class FacecycleAflw2000(_PoseBuilder):
    """AFLW2000-3D, head poses in degrees; one split, `test`."""

    name = "facecycle_aflw2000"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds AFLW2000/image*.jpg and a .mat of the same name for each, or
    AFLW2000.npz.
    """

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        return {
            "test": self._generate_examples(read_aflw2000(str(dl_manager.manual_dir)))
        }


class FacecycleCplfw(_LabelledBuilder):
    """CPLFW, pairs of faces labelled as same or different; one split, `test`."""

    name = "facecycle_cplfw"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds pairs_CPLFW.txt and the images in `images` or `aligned images`.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3))
        text = tfds.features.Text()
        features: dict[str, Any] = {
            "image_1": image,
            "image_2": image,
            "person_1": text,
            "person_2": text,
        }
        return self._describe(features | {"same": tf.bool, "fold": tf.int32})

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        return {
            "test": self._generate_examples(
                read_cplfw_pairs(str(dl_manager.manual_dir))
            )
        }

    def _generate_examples(self, pairs: Pairs) -> Examples:  # type: ignore[override]
        sides = zip(pairs.left, pairs.right, strict=True)
        for number, (left, right) in enumerate(sides):
            example = {
                "image_1": _read(pairs.files[left]),
                "image_2": _read(pairs.files[right]),
                "person_1": pairs.people[number][0],
                "person_2": pairs.people[number][1],
                "same": bool(pairs.same[number]),
                "fold": int(pairs.fold[number]),
            }
            yield number, example
