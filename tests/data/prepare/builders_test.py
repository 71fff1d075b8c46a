"""TFDS's own test of a builder, on small sets in the published layouts."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from PIL import Image

testing = pytest.importorskip("tensorflow_datasets.testing")
scipy_io = pytest.importorskip("scipy.io", reason="needs the extra `eval`")

from voxceleb_tree import make_voxceleb1, make_voxceleb2  # noqa: E402

from facecycle_jax.data.labelled.head_pose import TRAINING_SETS  # noqa: E402
from facecycle_jax.data.prepare.builders import folders, labelled, voxceleb  # noqa: E402
from facecycle_jax.data.sources.record_index import TRACKS  # noqa: E402


def image(path, value=0, mode="RGB", side=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, 0, 0)
    Image.new(mode, (side, side), colour).save(path)
    return path


def level(image):
    """The level of an image of `image`, to the nearest ten, as JPEG changes it."""
    return round(float(image[..., 0].mean()), -1)


def tracks(root):
    return {
        (f"id1000{person}", str(track)): [
            image(
                root / "sources" / f"{person}{track}{frame}.jpg",
                40 * person + 9 * track + frame,
            )
            for frame in range(3)
        ]
        for person in range(5)
        for track in range(2)
    }


class Layout:
    """Makes the raw data before the test; subclasses say how.

    Where they have EXPECTED, it is what `describe` makes of the examples of each split,
    in any order.
    """

    OVERLAPPING_SPLITS = ()
    EXPECTED = None

    @classmethod
    def setUpClass(cls):
        cls._folder = tempfile.TemporaryDirectory()
        root = pathlib.Path(cls._folder.name)
        cls.EXAMPLE_DIR = root / "raw"
        cls.make(cls.EXAMPLE_DIR, root)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls._folder.cleanup()

    def _download_and_prepare_as_dataset(self, builder):
        """Compares what is prepared for the inherited test, too."""
        super()._download_and_prepare_as_dataset(builder)
        for split, expected in (self.EXPECTED or {}).items():
            dataset = builder.as_dataset(split=split).as_numpy_iterator()
            assert sorted(map(self.describe, dataset)) == expected


class LabelledLayout(Layout):
    """Sets of images with labels."""

    @staticmethod
    def describe(example):
        return level(example["image"]), int(example["label"])


class PosedLayout(Layout):
    """Sets of images with head poses."""

    @staticmethod
    def describe(example):
        degrees = [round(float(example[name]), 3) for name in ("yaw", "pitch", "roll")]
        box = example["box"].tolist()
        return level(example["image"]), *degrees, box, example["name"].decode()


class Voxceleb1Test(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = voxceleb.FacecycleVoxceleb1
    SPLITS = {"train": 6, "eval": 4}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        make_voxceleb1(raw, tracks(root))

    def test_index_agrees_with_the_examples(self):
        self._download_and_prepare_as_dataset(self.builder)
        content = json.loads(
            (pathlib.Path(self.builder.data_path) / TRACKS).read_text()
        )
        expected = {"tracks": 10, "people": 5, "frames": 30, "left_out": 0}
        assert content["counts"].items() >= expected.items()
        examples = {
            example["track"].decode(): (
                example["identity"].decode(),
                len(example["frames"]),
            )
            for split in self.SPLITS
            for example in self.builder.as_dataset(split=split).as_numpy_iterator()
        }
        indexed = zip(
            content["track"], content["identity"], content["count"], strict=True
        )
        assert examples == {track: (person, count) for track, person, count in indexed}


class Voxceleb2Test(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = voxceleb.FacecycleVoxceleb2
    SPLITS = {"train": 6, "eval": 4}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        pytest.importorskip("av")
        make_voxceleb2(raw, tracks(root), side=32)


class TracksTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = folders.FacecycleTracks
    SPLITS = {"train": 3, "eval": 2}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        """LFW's layout."""
        for person in range(5):
            for number in range(1 + person % 2):
                image(
                    raw / f"Person_{person}" / f"Person_{person}_{number + 1:04}.jpg",
                    40 * person + number,
                )


