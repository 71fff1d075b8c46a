"""Evaluation sets, read by this package's readers.

One example is one picture, or one pair of CPLFW.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from facecycle_jax.data.labelled.head_pose import (
    ANGLES,
    PosePictures,
    read_300w_lp,
    read_aflw2000,
)
from facecycle_jax.data.labelled.images import LabelledPictures, fer2013, raf_db
from facecycle_jax.data.labelled.lfw_pairs import Pairs, read_cplfw_pairs

Examples = Iterator[tuple[int, dict[str, Any]]]


class _LabelledBuilder(tfds.core.GeneratorBasedBuilder):
    """What the builders of evaluation sets share."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _describe(self, features: dict[str, Any]) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description=type(self).__doc__,
            supervised_keys=None,
        )

    def _generate_examples(self, pictures: LabelledPictures) -> Examples:
        for number, (picture, label) in enumerate(
            zip(pictures.pictures, pictures.labels, strict=True)
        ):
            is_array = isinstance(picture, np.ndarray)
            yield (
                number,
                {
                    "image": picture[..., None] if is_array else picture,
                    "label": int(label),
                },
            )


class FacecycleFer2013(_LabelledBuilder):
    """FER-2013, seven emotions of 48x48 grey faces."""

    name = "facecycle_fer2013"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds fer2013.csv or icml_face_data.csv, or <split>/<class>/*.jpg with the splits Training,
    PublicTest and PrivateTest, of which those that are there are prepared.
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
        is_csv = any(
            (root / name).exists() for name in ("fer2013.csv", "icml_face_data.csv")
        )
        found = [
            split for split in fer2013.OFFICIAL if is_csv or (root / split).is_dir()
        ]
        read = {
            split: fer2013.read_fer2013(str(root), split=split)
            for split in found or ["Training"]
        }
        return {
            split: self._generate_examples(pictures) for split, pictures in read.items()
        }


class FacecycleRafDb(_LabelledBuilder):
    """RAF-DB, seven basic emotions of aligned faces."""

    name = "facecycle_raf_db"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds basic/EmoLabel/list_patition_label.txt and basic/Image/aligned/*_aligned.jpg.
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
    """What the builders of head poses share."""

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {"image": tfds.features.Image(shape=(None, None, 3))}
        features |= dict.fromkeys(ANGLES, tf.float32)
        # Left, top, right, bottom of the face in pixels; zeros where the label file has
        # no landmarks.
        features["box"] = tfds.features.Tensor(shape=(4,), dtype=tf.int32)
        return self._describe(features | {"name": tfds.features.Text()})

    def _generate_examples(self, posed: PosePictures) -> Examples:  # type: ignore[override]
        for number, (picture, angles) in enumerate(
            zip(posed.pictures, posed.angles, strict=True)
        ):
            image, box, name = picture, None, str(number)
            if not isinstance(picture, np.ndarray):
                image, box = picture.path, picture.box
                name = "/".join(picture.path.rsplit("/", 2)[1:])
            example = {"image": image, "box": box or (0, 0, 0, 0), "name": name}
            yield number, example | dict(zip(ANGLES, angles.tolist(), strict=True))


class Facecycle300wLp(_PoseBuilder):
    """300W-LP, head poses in degrees; one split, `train`."""

    name = "facecycle_300w_lp"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir is 300W_LP or holds it: AFW, AFW_Flip, HELEN, HELEN_Flip, IBUG, IBUG_Flip, LFPW and LFPW_Flip,
    each with *.jpg and a .mat of the same name for each, or as FSA-Net's .npz files. Sets that are not there
    are left out.
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
    manual_dir holds AFLW2000/image*.jpg and a .mat of the same name for each, or AFLW2000.npz.
    """

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        return {
            "test": self._generate_examples(read_aflw2000(str(dl_manager.manual_dir)))
        }


class FacecycleCplfw(_LabelledBuilder):
    """CPLFW, pairs of faces with the answer whether they show one person.

    One split, `test`.
    """

    name = "facecycle_cplfw"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds pairs_CPLFW.txt and the pictures in `images` or `aligned images`.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        image, text = tfds.features.Image(shape=(None, None, 3)), tfds.features.Text()
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
        for number, (left, right) in enumerate(
            zip(pairs.left, pairs.right, strict=True)
        ):
            yield (
                number,
                {
                    "image_1": pairs.files[left],
                    "image_2": pairs.files[right],
                    "person_1": pairs.people[number][0],
                    "person_2": pairs.people[number][1],
                    "same": bool(pairs.same[number]),
                    "fold": int(pairs.fold[number]),
                },
            )
