"""`evaluate --task faces` on a tiny model.

Stand-in judges, and dlib's where installed.
"""

import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import tiny_model
from PIL import Image

from facecycle_jax import cli
from facecycle_jax.data.images import landmarks
from facecycle_jax.data.images.landmarks import RECOGNITION, model_file
from facecycle_jax.evaluation import evaluate, headlines
from facecycle_jax.evaluation import faces as module
from facecycle_jax.evaluation.faces import evaluate_faces, first_images
from facecycle_jax.evaluation.judges import head_angles
from facecycle_jax.evaluation.judges import networks as judges
from facecycle_jax.evaluation.judges.networks import Judgement, dlib_judge
from facecycle_jax.evaluation.report import markdown, write_report
from facecycle_jax.inference.loading import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_model.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def people(tmp_path):
    """Five people in colours of their own, the first two with two images each."""
    for person in range(5):
        for number in range(2 if person < 2 else 1):
            file = tmp_path / f"person_{person}" / f"person_{person}_{number:04}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (60, 60), (50 * person, 120, 250 - 50 * person)).save(file)
    return tmp_path


def stand_in(images):
    """Sees a face in all, identity in the colour, and turns heads by blue."""
    colour = images.reshape(len(images), -1, 3).mean(axis=1) / 255
    turned = [
        head_angles._MODEL @ head_angles.rotation(60 * (blue - 0.5), 0, 0).T
        for blue in colour[:, 2]
    ]
    points = np.zeros((len(images), 68, 2))
    points[:, head_angles._INDICES] = np.stack(turned)[:, :, :2]
    return Judgement(np.ones(len(images), bool), points, colour)


def test_people_are_the_first_by_name_but_those_trained_on(people):
    found = first_images(str(people), without=["person_0"], limit=3)
    assert list(found) == ["person_1", "person_2", "person_3"]
    assert [len(files) for files in found.values()] == [2, 1, 1]
    with pytest.raises(ValueError, match="three people or more, has 2"):
        first_images(str(people), without=["person_0", "person_1", "person_2"], limit=0)
    with pytest.raises(FileNotFoundError):
        first_images(str(people / "nowhere"), without=(), limit=0)


def test_fewer_than_three_people_by_limit_are_no_fault_of_the_folder(people):
    with pytest.raises(ValueError, match=r"limit must be 0 .all. or 3 and more, got 2"):
        first_images(str(people), without=(), limit=2)


def test_the_protocol_says_whether_people_trained_on_are_left_out(people):
    everybody = evaluate_faces(Unchanged(), str(people), judge=stand_in)
    assert "whom the model may have been trained on" in everybody.protocol
    assert "not trained on" not in everybody.protocol
    assert not everybody.warnings

    without = ["person_4", "Nobody"]
    some = evaluate_faces(Unchanged(), str(people), without=without, judge=stand_in)
    assert "without 1 left out as trained on" in some.protocol
    assert some.warnings == ("In no folder, of the names to be left out: 'Nobody'.",)


def test_rows_of_all_that_a_model_makes(people, model, tmp_path):
    result = evaluate_faces(model, str(people), judge=stand_in)
    assert list(result.rows) == [
        "input", "neutral", "reconstruction", "motion exchange", "identity exchange",
        "another image of the person",
    ]  # fmt: skip
    assert result.counts == {"people": 5, "turned heads": 1}
    row = result.rows["reconstruction"]
    assert 0 <= row.difference <= 1
    assert row.similarity <= 1
    assert result.rows["neutral"].similarity is None
    # Yaw of the stand-in: 60 degrees times blue less a half.
    expected = np.abs(60 * (np.array([250, 200, 150, 100, 50]) / 255 - 0.5))
    assert result.rows["input"].angles[0] == pytest.approx(expected.mean(), abs=0.5)
    assert result.rows["input"].turned == pytest.approx(
        expected[expected > 20].mean(), abs=0.5
    )
    assert result.rows["another image of the person"].identity.rank_1 == 1.0
    assert result.panels["faces"].ndim == 3
    assert headlines(result)["neutral/rank_1"] == result.rows["neutral"].identity.rank_1

    write_report(result, tmp_path / "report")
    content = json.loads((tmp_path / "report/results.json").read_text())
    assert (
        content["rows"]["neutral"]["identity"]["rank_1"]
        == result.rows["neutral"].identity.rank_1
    )
    assert (tmp_path / "report/faces.png").is_file()
    assert "| neutral |" in markdown(result)


class Unchanged:
    """A model that gives back what it gets, and the driver where two are exchanged."""

    size = 32
    has_identity = True
    model: ClassVar = {}
    info: ClassVar = {}

    def reconstruct(self, images):
        return images

    def translate(self, source, driver):
        pair = np.stack([source, driver], axis=1)
        return {"neutral": pair, "reexpressed": pair, "reidentified": pair[:, ::-1]}


def test_images_left_as_they_are_are_perfect_and_exchanged_ones_are_not(people):
    result = evaluate_faces(Unchanged(), str(people), judge=stand_in)
    row = result.rows["reconstruction"]
    assert row.identity.rank_1 == row.identity.auc == 1.0
    assert row.difference == 0
    assert row.similarity == pytest.approx(1, abs=1e-5)
    assert row.angles == result.rows["input"].angles
    # The wrong person everywhere.
    assert result.rows["identity exchange"].identity.rank_1 == 0.0


def test_the_task_takes_its_options_and_needs_a_model(
    people, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "dlib_judge", lambda: stand_in)
    result = evaluate(
        "faces", str(people), model=Unchanged(), without=["person_4"], limit=3, crop=1.0
    )
    assert result.counts["people"] == 3
    with pytest.raises(ValueError, match="needs --model"):
        evaluate("faces", str(people))
    assert (
        cli.main(
            [
                "evaluate",
                "--task",
                "faces",
                "--data",
                str(people),
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 2
    )
    assert "needs --model" in capsys.readouterr().err


def test_missing_judges_are_named_before_any_work(people, monkeypatch):
    landmarks.load_predictor.cache_clear()
    judges._load_network.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[landmarks\]"):
        evaluate_faces(Unchanged(), str(people))
    landmarks.load_predictor.cache_clear()


@pytest.mark.skipif(model_file(RECOGNITION) is None, reason="needs the extra `judges`")
def test_dlib_knows_a_person_again_and_sees_the_pose_mirrored():
    """scikit-image ships an astronaut's portrait."""
    pytest.importorskip("dlib", reason="needs the extra `judges`")
    data = pytest.importorskip("skimage.data", reason="needs the extra `eval`")
    face = Image.fromarray(data.astronaut()[20:220, 124:324]).resize((64, 64))
    face = np.asarray(face)
    grey = np.full_like(face, 128)
    darker = (face * 0.8).astype(np.uint8)
    seen = dlib_judge()(np.stack([face, face[:, ::-1], darker, grey]))

    assert seen.found.tolist() == [True, True, True, False]
    distances = np.linalg.norm(seen.codes - seen.codes[0], axis=1)
    assert distances[2] < 0.3
    assert distances[3] > 0.6
    angles = head_angles.head_angles(seen.landmarks)
    assert angles[0, 0] == pytest.approx(-angles[1, 0], abs=6)
    assert np.abs(angles[:3]).max() < 35
