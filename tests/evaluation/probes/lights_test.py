"""Recognition under the lights of Extended Yale B, and the reader of its files."""

import json

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.data.labelled.yale_b import light_angle, read_yale_b
from facecycle_jax.evaluation import evaluate
from facecycle_jax.evaluation.features import FeatureSet, plain
from facecycle_jax.evaluation.probes.lights import evaluate_lights
from facecycle_jax.evaluation.report import markdown

# Light: angle.
LIGHTS = {"A+000E+00": 0, "A+005E-10": 11.2, "A-035E+15": 37.7, "A+110E+40": 105.2}


@pytest.fixture
def yale(tmp_path):
    """Four people of one brightness each, who look alike under one of the lights."""
    for person in range(4):
        for light in LIGHTS:
            value = 128 if light == "A+110E+40" else 40 * person + 30
            name = f"yaleB{person:02}"
            file = tmp_path / name / f"{name}_P00{light}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.new("L", (84, 96), value).save(file)
        (file.parent / f"{name}_P00_Ambient.jpg").write_bytes(b"")
    (tmp_path / "readme.txt").write_text("no person")
    return tmp_path


def test_lights_are_read_from_names(yale):
    faces = read_yale_b(str(yale))
    assert len(faces) == 16
    assert faces.people == tuple(f"yaleB{person:02}" for person in range(4))
    np.testing.assert_array_equal(faces.person, np.repeat(np.arange(4), 4))
    np.testing.assert_allclose(
        sorted(set(faces.angle.round(1))), list(LIGHTS.values()), atol=0.1
    )
    assert light_angle(0, 90) == pytest.approx(90)
    assert light_angle(-130, 20) == pytest.approx(light_angle(130, 20))


def test_a_limit_keeps_the_gallery(yale):
    faces = read_yale_b(str(yale))
    few = faces.limited(5, seed=1)
    assert len(few) == 4 + 5
    assert sorted(few.person[few.angle == 0]) == [0, 1, 2, 3]
    places = [faces.files.index(file) for file in few.files]
    assert places == sorted(places)
    np.testing.assert_array_equal(few.angle, faces.angle[places])
    assert faces.limited(0).files == faces.files


def test_recognition_is_reported_by_the_angle_of_the_light(yale):
    def brightness(images):
        angle = images.mean(axis=(1, 2, 3)) / 255
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    result = evaluate_lights(
        {"brightness": plain(brightness, size=8)}, read_yale_b(str(yale))
    )
    row = result.rows["brightness"]
    assert row.rank_1_by_light == {"0-12°": 1.0, "25-50°": 1.0, "77-180°": 0.25}
    assert row.rank_1 == pytest.approx(9 / 12)
    assert row.auc_by_light["0-12°"] == 1.0
    assert row.auc_by_light["77-180°"] == pytest.approx(0.5)
    assert result.counts == {"people": 4, "probes": 12}
    assert "4 people, Extended Yale B has 38" in markdown(result)
    json.dumps(row.figures())


def test_fitted_baselines_see_the_gallery_alone(yale):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    for file in sorted(yale.glob("*/*A*.jpg")):
        if "Ambient" not in file.name:
            Image.fromarray(rng.integers(0, 256, (96, 84), np.uint8)).save(file)
    result = evaluate("lights", str(yale), baselines=["pixels", "pca"])
    assert list(result.rows) == ["pixels", "pca"]

    # A kind that records what it is fitted to.
    seen = []

    def fit(sample):
        seen.append(sample)
        return lambda images: images.reshape(len(images), -1) / 255

    faces = read_yale_b(str(yale))
    kind = FeatureSet(fit=fit, size=8, needs_fit=True)
    evaluate_lights({"spy": kind}, faces)
    frontal = [file for file in faces.files if "A+000E+00" in file]
    np.testing.assert_array_equal(seen[0], load_images(frontal, size=8))


def test_invalid_folders_are_refused(yale, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_yale_b(str(tmp_path / "nowhere"))
    (yale / "yaleB02/yaleB02_P00A+000E+00.jpg").unlink()
    with pytest.raises(ValueError, match="yaleB02 under frontal light"):
        read_yale_b(str(yale))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="two people or more"):
        read_yale_b(str(tmp_path / "empty"))
