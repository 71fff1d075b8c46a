"""Synthetic faces: true labels, constant people, and images that differ accordingly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax.data.sources import synthetic
from facecycle_jax.data.sources.synthetic import synthetic_tracks


@pytest.fixture(scope="module")
def drawn():
    return synthetic_tracks(0, identities=6, frames_per_track=4, size=32)


def middle():
    scene = {name: jnp.float32(mean) for name, (mean, _) in synthetic.SCENE.items()}
    return synthetic.mean_identity(), synthetic.neutral_motion(), scene


def draw(identity, motion, scene, **changes):
    parts = [dict(part) for part in (identity, motion, scene)]
    for name, value in changes.items():
        next(part for part in parts if name in part)[name] = jnp.float32(value)
    return np.asarray(synthetic.render(*parts, size=64)).astype(float)


def test_arrays_have_their_shapes_and_labels(drawn):
    assert drawn["frames"].shape == (24, 32, 32, 3)
    assert drawn["frames"].dtype == np.uint8
    np.testing.assert_array_equal(drawn["identity"], np.repeat(np.arange(6), 4))
    assert drawn["neutral"].shape == drawn["mean"].shape == (6, 32, 32, 3)
    assert set(drawn["motion"]) == set(synthetic.MOTION)
    assert all(value.shape == (24,) for value in drawn["motion"].values())


def test_rendering_from_the_labels_gives_the_image_again(drawn):
    for frame in (0, 5, 23):
        person = frame // 4
        identity, scene = (
            {name: value[person] for name, value in drawn[part].items()}
            for part in ("identity_parameters", "scene")
        )
        motion = {name: value[frame] for name, value in drawn["motion"].items()}
        again = np.asarray(synthetic.render(identity, motion, scene, size=32)).astype(
            int
        )
        # One level of rounding between a compiled batch and a single image.
        assert np.abs(again - drawn["frames"][frame].astype(int)).max() <= 1
        neutral = np.asarray(
            synthetic.render(identity, synthetic.neutral_motion(), scene, size=32)
        )
        assert (
            np.abs(neutral.astype(int) - drawn["neutral"][person].astype(int)).max()
            <= 1
        )


def test_seeds_give_other_people_and_the_same_ones_again(drawn):
    again = synthetic_tracks(0, identities=6, frames_per_track=4, size=32)
    np.testing.assert_array_equal(again["frames"], drawn["frames"])
    assert (
        synthetic_tracks(1, identities=6, frames_per_track=4, size=32)["frames"]
        != drawn["frames"]
    ).any()


def test_a_neutral_frontal_face_under_frontal_light_is_symmetric():
    identity, motion, scene = middle()
    face = draw(identity, motion, scene, parting=0.0, light_x=0.0)
    # The strands of hair are not symmetric.
    assert np.abs(face - face[:, ::-1]).mean() < 1


def test_yaw_turns_and_mirrors():
    parts = middle()
    right, left = draw(*parts, yaw=25.0), draw(*parts, yaw=-25.0)
    assert np.abs(right - left).mean() > 3
    assert np.abs(right - left[:, ::-1]).mean() < 1


@pytest.mark.parametrize(
    "name", sorted({**synthetic.IDENTITY, **synthetic.MOTION, **synthetic.SCENE})
)
def test_every_parameter_changes_the_image(name):
    parts = middle()
    table = {**synthetic.IDENTITY, **synthetic.MOTION, **synthetic.SCENE}
    mean, std = table[name]
    low, high = (
        draw(*parts, **{name: mean - 2 * std}),
        draw(*parts, **{name: mean + 2 * std}),
    )
    assert np.abs(low - high).max() > 8, name


def test_people_differ_more_than_frames_of_one_in_a_neutral_face(drawn):
    across = np.abs(drawn["neutral"][0].astype(float) - drawn["neutral"][1]).mean()
    assert across > 8


def test_draws_stay_within_two_standard_deviations():
    keys = jax.random.split(jax.random.key(0), 500)
    people = jax.vmap(synthetic.sample_identity)(keys)
    for name, (mean, std) in synthetic.IDENTITY.items():
        assert np.abs(people[name] - mean).max() <= 2 * std + 1e-5
        assert np.std(people[name]) > 0.7 * std
    motions = jax.vmap(synthetic.sample_motion)(keys)
    assert motions["mouth_open"].min() >= 0
    assert motions["eye_open"].min() >= 0.1
    assert motions["eye_open"].max() <= 1.2


def test_one_scene_for_everyone_where_scenes_do_not_vary():
    tracks = synthetic_tracks(
        0, identities=3, frames_per_track=4, size=32, scene_variation=0.0
    )
    for name, (mean, _) in synthetic.SCENE.items():
        np.testing.assert_allclose(tracks["scene"][name], mean, rtol=1e-6)
    people = tracks["identity_parameters"]["skin_tone"]
    assert len(set(people.tolist())) == 3
    with pytest.raises(ValueError, match="scene_variation must be 0 or more"):
        synthetic_tracks(
            0, identities=3, frames_per_track=4, size=32, scene_variation=-1.0
        )


def test_poses_and_expressions_vary_by_the_given_amount():
    # The same draws, scaled about the mean.
    options = {"identities": 3, "frames_per_track": 4, "size": 32}
    whole = synthetic_tracks(0, **options)["motion"]["yaw"]
    half = synthetic_tracks(0, **options, motion_variation=0.5)["motion"]["yaw"]
    np.testing.assert_allclose(half, whole / 2, rtol=1e-5)
    assert np.abs(whole).max() > 10
    with pytest.raises(ValueError, match="motion_variation must be 0 or more"):
        synthetic_tracks(0, **options, motion_variation=-1.0)


def test_a_set_is_rendered_once_and_shared_read_only(monkeypatch):
    first = synthetic_tracks(7, identities=2, frames_per_track=4, size=32)
    monkeypatch.setattr(synthetic, "render_each", None)
    again = synthetic_tracks(7, identities=2, frames_per_track=4, size=32)
    assert again["frames"] is first["frames"]
    assert again is not first
    with pytest.raises(ValueError, match="read-only"):
        again["frames"][0] = 0


def test_counts_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 4"):
        synthetic_tracks(0, identities=0, frames_per_track=4, size=32)
