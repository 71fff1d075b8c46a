"""Frames on the devices give the batches of the other backends and move nothing."""

import functools
import itertools

import jax
import loader_batches
import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data import make_loader
from facecycle_jax.data.batches.device_memory import place_frames
from facecycle_jax.devices import batch_sharding, make_mesh

SIZE = 8
config = functools.partial(loader_batches.config, size=SIZE, batch_size=16)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five people of 1 to 5 images of noise: 15 frames, not a multiple of 8 devices."""
    path = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for person in range(5):
        (path / f"p{person}").mkdir()
        for frame in range(person + 1):
            image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(image).save(path / f"p{person}" / f"{frame}.png")
    return path


def test_frames_are_split_over_the_devices(tree):
    frames = make_loader(config(tree, "device"), split="train").frames
    assert len(frames) == 15
    placed = place_frames(frames, make_mesh())
    assert {shard.data.shape for shard in placed.addressable_shards} == {
        (2, SIZE, SIZE, 3)
    }
    np.testing.assert_array_equal(np.asarray(placed)[:15], frames)
    assert not np.asarray(placed)[15:].any()


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("method", ["motion_cycle", "identity_cycle"])
def test_batches_are_those_of_memory_and_nothing_moves(tree, method, devices):
    mesh = make_mesh(jax.devices()[:devices])
    feed = make_loader(config(tree, "device", method=method), split="train").on_devices(
        mesh
    )
    expected = make_loader(
        config(tree, "memory", method=method), split="train"
    ).batches(5)
    batches = feed(5)
    # The first call compiles and places the step's number.
    made = [next(batches)]
    with jax.transfer_guard("disallow"):
        made += list(itertools.islice(batches, 3))

    for batch, other in zip(made, expected, strict=False):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert value.sharding.is_equivalent_to(batch_sharding(mesh), value.ndim)
            assert value.dtype == other[name].dtype
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_each_slice_holds_all_frames_and_makes_its_part_of_the_batch(tree, monkeypatch):
    monkeypatch.setattr(
        "facecycle_jax.devices.mesh.slice_of", lambda device: device.id // 4
    )
    mesh = make_mesh()
    loader = make_loader(config(tree, "device"), split="train")
    placed = place_frames(loader.frames, mesh)
    for shard in placed.addressable_shards:
        begin = 4 * (shard.device.id % 4)
        expected = loader.frames[begin : begin + 4]
        np.testing.assert_array_equal(shard.data[: len(expected)], expected)

    expected = make_loader(config(tree, "memory"), split="train").batches(5)
    batches = loader.on_devices(mesh)(5)
    for batch, other in itertools.islice(zip(batches, expected, strict=False), 3):
        for name, value in batch.items():
            assert value.sharding.is_equivalent_to(batch_sharding(mesh), value.ndim)
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_other_backends_feed_from_the_host(tree):
    assert (
        make_loader(config(tree, "memory"), split="train").on_devices(make_mesh())
        is None
    )
