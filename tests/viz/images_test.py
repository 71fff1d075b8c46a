import sys

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.viz import curves, save_png


def test_png_holds_the_image_and_no_other_file_is_left(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "deep" / "image.png"
    save_png(path, image)
    save_png(path, image)
    with Image.open(path) as read:
        np.testing.assert_array_equal(np.asarray(read), image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "taken.png" / "file").touch()
    with pytest.raises(OSError):
        save_png(tmp_path / "taken.png", np.zeros((2, 2, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8)])
def test_png_needs_a_uint8_image(tmp_path, image):
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "x.png", image)
    assert not list(tmp_path.iterdir())


def test_curves_are_drawn_in_their_colours(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `eval`")
    path = tmp_path / "curves.png"
    curves(
        path,
        {"a": ([0, 1, 2], [3.0, np.nan, 1.0]), "b": ([0], [2.0])},
        logarithmic=True,
    )
    with Image.open(path) as image:
        assert image.size == (960, 540)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}

    # The first two colours of matplotlib's cycle, one for each line.
    assert {(31, 119, 180), (255, 127, 14)} <= colours


def test_curves_name_the_extra_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[eval\]"):
        curves(tmp_path / "x.png", {"a": ([0], [1])})


@pytest.mark.parametrize("series", [{}, {"a": ([0, 1], [1])}])
def test_curves_need_as_many_steps_as_values(tmp_path, series):
    with pytest.raises(ValueError, match="steps"):
        curves(tmp_path / "x.png", series)
