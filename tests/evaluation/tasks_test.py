"""Whole evaluations on small sets: reports, and choices that see no test label."""

import dataclasses
import json

import fake_bucket
import numpy as np
import pose_files
import pytest
from lfw_files import lfw
from PIL import Image

from facecycle_jax import cli
from facecycle_jax.data.labelled.images import LabelledImages
from facecycle_jax.data.labelled.lfw_pairs import read_lfw_pairs
from facecycle_jax.evaluation import evaluate, tasks
from facecycle_jax.evaluation.features import FeatureSet, plain
from facecycle_jax.evaluation.probes.emotion import evaluate_emotion
from facecycle_jax.evaluation.probes.pairs import evaluate_pairs

CLASSES = ("a", "b", "c")


def emotions(count, seed):
    """Grey images whose brightness shows the class, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    values = 60 + 60 * labels[:, None, None] + rng.normal(0, 20, (count, 8, 8))
    return LabelledImages(
        values.clip(0, 255).astype(np.uint8), labels, CLASSES, "the test"
    )


def corners(images):
    return images[:, :4, :4, 0].reshape(len(images), -1) / 255


def test_emotion_is_learned_and_test_labels_change_no_choice():
    train, test = emotions(120, 0), emotions(60, 1)
    features = {"corners": plain(corners, size=8)}
    result = evaluate_emotion(
        features, train, test, task="fer2013", counts={"train": 28_709, "test": 60}
    )
    assert result.rows["corners"].accuracy > 0.9
    assert result.warnings == ("train has 120 images, the official split 28,709.",)
    poisoned = LabelledImages(test.images, (test.labels + 1) % 3, CLASSES, "the test")
    again = evaluate_emotion(features, train, poisoned, task="fer2013")
    assert again.details == result.details
    # The predictions are the same, so the columns of the confusion matrix are.
    np.testing.assert_array_equal(
        again.rows["corners"].confusion.sum(0), result.rows["corners"].confusion.sum(0)
    )
    assert again.rows["corners"].accuracy < 0.1


def test_emotion_is_predicted_by_neighbours_and_from_adapted_features():
    train = emotions(120, 0)
    test = emotions(60, 1)
    seen = []

    def adapt(values):
        seen.append(values)
        mean = values.mean(axis=0)
        return lambda others: (others - mean)[:, :4]

    kind = plain(corners, size=8, encode=lambda images: images)
    kinds = {"corners": kind, "adapted": kind._replace(adapt=adapt)}
    for probe in ("neighbours", "logistic"):
        result = evaluate_emotion(kinds, train, test, task="fer2013", probe=probe)
        assert result.rows["adapted"].accuracy > 0.8
        assert result.details["adapted"]["dimensions"] == 4
    assert result.details["corners"]["dimensions"] == 16

    # Adapted by the features of the training images alone.
    for values in seen:
        assert values.shape == (120, 16)


def test_adapted_features_have_no_linear_protocol():
    kind = plain(corners, size=8, encode=lambda images: images)
    adapted = kind._replace(adapt=lambda values: lambda others: others)
    result = evaluate_emotion(
        {"adapted": adapted},
        emotions(60, 0),
        emotions(30, 1),
        task="fer2013",
        probe="linear",
    )
    assert "adapted: evaluated by logistic regression" in result.warnings[-1]


def pixels(images):
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat - flat.mean(1, keepdims=True)


def test_fitted_features_never_see_their_own_fold(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))
    seen = []

    def fit(images):
        seen.append({image.tobytes() for image in images})
        return pixels

    kind = FeatureSet(fit, 16, needs_fit=True)
    result = evaluate_pairs({"spy": kind}, None, pairs, task="lfw")
    assert result.rows["spy"].accuracy == 1.0
    assert len(seen) == 2
    # No image of a fold is in the fit for it, so here the two fits share none.
    assert len(seen[0]) == len(seen[1]) == 8
    assert not seen[0] & seen[1]


def test_fitted_features_are_left_out_where_folds_share_all_images(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))
    # Every pair in both folds.
    twice = dataclasses.replace(
        pairs,
        left=np.tile(pairs.left, 2),
        right=np.tile(pairs.right, 2),
        same=np.tile(pairs.same, 2),
        fold=np.repeat([0, 1], len(pairs)),
    )
    kinds = {
        "pixels": plain(pixels, size=16),
        "fitted": FeatureSet(lambda images: pixels, 16, needs_fit=True),
    }
    result = evaluate_pairs(kinds, None, twice, task="lfw")
    assert list(result.rows) == ["pixels"]
    (warning,) = result.warnings
    assert warning.startswith("fitted left out: they are fitted to images that no")

    # The same list to train on and to test.
    result = evaluate_pairs(kinds, pairs, pairs, task="lfw")
    assert list(result.rows) == ["pixels"]
    assert list(evaluate_pairs(kinds, None, pairs, task="lfw").rows) == list(kinds)


def test_a_list_of_one_fold_is_refused_before_features_are_computed(tmp_path):
    path = lfw(tmp_path)
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    folds, count = lines[0].split()
    assert int(folds) == 2
    first = [f"1\t{count}", *lines[1 : 1 + 2 * int(count)]]
    (tmp_path / "pairs.txt").write_text("\n".join(first))
    with pytest.raises(ValueError, match=r"pairs\.txt has one fold: the threshold"):
        evaluate("lfw", path, baselines=["pixels"])


@pytest.mark.parametrize("task", ["fer2013", "pose"])
def test_a_report_says_which_rows_are_of_the_model(tmp_path, monkeypatch, task):
    """The others are those of baselines and of constant predictions."""

    def read(path, *, split):
        return emotions(40, len(split))

    names = ("motion_code", "pixels")
    kinds = {name: plain(corners, size=8) for name in names}
    monkeypatch.setattr(tasks, "read_fer2013", read)
    monkeypatch.setattr(tasks, "feature_sets", lambda *_: kinds)
    options = {"test_split": "both"} if task == "fer2013" else {}
    path = pose_files.write_npz(tmp_path) if task == "pose" else "somewhere"
    result = evaluate(task, str(path), baselines=["pixels"], **options)

    further = "pixels (PrivateTest)" if task == "fer2013" else "mean training angles"
    assert {*names, further} <= set(result.rows)
    expected = ["motion_code", "motion_code (PrivateTest)"]
    assert list(result.model_rows) == expected[: 2 if task == "fer2013" else 1]


def test_view_1_replaces_a_missing_view_2(tmp_path):
    for part in ("Train", "Test"):
        path = lfw(tmp_path, name=f"pairsDev{part}.txt", header="4")
    result = evaluate("lfw", path, baselines=["pixels"], without=["P0"])
    assert "view 1" in result.protocol
    assert result.counts["test pairs"] == 5
    assert any("officially (500, 500)" in warning for warning in result.warnings)
    assert any(
        "3 of 8 test pairs are left out" in warning for warning in result.warnings
    )
    assert not any("In no pair" in warning for warning in result.warnings)
    result = evaluate(
        "lfw", path, baselines=["pixels"], without=["P0", "Nobody", "nobody else"]
    )
    named = [warning for warning in result.warnings if "In no pair" in warning]
    assert named == [
        "In no pair, of the names to be left out: 'Nobody', 'nobody else'."
    ]


def test_view_1_does_not_replace_a_view_2_with_a_missing_image(tmp_path):
    for part in ("Train", "Test"):
        lfw(tmp_path, name=f"pairsDev{part}.txt", header="4")
    path = lfw(tmp_path)
    (tmp_path / "lfw" / "P3" / "P3_0002.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"pairs\.txt, line 5: there is no image P3/P3_0002\.jpg",
    ):
        evaluate("lfw", path, baselines=["pixels"])


def test_view_1_replaces_view_2_below_a_path_with_a_colon(tmp_path):
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
    with Image.open(out / "roc.png") as image:
        image.verify()
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_writes_a_report_into_a_bucket(tmp_path, capsys):
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
def test_invalid_input_is_reported_in_one_sentence_and_leaves_no_report(
    tmp_path, capsys, arguments, words
):
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
