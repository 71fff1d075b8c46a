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
    """Makes the raw data before the test; subclasses say how."""

    OVERLAPPING_SPLITS = ()

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


class Fer2013Test(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleFer2013
    SPLITS = {"Training": 7, "PublicTest": 7}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        for split, first in (("Training", 0), ("PublicTest", 100)):
            for number, name in enumerate(labelled.fer2013.CLASSES):
                image(
                    raw / split / name / f"{split}_{number}.jpg",
                    first + 10 * number,
                    "L",
                )


class Fer2013CsvTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleFer2013
    SPLITS = {"Training": 2, "PublicTest": 1, "PrivateTest": 1}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        raw.mkdir()
        rows = [
            ("0", 5, "Training"),
            ("3", 6, "Training"),
            ("1", 7, "PublicTest"),
            ("6", 8, "PrivateTest"),
        ]
        lines = [
            f"{label},{' '.join([str(value)] * 2304)},{usage}"
            for label, value, usage in rows
        ]
        (raw / "fer2013.csv").write_text(
            "\n".join(["emotion,pixels,Usage", *lines]) + "\n"
        )


class RafDbTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleRafDb
    SPLITS = {"train": 2, "test": 1}  # noqa: RUF012

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


def posed(path, value, angles):
    image(path, value)
    pose = np.array([[*np.radians(angles), 1.0, 2.0, 3.0, 0.1]], np.float32)
    scipy_io.savemat(
        path.with_suffix(".mat"), {"Pose_Para": pose, "pt2d": np.zeros((2, 68))}
    )


class W300LpTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.Facecycle300wLp
    SPLITS = {"train": 8}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        for number, subset in enumerate(
            f"{n}{flip}" for n in TRAINING_SETS for flip in ("", "_Flip")
        ):
            posed(
                raw / "300W_LP" / subset / f"{subset}_{number}_0.jpg",
                20 * number,
                (1, 2, 3),
            )


class Aflw2000Test(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleAflw2000
    SPLITS = {"test": 3}  # noqa: RUF012

    @staticmethod
    def make(raw, root):
        for number in range(3):
            posed(
                raw / "AFLW2000" / f"image0000{number + 2}.jpg",
                20 * number,
                (number, 2, 3),
            )


class CplfwTest(Layout, testing.DatasetBuilderTestCase):
    DATASET_CLASS = labelled.FacecycleCplfw
    SPLITS = {"test": 4}  # noqa: RUF012

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
