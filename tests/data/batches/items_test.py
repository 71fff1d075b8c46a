"""Items of several frames: which frames, in which order; pairs stay as they were."""

import zlib

import numpy as np
import pytest

from facecycle_jax.data.batches import sampling
from facecycle_jax.data.sources.tracks import Tracks

LENGTHS = (5, 1, 3, 8, 2, 6, 4)


def tracks(lengths=LENGTHS):
    frames = [list(range(n)) for n in lengths]
    return Tracks(
        frames=frames,
        identities=list("aabccde")[: len(lengths)],
        names=[str(i) for i in range(len(lengths))],
        origin="x",
    )


def draw(step, items, *, lengths=LENGTHS, batch_size=7, seed=0):
    table = sampling.make_table(tracks(lengths))
    drawn = sampling.draw_items(
        np.uint32(step), table, batch_size=batch_size, items=items, seed=seed
    )
    return {name: np.asarray(value) for name, value in drawn.items()}, table


@pytest.mark.parametrize(
    ("pairing", "checksum"), [("same", 2218052720), ("different", 3693364887)]
)
def test_pairs_are_those_of_earlier_versions(pairing, checksum):
    table = sampling.make_table(tracks(), mirrored=0.5)
    found = 0
    for step in range(5):
        drawn = sampling.draw_pairs(
            np.uint32(step), table, batch_size=6, pairing=pairing, seed=3
        )
        for name in sorted(drawn):
            found = zlib.crc32(np.asarray(drawn[name]).tobytes(), found)

    assert found == checksum


def test_unordered_items_are_different_frames_where_there_are_enough():
    items = sampling.Items(4)
    seen = set()
    for step in range(30):
        drawn, table = draw(step, items)
        # Every track once an epoch.
        assert sorted(drawn["track"][:, 0]) == list(range(len(LENGTHS)))
        for row in range(7):
            track = drawn["track"][row, 0]
            position = drawn["frame"][row] - table.first[track]
            assert (drawn["track"][row] == track).all()
            assert ((position >= 0) & (position < LENGTHS[track])).all()
            if LENGTHS[track] >= 4:
                assert len(set(position)) == 4
            if LENGTHS[track] == 5:
                seen.add(tuple(position))

    # Any frame may be first, and in any order.
    assert {positions[0] for positions in seen} == set(range(5))
    assert any(positions[0] > positions[1] for positions in seen)


def test_ordered_items_are_spaced_in_time():
    items = sampling.Items(4, "ordered", 2)
    assert items.offsets == (0, 1, 3, 5)
    starts = set()
    for step in range(30):
        drawn, table = draw(step, items, lengths=(8, 6, 9), batch_size=3)
        position = drawn["frame"] - np.asarray(table.first)[drawn["track"]]
        np.testing.assert_array_equal(
            position - position[:, :1], np.tile(items.offsets, (3, 1))
        )
        assert (position[:, -1] < np.asarray((8, 6, 9))[drawn["track"][:, 0]]).all()
        starts |= {
            int(position[row, 0]) for row in range(3) if drawn["track"][row, 0] == 2
        }

    # A track of nine has room for four anchors.
    assert starts == {0, 1, 2, 3}


def test_items_are_a_function_of_seed_and_step_alone():
    items = sampling.Items(3)
    for step in (0, 5):
        first, _ = draw(step, items, seed=1)
        again, _ = draw(step, items, seed=1)
        for name, value in first.items():
            np.testing.assert_array_equal(value, again[name])

    assert not np.array_equal(
        draw(0, items, seed=1)[0]["frame"], draw(0, items, seed=2)[0]["frame"]
    )
    assert not np.array_equal(draw(0, items)[0]["frame"], draw(1, items)[0]["frame"])


def test_items_that_cannot_be_drawn_are_refused():
    assert sampling.items_of({}) is None
    with pytest.raises(ValueError, match=r"item_order must be one of"):
        sampling.items_of({"item_frames": 2, "item_order": "backwards"})

    with pytest.raises(ValueError, match=r"both must be at least 1"):
        sampling.items_of({"item_frames": 2, "item_spacing": 0})

    with pytest.raises(
        ValueError, match=r"track of 1 frames.*span 4.*data\.min_frames=4"
    ):
        sampling.check_items(tracks(), sampling.Items(4, "ordered"))

    sampling.check_items(tracks(), sampling.Items(4))
