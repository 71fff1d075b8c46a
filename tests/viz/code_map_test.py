"""The places of images in a map."""

import numpy as np
import pytest

from facecycle_jax.viz import thumbnail_map


def test_images_lie_where_their_points_are():
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])
    drawn = thumbnail_map(
        np.array([[0.0, 0.0], [2.0, 2.0], [2.0, 0.0]]), images, side=30, thumbnail=10
    )
    assert drawn.shape == (30, 30, 3)
    assert (drawn[20:, :10] == 10).all()
    assert (drawn[:10, 20:] == 20).all()
    assert (drawn[20:, 20:] == 30).all()
    assert (drawn[10:20] == 255).all()


def test_points_that_are_not_finite_and_thumbnails_that_do_not_fit_are_refused():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="finite points"):
        thumbnail_map(np.array([[0, np.nan], [1, 1]]), images)
    with pytest.raises(ValueError, match="1 to 20 pixels"):
        thumbnail_map(np.zeros((2, 2)), images, side=20, thumbnail=30)
