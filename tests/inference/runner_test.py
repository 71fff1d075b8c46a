"""Batches of images give the same numbers however they are split over devices."""

import concurrent.futures
import gc
import threading
import time
import types

import jax
import numpy as np
import pytest

from facecycle_jax.inference import runner
from facecycle_jax.inference.runner import Batches, devices_for


def scaled(networks, trees, images, *, by=1.0):
    """Stands in for a network; the networks are not used."""
    total = images.sum(axis=(1, 2)) @ trees["net"]["kernel"]
    return {"sum": total * by, "input": images}


TREES = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2)}}


def random_images(count):
    return np.random.default_rng(0).random((count, 4, 4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("platform", "count", "available", "used"),
    [
        ("cpu", 1, 2, 1),
        ("cpu", 2, 2, 1),
        ("cpu", 4, 2, 2),
        ("cpu", 64, 64, 32),
        ("cpu", 64, 6, 4),
        ("gpu", 1, 8, 1),
        ("gpu", 2, 8, 2),
        ("gpu", 64, 8, 8),
        ("tpu", 64, 6, 4),
        ("gpu", 64, 1, 1),
    ],
)
def test_a_batch_uses_the_most_devices_that_divide_it(platform, count, available, used):
    devices = [types.SimpleNamespace(platform=platform)] * available
    assert devices_for(count, devices) == used


@pytest.mark.parametrize("count", [1, 2, 5, 16, 19])
def test_numbers_do_not_depend_on_devices(count):
    x = random_images(count)
    expected = x.sum((1, 2)) @ TREES["net"]["kernel"] * 2

    split = Batches(None, TREES, batch_size=16)
    alone = Batches(None, TREES, batch_size=3, devices=jax.local_devices()[2:3])
    for batches in (split, alone):
        outputs = batches.run(scaled, x, by=2.0)
        np.testing.assert_allclose(outputs["sum"], expected, rtol=1e-5)
        np.testing.assert_array_equal(outputs["input"], x)


def test_no_more_than_two_batches_are_on_the_devices(monkeypatch):
    batches = Batches(None, TREES, batch_size=4, devices=jax.local_devices()[:1])
    x = random_images(40)
    held = []
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}

    def look(whole, start, outputs, *, count):
        of_run = [a for a in jax.live_arrays() if id(a) not in before]
        held.append(len([a for a in of_run if a.shape == (4, 4, 4, 3)]))
        store(whole, start, outputs, count=count)

    store = runner._store
    monkeypatch.setattr(runner, "_store", look)
    outputs = batches.run(scaled, x)
    np.testing.assert_array_equal(outputs["input"], x)
    assert outputs["input"].flags.writeable

    # One input and one output of each batch.
    assert len(held) == 10
    assert max(held) <= 4


def test_devices_get_the_parameters_when_they_are_needed():
    devices = jax.local_devices()[:4]
    batches = Batches(None, TREES, batch_size=8, devices=devices)
    found = []

    def look(networks, trees, images):
        jax.debug.inspect_array_sharding(
            images, callback=lambda s: found.append(len(s.device_set))
        )
        return {"all": images}

    batches.run(look, random_images(2))
    assert len(batches._copies) == 1
    batches.run(look, random_images(8))
    used = [next(iter(copy["net"]["kernel"].devices())) for copy in batches._copies]
    assert used == devices

    # Ragged ends are padded, and split over as many devices as their size needs.
    batches.run(look, random_images(3))
    assert found == [1, 4, 2]
    assert len(batches._copies) == 4
    assert batches.trees["net"]["kernel"].devices() == {devices[0]}


def test_parameters_work_with_arrays_on_any_device():
    batches = Batches(None, TREES, batch_size=8)
    elsewhere = jax.device_put(random_images(2), jax.local_devices()[3])
    product = elsewhere.sum((1, 2)) @ batches.trees["net"]["kernel"]
    assert product.devices() == elsewhere.devices()

    with jax.default_device(jax.local_devices()[2]):
        chosen = Batches(None, TREES, batch_size=8)
    named = Batches(None, batches.trees, batch_size=8, devices=jax.local_devices()[1:3])

    x = random_images(8)
    expected = batches.run(scaled, x)["sum"]
    for one in (chosen, named):
        np.testing.assert_allclose(one.run(scaled, x)["sum"], expected, rtol=1e-5)
    assert len(chosen._copies) == 1
    assert chosen.trees["net"]["kernel"].devices() == {jax.local_devices()[2]}


def test_threads_that_ask_at_once_compile_once():
    batches = Batches(None, TREES, batch_size=8)
    x = random_images(8)
    expected = x.sum((1, 2)) @ TREES["net"]["kernel"]
    traced = []
    compiled = []
    together = threading.Barrier(4)

    def slow(networks, trees, images):
        traced.append(threading.get_ident())
        time.sleep(0.2)
        return {"sum": images.sum(axis=(1, 2)) @ trees["net"]["kernel"]}

    def ask():
        together.wait()
        return batches.run(slow, x)["sum"]

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(ask) for _ in range(4)]
            for answer in answers:
                np.testing.assert_allclose(answer.result(), expected, rtol=1e-5)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)

    assert len(traced) == 1
    assert len(compiled) == 1
    # The parameters went to each device once.
    assert len(batches._copies) == devices_for(8, jax.local_devices())


def test_lowering_gives_the_program_that_runs():
    batches = Batches(None, TREES, batch_size=8)
    lowered = batches.lower(scaled, random_images(3), by=2.0)
    assert lowered.out_info["sum"].shape == (4, 2)
    assert lowered.cost_analysis()["flops"] > 0


def test_empty_batches_and_wrong_options_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(None, TREES, batch_size=0)
    with pytest.raises(ValueError, match="devices must name one"):
        Batches(None, TREES, batch_size=1, devices=[])
    with pytest.raises(ValueError, match="There is no image"):
        Batches(None, TREES, batch_size=1).run(scaled, random_images(0))
