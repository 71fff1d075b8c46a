import sys

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.viz import curves, save_png


def test_png_holds_the_very_picture_and_nothing_is_left_beside(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "deep" / "picture.png"
    save_png(path, picture)
    save_png(path, picture)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "taken.png" / "file").touch()
    with pytest.raises(OSError):
        save_png(tmp_path / "taken.png", np.zeros((2, 2, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize(
    "picture", [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8)]
)
def test_png_needs_a_picture(tmp_path, picture):
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "x.png", picture)
    assert not list(tmp_path.iterdir())


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `eval`")
    path = tmp_path / "curves.png"
    curves(
        path,
        {"a": ([0, 1, 2], [3.0, np.nan, 1.0]), "b": ([0], [2.0])},
        logarithmic=True,
    )
    with Image.open(path) as image:
        assert image.size == (960, 540)


def test_curves_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[eval\]"):
        curves(tmp_path / "x.png", {"a": ([0], [1])})


@pytest.mark.parametrize("series", [{}, {"a": ([0, 1], [1])}])
def test_curves_need_matching_lines(tmp_path, series):
    with pytest.raises(ValueError, match="steps"):
        curves(tmp_path / "x.png", series)
