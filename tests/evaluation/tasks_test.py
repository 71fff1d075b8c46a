"""Whole evaluations on small sets: reports, and no test label that changes a choice."""

import json

import fake_bucket
import numpy as np
import pytest
from lfw_files import lfw
from PIL import Image

from facecycle_jax import cli
from facecycle_jax.data.labelled.images import LabelledPictures
from facecycle_jax.data.labelled.lfw_pairs import read_lfw_pairs
from facecycle_jax.evaluation import evaluate
from facecycle_jax.evaluation.features import FeatureSet, plain
from facecycle_jax.evaluation.probes.emotion import judge_emotion
from facecycle_jax.evaluation.probes.pairs import judge_pairs

CLASSES = ("a", "b", "c")


def emotions(count, seed):
    """Grey pictures whose brightness says the class, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    values = 60 + 60 * labels[:, None, None] + rng.normal(0, 20, (count, 8, 8))
    return LabelledPictures(
        values.clip(0, 255).astype(np.uint8), labels, CLASSES, "the test"
    )


def corners(pictures):
    return pictures[:, :4, :4, 0].reshape(len(pictures), -1) / 255


def test_emotion_is_learned_and_the_test_labels_change_nothing_chosen():
    train, test = emotions(120, 0), emotions(60, 1)
    features = {"corners": plain("corners", corners, size=8)}
    result = judge_emotion(
        features, train, test, task="fer2013", counts={"train": 28_709, "test": 60}
    )
    assert result.rows["corners"].accuracy > 0.9
    assert result.warnings == ("train has 120 pictures, the official split 28,709.",)
    poisoned = LabelledPictures(
        test.pictures, (test.labels + 1) % 3, CLASSES, "the test"
    )
    again = judge_emotion(features, train, poisoned, task="fer2013")
    assert again.details == result.details
    # The predictions are the same, so the columns of the confusion matrix are.
    np.testing.assert_array_equal(
        again.rows["corners"].confusion.sum(0), result.rows["corners"].confusion.sum(0)
    )
    assert again.rows["corners"].accuracy < 0.1


def pixels(pictures):
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    return flat - flat.mean(1, keepdims=True)


def test_fitted_features_never_see_their_own_fold(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))
    seen = []

    def fit(pictures):
        seen.append({picture.tobytes() for picture in pictures})
        return pixels

    kind = FeatureSet("spy", fit, 16, needs_fit=True)
    result = judge_pairs({"spy": kind}, None, pairs, task="lfw")
    assert result.rows["spy"].accuracy == 1.0
    assert len(seen) == 2
    # No picture of one fold is in the fit for it: the two fits share none here.
    assert len(seen[0]) == len(seen[1]) == 8
    assert not seen[0] & seen[1]


def test_view_1_stands_in_for_view_2(tmp_path):
    for part in ("Train", "Test"):
        path = lfw(tmp_path, name=f"pairsDev{part}.txt", header="4")
    result = evaluate("lfw", path, baselines=["pixels"], without=["P0"])
    assert "view 1" in result.protocol
    assert result.counts["test pairs"] == 5
    assert any("officially (500, 500)" in warning for warning in result.warnings)
    assert any(
        "3 of 8 test pairs are left out" in warning for warning in result.warnings
    )
    assert not any("is in no pair" in warning for warning in result.warnings)
    result = evaluate(
        "lfw", path, baselines=["pixels"], without=["P0", "Nobody", "nobody else"]
    )
    named = [warning for warning in result.warnings if "is in no pair" in warning]
    assert [warning.split("'")[1] for warning in named] == ["Nobody", "nobody else"]


def test_a_missing_image_of_view_2_never_turns_it_into_view_1(tmp_path):
    for part in ("Train", "Test"):
        lfw(tmp_path, name=f"pairsDev{part}.txt", header="4")
    path = lfw(tmp_path)
    (tmp_path / "lfw" / "P3" / "P3_0002.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"pairs\.txt, line 5: there is no image P3/P3_0002\.jpg",
    ):
        evaluate("lfw", path, baselines=["pixels"])


def test_view_1_stands_in_below_a_path_with_a_colon(tmp_path):
    folder = tmp_path / "sets: all"
    folder.mkdir()
    for part in ("Train", "Test"):
        path = lfw(folder, name=f"pairsDev{part}.txt", header="4")
    assert "view 1" in evaluate("lfw", path, baselines=["pixels"]).protocol


def test_the_command_writes_a_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data, out = lfw(tmp_path / "data"), tmp_path / "report"
    arguments = [
        "evaluate",
        "--task",
        "lfw",
        "--data",
        data,
        "--out",
        str(out),
        "--baselines",
        "pixels",
    ]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| FaceCycle | 73.72 |" in printed
    assert sorted(p.name for p in out.iterdir()) == [
        "results.json",
        "results.md",
        "roc.png",
    ]
    content = json.loads((out / "results.json").read_text())
    assert content["rows"]["pixels"]["same"] == 8
    assert content["published"]["LBP"] == {"accuracy %": 56.90}
    with Image.open(out / "roc.png") as picture:
        picture.verify()
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_report_in_a_bucket(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data = lfw(tmp_path / "data")
    arguments = [
        "evaluate",
        "--task",
        "lfw",
        "--data",
        data,
        "--out",
        "gs://b/report",
        "--baselines",
        "pixels",
    ]
    with fake_bucket.bucket(tmp_path / "cloud"):
        assert cli.main(arguments) == 0
        found = sorted(
            path.name for path in (tmp_path / "cloud" / "b" / "report").iterdir()
        )
        assert found == ["results.json", "results.md", "roc.png"]
        assert cli.main(arguments) == 2
    assert "gs://b/report exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--baselines", "sift"], "baselines are lbp"),
        ([], "nothing to evaluate"),
        (["--baselines", "pixels"], "There is no file"),
        (["--baselines", "pixels", "--without", "/none.txt"], "none.txt"),
    ],
)
def test_faults_are_one_sentence_and_leave_nothing(tmp_path, capsys, arguments, words):
    out = tmp_path / "report"
    assert (
        cli.main(
            [
                "evaluate",
                "--task",
                "lfw",
                "--data",
                str(tmp_path),
                "--out",
                str(out),
                *arguments,
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()
