"""Figures of generated images: identity against a gallery, sharpness and likeness."""

import json
import tracemalloc

import numpy as np
import pytest

from facecycle_jax.evaluation.judges.face_figures import (
    FaceFigures,
    compare_identity,
    likeness,
    relative_sharpness,
    sharpness,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)


def test_kept_identity_is_perfect_and_lost_identity_is_chance():
    gallery = np.eye(6)
    own = np.arange(6)
    kept = compare_identity(gallery * 0.9, gallery, own, threshold=0.6)
    assert kept == (1.0, 1.0, 0.0, 1.0)
    # All images show the first person.
    lost = compare_identity(
        np.repeat(gallery[:1], 6, axis=0), gallery, own, threshold=0.6
    )
    assert lost.rank_1 == lost.accepted == pytest.approx(1 / 6)
    assert lost.false_accepted == pytest.approx(5 / 30)
    assert lost.auc == pytest.approx(0.5)


def test_the_gallery_may_hold_more_people_than_there_are_images():
    gallery = np.eye(5)
    found = compare_identity(gallery[[3, 1]], gallery, np.array([3, 0]), threshold=0.6)
    assert found.rank_1 == 0.5


def test_identities_of_many_people_are_compared_in_little_memory():
    codes = RNG.normal(size=(400, 128))
    tracemalloc.start()
    found = compare_identity(codes, codes, np.arange(400), threshold=0.6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All differences at once would be 164 MB.
    assert peak < 90e6
    assert found == (1.0, 1.0, 0.0, 1.0)


def test_blur_is_less_sharp_and_the_border_does_not_count():
    padded = np.pad(IMAGES.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = (padded[:, :-2, 1:-1] + padded[:, 1:-1, 1:-1] + padded[:, 2:, 1:-1]) / 3
    blurred = blurred.round().astype(np.uint8)
    assert relative_sharpness(IMAGES, IMAGES) == pytest.approx(1)
    assert relative_sharpness(blurred, IMAGES) < 0.8
    border = IMAGES.copy()
    border[:, :4] = border[:, :, -4:] = 0
    np.testing.assert_array_equal(sharpness(border), sharpness(IMAGES))
    assert np.isfinite(relative_sharpness(IMAGES, np.zeros_like(IMAGES)))


def test_equal_images_have_no_difference_and_black_ones_their_brightness():
    assert likeness(IMAGES, IMAGES) == (0.0, pytest.approx(1.0, abs=1e-5))
    difference, similarity = likeness(IMAGES, np.zeros_like(IMAGES))
    assert difference == pytest.approx(IMAGES.mean() / 255, abs=1e-4)
    assert similarity < 0.1


def test_figures_without_meaning_are_empty_cells():
    row = FaceFigures(found=0.5)
    assert row.cells()["face found %"] == "50.0"
    assert set(row.cells().values()) == {"50.0", ""}
    json.dumps(row.figures())
