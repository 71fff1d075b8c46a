"""Head pose on small sets in the published layouts."""

import dataclasses
import os

import numpy as np
import pose_files
import pytest
from PIL import Image

from facecycle_jax.data.labelled.head_pose import read_300w_lp, read_aflw2000
from facecycle_jax.evaluation import evaluate
from facecycle_jax.evaluation.features import plain
from facecycle_jax.evaluation.probes.pose import evaluate_pose, pose_errors
from facecycle_jax.evaluation.report import markdown, write_report

pytest.importorskip("scipy")


def columns(images):
    return images[..., 0].mean(1) / 255.0


FEATURES = {"columns": plain(columns, size=32)}


@pytest.mark.parametrize("write", [pose_files.write_folders, pose_files.write_npz])
def test_yaw_is_learned_from_where_the_bar_is(tmp_path, write):
    path = write(tmp_path)
    result = evaluate_pose(FEATURES, read_300w_lp(path), read_aflw2000(path))
    row, baseline = result.rows["columns"], result.rows["mean training angles"]
    assert row.errors[0] < 0.4 * baseline.errors[0]
    assert any(
        "train has 192 images, officially 122,450" in warning
        for warning in result.warnings
    )
    assert any(
        "test has 12 images, officially 2,000" in warning for warning in result.warnings
    )
    text = markdown(result)
    assert "| FaceCycle | 11.70 | 12.76 | 12.94 |" in text
    assert "| columns |" in text
    # Every row has as many cells as the header.
    assert (
        len({line.count("|") for line in text.splitlines() if line.startswith("|")})
        == 1
    )


def test_images_beyond_the_limit_count_only_unfiltered(tmp_path):
    path = pose_files.write_folders(tmp_path)
    row = evaluate_pose(FEATURES, read_300w_lp(path), read_aflw2000(path)).rows[
        "columns"
    ]
    assert (row.images, row.images_all) == (11, 12)
    assert row.errors_all[1] > row.errors[1]
    assert sum(images for images, *_ in row.by_yaw.values()) == 11


def test_training_images_beyond_the_limit_are_left_out(tmp_path):
    path = pose_files.write_folders(tmp_path, photographs=4)
    train, test = read_300w_lp(path), read_aflw2000(path)
    before = evaluate_pose(FEATURES, train, test)
    wild = train.angles.copy()
    wild[3] = 150.0
    after = evaluate_pose(FEATURES, dataclasses.replace(train, angles=wild), test)
    gone = evaluate_pose(
        FEATURES, train.select(np.delete(np.arange(len(train)), 3)), test
    )
    assert after.counts["train within limit"] == before.counts["train within limit"] - 1
    np.testing.assert_array_equal(
        after.rows["columns"].predicted, gone.rows["columns"].predicted
    )


def test_test_angles_change_neither_choice_nor_prediction(tmp_path):
    path = pose_files.write_folders(tmp_path)
    train, test = read_300w_lp(path), read_aflw2000(path)
    before = evaluate_pose(FEATURES, train, test)
    poisoned = dataclasses.replace(test, angles=test.angles[::-1] * 0.5 + 9)
    after = evaluate_pose(FEATURES, train, poisoned)
    assert after.details == before.details
    for name in before.rows:
        np.testing.assert_array_equal(
            after.rows[name].predicted, before.rows[name].predicted
        )
    assert after.rows["columns"].errors[0] > before.rows["columns"].errors[0]
    # The test would notice a leak, because training angles do change both.
    turned = dataclasses.replace(train, angles=train.angles[::-1])
    assert (
        evaluate_pose(FEATURES, turned, test).rows["columns"].predicted
        != before.rows["columns"].predicted
    ).any()


def test_errors_equal_those_computed_by_hand():
    true = np.array([[0.0, 0, 0], [40, 0, 0], [-70, 0, 0], [0, 100, 0]])
    row = pose_errors(true + [[1, 2, 3], [3, 2, 3], [-5, 2, 3], [0, 6, 3]], true)
    assert row.errors == (3.0, 2.0, 3.0)
    assert row.errors_all == (2.25, 3.0, 3.0)
    assert row.by_yaw == {
        "0-30°": (1, 1.0, 2.0, 3.0),
        "30-60°": (1, 3.0, 2.0, 3.0),
        "60-99°": (1, 5.0, 2.0, 3.0),
    }
    with pytest.raises(ValueError, match="no test image has all its angles within 99"):
        pose_errors(true[3:], true[3:])


def test_a_limited_evaluation_writes_a_report_with_plots(tmp_path):
    pytest.importorskip("matplotlib")
    path = pose_files.write_npz(tmp_path / "data")
    result = evaluate("pose", path, baselines=["pixels"], limit=40)
    assert result.counts["train"] == 40
    # A file in a warning may have a name that is not UTF-8.
    result = result._replace(warnings=("left out " + os.fsdecode(b"th\xe9"),))
    write_report(result, tmp_path / "report")
    assert "left out th\\udce9" in (tmp_path / "report/results.md").read_text()
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "angles_pixels.png",
        "error_by_yaw.png",
        "results.json",
        "results.md",
    ]
    with Image.open(tmp_path / "report" / "error_by_yaw.png") as image:
        image.verify()
