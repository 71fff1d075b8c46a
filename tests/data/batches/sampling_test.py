"""Draws are pure functions of seed and step, with complete epochs and true pairs."""

import jax
import numpy as np
import pytest

from facecycle_jax.data.batches.sampling import (
    check_pairing,
    draw_pairs,
    make_table,
    permute,
)
from facecycle_jax.data.sources.tracks import make_tracks


def tracks_of(counts):
    """Tracks of persons a, b, ...: counts[p] lists the frames of each of p's tracks."""
    found = []
    for person, tracks in enumerate(counts):
        for number, frames in enumerate(tracks):
            name = f"p{person:03}/t{number}"
            files = [f"{person}-{number}-{i}" for i in range(frames)]
            found.append((f"p{person:03}", name, files))

    return make_tracks(found, origin="the test")


def draw(tracks, step, *, batch_size=8, pairing="same", seed=0, mirrored=0.0):
    table = make_table(tracks, mirrored=mirrored)
    drawn = draw_pairs(
        np.uint32(step), table, batch_size=batch_size, pairing=pairing, seed=seed
    )
    return {name: np.asarray(value) for name, value in drawn.items()}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permute_is_one_to_one(size):
    index = np.arange(size, dtype=np.uint32)
    for seed in (0, 1, 12345):
        assert sorted(
            np.asarray(permute(index, size=size, seed=np.uint32(seed)))
        ) == list(range(size))


def test_permute_shuffles_and_differs_by_seed():
    index = np.arange(1000, dtype=np.uint32)
    one, two = (
        np.asarray(permute(index, size=1000, seed=np.uint32(s))).astype(int)
        for s in (1, 2)
    )
    assert np.mean(one == index) < 0.01
    assert np.mean(one == two) < 0.01
    # No order is left: rank correlation with the identity is that of noise, 1 /
    # sqrt(1000).
    assert abs(np.corrcoef(one, index)[0, 1]) < 0.12


def test_an_epoch_shows_every_track_once():
    tracks = tracks_of([[2, 3], [4], [5, 2, 2]] * 4)
    size = len(tracks)
    assert size == 24
    for epoch in range(3):
        seen = [draw(tracks, 3 * epoch + step)["track"][:, 0] for step in range(3)]
        assert sorted(np.concatenate(seen)) == list(range(size))


def test_same_pairs_are_two_different_frames_of_one_track():
    tracks = tracks_of([[2, 3], [4, 1], [9]])
    table = make_table(tracks)
    last = table.first + table.frames
    seen = set()
    for step in range(200):
        batch = draw(tracks, step)
        track, frame = batch["track"], batch["frame"]
        assert (track[:, 0] == track[:, 1]).all()
        assert (batch["identity"][:, 0] == batch["identity"][:, 1]).all()
        assert ((frame >= table.first[track]) & (frame < last[track])).all()
        np.testing.assert_array_equal(batch["mirror"], table.frames[track[:, 0]] == 1)
        assert ((frame[:, 0] == frame[:, 1]) == batch["mirror"]).all()
        seen |= set(frame.ravel().tolist())

    # Every frame is drawn, the last one of a track too.
    assert seen == set(range(19))


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_frames_are_paired_with_their_mirror_image_with_the_given_probability(
    probability,
):
    tracks = tracks_of([[5, 1, 3, 9]])
    drawn = [
        draw(tracks, step, batch_size=64, mirrored=probability) for step in range(25)
    ]
    frame, mirror = (
        np.concatenate([batch[name] for batch in drawn]) for name in ("frame", "mirror")
    )
    np.testing.assert_array_equal(frame[:, 0] == frame[:, 1], mirror)
    single = np.concatenate([batch["track"][:, 0] for batch in drawn]) == 1
    assert mirror[single].all()
    # 1200 throws.
    assert abs(mirror[~single].mean() - probability) <= 4 * np.sqrt(
        probability * (1 - probability) / 1200
    )
    np.testing.assert_array_equal(
        draw(tracks, 3, batch_size=64, mirrored=probability)["mirror"],
        drawn[3]["mirror"],
    )


def test_each_track_has_its_own_share_of_mirror_images():
    tracks = tracks_of([[5], [4], [9]])
    for step in range(30):
        batch = draw(tracks, step, mirrored=np.array([0.0, 1.0, 0.0]))
        np.testing.assert_array_equal(batch["mirror"], batch["track"][:, 0] == 1)


def test_frames_of_a_track_are_drawn_evenly():
    tracks = tracks_of([[10]])
    frames = np.concatenate(
        [draw(tracks, step, batch_size=64)["frame"] for step in range(64)]
    )
    for column in (0, 1):
        counts = np.bincount(frames[:, column], minlength=10)
        expected = len(frames) / 10
        # Chi-squared of nine degrees of freedom: beyond 27.9 once in a thousand.
        assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_different_pairs_never_show_one_person_twice():
    tracks = tracks_of([[2, 3, 5], [4], [1, 1], [7]])
    table = make_table(tracks)
    partners = set()
    for step in range(200):
        batch = draw(tracks, step, pairing="different", mirrored=0.5)
        assert (batch["identity"][:, 0] != batch["identity"][:, 1]).all()
        np.testing.assert_array_equal(batch["identity"], table.identity[batch["track"]])
        assert not batch["mirror"].any()
        partners |= set(batch["track"][:, 1].tolist())

    assert partners == set(range(len(tracks)))


def test_draws_depend_on_seed_and_step_alone():
    tracks = tracks_of([[3]] * 50)
    for name, value in draw(tracks, 10**6).items():
        np.testing.assert_array_equal(value, draw(tracks, 10**6)[name])
    assert (draw(tracks, 5)["track"] != draw(tracks, 6)["track"]).any()
    assert (draw(tracks, 5)["track"] != draw(tracks, 5, seed=1)["track"]).any()


def test_two_people_are_needed_for_stage_2():
    one = tracks_of([[3, 3]])
    with pytest.raises(ValueError, match=r"the test shows one person, 'p000'"):
        check_pairing(one, pairing="different")
    check_pairing(one, pairing="same")
    with pytest.raises(ValueError, match="pairing must be one of"):
        check_pairing(one, pairing="other")


def test_drawing_compiles_once():
    tracks = tracks_of([[3]] * 5)
    draw(tracks, 0)
    before = draw_pairs._cache_size()
    for step in range(1, 20):
        draw(tracks, step)

    assert draw_pairs._cache_size() == before
    assert isinstance(
        draw_pairs(
            np.uint32(0), make_table(tracks), batch_size=8, pairing="same", seed=0
        )["frame"],
        jax.Array,
    )