class Fer2013Test(LabelledLayout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleFer2013
    SPLITS = {"Training": 7, "PublicTest": 7}  # noqa: RUF012
    EXPECTED = {  # noqa: RUF012
        "Training": [(10 * number, number) for number in range(7)],
        "PublicTest": [(100 + 10 * number, number) for number in range(7)],
    }

    @staticmethod
    def make(raw, root):
        for split, first in (("Training", 0), ("PublicTest", 100)):
            for number, name in enumerate(labelled.fer2013.CLASSES):
                image(
                    raw / split / name / f"{split}_{number}.jpg",
                    first + 10 * number,
                    "L",
                )


class Fer2013CsvTest(LabelledLayout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleFer2013
    SPLITS = {"Training": 2, "PublicTest": 1, "PrivateTest": 1}  # noqa: RUF012
    EXPECTED = {  # noqa: RUF012
        "Training": [(50, 0), (60, 3)],
        "PublicTest": [(70, 1)],
        "PrivateTest": [(80, 6)],
    }

    @staticmethod
    def make(raw, root):
        raw.mkdir()
        rows = [
            ("0", 50, "Training"),
            ("3", 60, "Training"),
            ("1", 70, "PublicTest"),
            ("6", 80, "PrivateTest"),
        ]
        lines = [
            f"{label},{' '.join([str(value)] * 2304)},{usage}"
            for label, value, usage in rows
        ]
        (raw / "fer2013.csv").write_text(
            "\n".join(["emotion,pixels,Usage", *lines]) + "\n"
        )


class RafDbTest(LabelledLayout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleRafDb
    SPLITS = {"train": 2, "test": 1}  # noqa: RUF012
    # The list counts labels from 1.
    EXPECTED = {"train": [(0, 4), (100, 0)], "test": [(50, 6)]}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        lines = ["train_00001.jpg 5", "test_0001.jpg 7", "train_00002.jpg 1"]
        (raw / "basic" / "EmoLabel").mkdir(parents=True)
        (raw / "basic" / "EmoLabel" / "list_patition_label.txt").write_text(
            "\n".join(lines) + "\n"
        )
        for number, line in enumerate(lines):
            name = f"{line.split()[0][:-4]}_aligned.jpg"
            image(raw / "basic" / "Image" / "aligned" / name, 50 * number, side=100)


# What is read of the landmarks that `posed` writes: 0.6 of 20 pixels on each side.
BOX = [-2, -7, 42, 37]


def posed(path, value, angles):
    """Writes an image with its pitch, yaw and roll in degrees and its landmarks."""
    image(path, value)
    pose = np.array([[*np.radians(angles), 1.0, 2.0, 3.0, 0.1]], np.float32)
    points = np.stack([np.linspace(10, 30, 68), np.linspace(5, 25, 68)])
    scipy_io.savemat(path.with_suffix(".mat"), {"Pose_Para": pose, "pt2d": points})


SUBSETS = [f"{name}{flip}" for name in TRAINING_SETS for flip in ("", "_Flip")]


class W300LpTest(PosedLayout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.Facecycle300wLp
    SPLITS = {"train": 8}  # noqa: RUF012
    EXPECTED = {  # noqa: RUF012
        "train": [
            (20 * number, 12, number, -3, BOX, f"{subset}/{subset}_{number}_0.jpg")
            for number, subset in enumerate(SUBSETS)
        ]
    }

    @staticmethod
    def make(raw, root):
        for number, subset in enumerate(SUBSETS):
            posed(
                raw / "300W_LP" / subset / f"{subset}_{number}_0.jpg",
                20 * number,
                (number, 12, -3),
            )


class Aflw2000Test(PosedLayout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleAflw2000
    SPLITS = {"test": 3}  # noqa: RUF012
    EXPECTED = {  # noqa: RUF012
        "test": [
            (20 * number, 12, number, -3, BOX, f"AFLW2000/image0000{number + 2}.jpg")
            for number in range(3)
        ]
    }

    @staticmethod
    def make(raw, root):
        for number in range(3):
            posed(
                raw / "AFLW2000" / f"image0000{number + 2}.jpg",
                20 * number,
                (number, 12, -3),
            )


class CplfwTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleCplfw
    SPLITS = {"test": 4}  # noqa: RUF012
    # Two pairs of either answer lie in ten folds, in the list's order.
    EXPECTED = {  # noqa: RUF012
        "test": [
            (0, 50, b"A", b"A", True, 0),
            (0, 150, b"A", b"B", False, 0),
            (100, 50, b"B", b"A", False, 5),
            (100, 150, b"B", b"B", True, 5),
        ]
    }

    @staticmethod
    def describe(example):
        levels = [level(example[name]) for name in ("image_1", "image_2")]
        people = [example[name] for name in ("person_1", "person_2")]
        return *levels, *people, bool(example["same"]), int(example["fold"])

    @staticmethod
    def make(raw, root):
        pairs = [
            ("A_1", "A_2", 1),
            ("B_1", "B_2", 1),
            ("A_1", "B_2", 0),
            ("B_1", "A_2", 0),
        ]
        lines = [
            f"{name}.jpg {answer}" for one, two, answer in pairs for name in (one, two)
        ]
        for number, name in enumerate(("A_1", "A_2", "B_1", "B_2")):
            image(raw / "images" / f"{name}.jpg", 50 * number)

        (raw / "pairs_CPLFW.txt").write_text("\n".join(lines) + "\n")
