"""What the page of `facecycle demo` shows, without the page."""

import pathlib

import numpy as np
import pytest
import tiny_model
from PIL import Image

from facecycle_jax import FaceCycle, cli
from facecycle_jax.commands import demo, demo_page, example_faces


@pytest.fixture(scope="module")
def model():
    return FaceCycle(tiny_model.trees(), model=tiny_model.MODEL)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return example_faces.write_examples(tmp_path_factory.mktemp("examples"))


def test_examples_show_two_portraits_and_the_same_and_other_synthetic_people(pairs):
    names = [pathlib.Path(name).name for pair in pairs for name in pair]
    assert names[:2] == ["collins.jpg", "obama.jpg"]
    assert len(set(names)) == 6

    for pair in pairs:
        first, second = (np.asarray(Image.open(name)) for name in pair)
        assert first.shape == second.shape
        assert first.shape[0] == first.shape[1] >= 128
        assert np.abs(first.astype(int) - second).mean() > 3


def test_two_images_are_exchanged(model, pairs):
    result = demo.exchange(model, *pairs[1])
    assert list(result.images) == list(demo.SHOWN)
    for pair in result.images.values():
        assert pair.shape == (2, 256, 256, 3)
        assert pair.dtype == np.uint8

    # The page shows what the model gives, here the first neutral face, enlarged.
    neutral = Image.fromarray(model.neutral(pairs[1][0])[0])
    neutral = neutral.resize((256, 256), Image.Resampling.LANCZOS)
    difference = np.abs(result.images["neutral"][0].astype(int) - np.asarray(neutral))
    assert difference.max() <= 2

    codes = model.identity_code(list(pairs[1]))
    cosine = codes[0] @ codes[1] / np.prod(np.linalg.norm(codes, axis=1))
    assert result.identity == pytest.approx(cosine, abs=1e-4)
    assert f"identity codes {result.identity:.3f}" in result.words()


def test_an_image_is_as_similar_to_itself_as_can_be(model, pairs):
    same = demo.exchange(model, pairs[0][0], pairs[0][0])
    assert same.motion == pytest.approx(1, abs=1e-5)
    assert same.identity == pytest.approx(1, abs=1e-5)


def test_a_model_of_stage_1_shows_what_it_has(model, pairs):
    trees = dict(model.trees)
    del trees["normaliser"]
    half = FaceCycle(trees, model=tiny_model.MODEL)

    result = demo.exchange(half, *pairs[0])
    assert list(result.images) == ["input", "flow", "neutral", "reexpressed"]
    assert result.identity is None
    assert "identity" not in result.words()


def test_unusable_images_are_named_by_their_place(model, pairs, tmp_path):
    text = tmp_path / "letter.png"
    text.write_text("no image")
    with pytest.raises(ValueError, match=r"^The second image cannot be read as .*: no"):
        demo.exchange(model, pairs[0][0], text)
    with pytest.raises(ValueError, match=r"^The first image is missing: upload one"):
        demo.exchange(model, None, pairs[0][0])


def test_a_missing_model_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(demo_page, "require_gradio", lambda: None)
    assert cli.main(["demo", "--model", "nothing-of-this-name"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("facecycle: no model 'nothing-of-this-name'")
    assert error.count("\n") == 1


def test_a_port_out_of_range_is_refused_before_the_model_is_loaded(capsys):
    assert cli.main(["demo", "--port", "99999", "--no-browser"]) == 2
    assert "--port must be 1 to 65535, got 99999" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr(demo_page.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'facecycle_jax[demo]'" in capsys.readouterr().err
