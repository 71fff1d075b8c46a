"""The comparison with true faces, on models whose answer is known."""

import numpy as np
import pytest

from facecycle_jax import data
from facecycle_jax.data.sources.synthetic_truth import (
    compare_with_truth,
    describe_truth,
)


def test_a_model_that_changes_nothing_gains_nothing():
    figures, images = compare_with_truth(
        lambda x: {"neutral": x}, seed=0, size=32, people=3
    )
    assert figures["neutral_after"] == pytest.approx(
        figures["neutral_before"], abs=1e-6
    )
    assert figures["neutral_apart"] == pytest.approx(figures["frames_apart"], abs=1e-6)
    assert figures["neutral_before"] > 0.01
    assert {name: p.shape for name, p in images.items()} == dict.fromkeys(
        ("input", "neutral", "true neutral"), (3, 32, 32, 3)
    )


def test_a_model_that_knows_the_truth_has_no_error():
    truth = data.synthetic_tracks(1_000_003, identities=3, frames_per_track=2, size=32)
    drawn = {
        "neutral": np.repeat(truth["neutral"], 2, axis=0),
        "mean_face": np.repeat(truth["mean"], 2, axis=0),
    }
    figures, _ = compare_with_truth(lambda _: drawn, seed=0, size=32, people=3)
    for name in ("neutral_after", "neutral_apart", "mean_after"):
        assert figures[name] == 0.0
    assert figures["mean_before"] == figures["mean_true_neutral"] > 0.01
    table = describe_truth(figures).splitlines()
    assert [line.split("  ")[0] for line in table[1:]] == [
        "neutral face, error",
        "neutral faces, difference",
        "mean face, error",
        "mean faces, difference",
    ]
    # Two numbers and a sentence in each row.
    assert " 0.000  Distance to the person's true face" in table[1]
    assert all(line.endswith(".") for line in table[1:])


def test_a_model_that_knows_everyones_motion_exchanges_it_without_error():
    _, images = compare_with_truth(
        lambda x: {"neutral": x},
        seed=0,
        size=32,
        people=3,
        reexpress=lambda source, driver: source,
    )
    figures, _ = compare_with_truth(
        lambda x: {"neutral": x},
        seed=0,
        size=32,
        people=3,
        reexpress=lambda source, driver: images["true other's motion"],
    )
    assert figures["exchange_after"] == 0.0
    assert figures["exchange_before"] > 0.01
    assert "exchanged motion, error" in describe_truth(figures)
    np.testing.assert_array_equal(images["other"], np.roll(images["input"], -1, axis=0))
    # The scene and the person stay: only the head moves, so the corners are those of
    # the input.
    true = images["true other's motion"]
    np.testing.assert_allclose(
        true[:, :3, :3].astype(int), images["input"][:, :3, :3], atol=1
    )


def test_scenes_vary_by_the_given_amount():
    _, images = compare_with_truth(
        lambda x: {"neutral": x}, seed=0, size=32, people=3, scene_variation=0.0
    )
    corners = images["input"][:, :3, :3].astype(int)
    np.testing.assert_allclose(
        corners, np.broadcast_to(corners[:1], corners.shape), atol=1
    )


def test_poses_vary_by_the_given_amount():
    _, images = compare_with_truth(
        lambda x: {"neutral": x}, seed=0, size=32, people=2, motion_variation=0.0
    )
    # The mean expression is not a neutral one, but every head faces the camera.
    faces = images["input"].astype(int)
    for face, neutral in zip(faces, images["true neutral"].astype(int), strict=True):
        np.testing.assert_allclose(face[:8], neutral[:8], atol=1)


@pytest.mark.slow  # three programs
def test_people_are_others_than_those_of_training():
    _, images = compare_with_truth(lambda x: {"neutral": x}, seed=5, size=32, people=2)
    trained = data.synthetic_tracks(5, identities=8, frames_per_track=1, size=32)[
        "neutral"
    ]
    for face in images["true neutral"]:
        assert not any(np.array_equal(face, other) for other in trained)
