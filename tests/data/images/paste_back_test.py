"""Drawn faces go back to their place in a photograph, in its colours."""

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.images.framing import cut_square
from facecycle_jax.data.images.paste_back import (
    blend_mask,
    match_colours,
    paste_face,
)

SQUARE = (40, 30, 140, 130)


@pytest.fixture
def photograph():
    """Smooth, so that shrinking and enlarging it loses little."""
    y, x = np.mgrid[:160, :200] / 200
    waves = [
        np.sin(5 * x + 3 * y),
        np.cos(4 * x - 2 * y),
        np.sin(3 * x) * np.cos(5 * y),
    ]
    return (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def face_of(photograph, square=SQUARE, size=64):
    crop = Image.fromarray(cut_square(photograph, square))
    return np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS))


def test_the_crop_itself_fits_back_without_a_seam(photograph):
    pasted = paste_face(photograph, face_of(photograph), SQUARE)
    assert pasted.shape == photograph.shape
    assert np.abs(pasted.astype(int) - photograph).max() <= 3


def test_a_face_off_its_place_is_seen(photograph):
    # What the tolerance of the test above is worth.
    shifted = np.roll(face_of(photograph), 3, axis=1)
    pasted = paste_face(photograph, shifted, SQUARE)
    assert np.abs(pasted.astype(int) - photograph).max() > 6


def test_nothing_outside_the_square_changes(photograph):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pasted = paste_face(photograph, noise, SQUARE)
    changed = (pasted != photograph).any(-1)
    assert changed[60:100, 70:110].mean() > 0.9

    left, top, right, bottom = SQUARE
    changed[top:bottom, left:right] = False
    assert not changed.any()

    # The edge is smooth: the border of the square shows the photograph.
    border = np.abs(pasted[top, left:right].astype(int) - photograph[top, left:right])
    assert border.max() == 0


def test_brightness_and_contrast_come_from_the_photograph(photograph):
    face = face_of(photograph).astype(float)
    other = np.clip(0.8 * (face - 128) + 150 - 20 * np.arange(3), 0, 255)
    pasted = paste_face(photograph, other.astype(np.uint8), SQUARE)
    assert np.abs(pasted.astype(int) - photograph).mean() < 2

    without = match_colours(photograph, face_of(photograph), SQUARE)
    np.testing.assert_allclose(without.gain, 1, atol=0.03)
    np.testing.assert_allclose(without.centre, without.target, atol=1)


def test_contrast_changes_within_bounds_and_flat_faces_stay_flat(photograph):
    flat = np.full((64, 64, 3), 100, np.uint8)
    gains = match_colours(photograph, flat, SQUARE).gain
    assert gains.max() <= 1.6
    pasted = paste_face(photograph, flat, SQUARE)
    assert pasted[75:85, 85:95].std(axis=(0, 1)).max() < 1


@pytest.mark.parametrize(
    "square", [(-30, -20, 70, 80), (150, 100, 250, 200), (-50, -50, 250, 250)]
)
def test_squares_may_reach_beyond_the_photograph(photograph, square):
    pasted = paste_face(photograph, face_of(photograph, square), square)
    assert pasted.shape == photograph.shape
    assert np.abs(pasted.astype(int) - photograph).mean() < 2


def test_a_square_outside_the_photograph_changes_nothing(photograph):
    face = np.zeros((64, 64, 3), np.uint8)
    pasted = paste_face(photograph, face, (300, 300, 400, 400))
    np.testing.assert_array_equal(pasted, photograph)
    assert pasted is not photograph


def test_the_mask_is_whole_in_the_middle_and_falls_to_zero():
    mask = blend_mask(100)
    assert mask[30:70, 30:70].min() == 1
    assert mask[0].max() == mask[:, -1].max() == 0
    np.testing.assert_allclose(mask, mask.T)

    # No step of more than a tenth between pixels.
    assert np.abs(np.diff(mask, axis=0)).max() < 0.1


@pytest.mark.parametrize(
    ("face", "square"),
    [
        (np.zeros((64, 60, 3), np.uint8), SQUARE),
        (np.zeros((64, 64, 3)), SQUARE),
        (np.zeros((64, 64), np.uint8), SQUARE),
        (np.zeros((64, 64, 3), np.uint8), (10, 10, 10, 10)),
        (np.zeros((64, 64, 3), np.uint8), (10, 10, 50, 40)),
    ],
)
def test_other_arrays_and_squares_are_refused(photograph, face, square):
    with pytest.raises(ValueError, match=r"must be uint8|square face"):
        paste_face(photograph, face, square)
