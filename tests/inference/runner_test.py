"""Batches of pictures.

Split over devices where that pays, and the same numbers however they are split.
"""

import concurrent.futures
import threading
import time
import types

import jax
import numpy as np
import pytest

from facecycle_jax.inference.runner import Batches, devices_for


def scaled(forward, trees, pictures, *, by=1.0):
    """Stands in for a network; its forward is not used."""
    return {
        "sum": pictures.sum(axis=(1, 2)) @ trees["net"]["kernel"] * by,
        "input": pictures,
    }


TREES = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2)}}


def pictures(count):
    return np.random.default_rng(0).random((count, 4, 4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("platform", "count", "there", "used"),
    [
        ("cpu", 1, 2, 1), ("cpu", 2, 2, 1), ("cpu", 4, 2, 2), ("cpu", 64, 64, 32), ("cpu", 64, 6, 4),
        ("gpu", 1, 8, 1), ("gpu", 2, 8, 2), ("gpu", 64, 8, 8), ("tpu", 64, 6, 4), ("gpu", 64, 1, 1),
    ],
)  # fmt: skip
def test_every_device_gets_as_many_pictures_as_it_needs(platform, count, there, used):
    assert (
        devices_for(count, [types.SimpleNamespace(platform=platform)] * there) == used
    )


@pytest.mark.parametrize("count", [1, 2, 5, 16, 19])
def test_numbers_do_not_depend_on_devices(count):
    x = pictures(count)
    split = Batches(None, TREES, batch_size=16)
    alone = Batches(None, TREES, batch_size=3, devices=jax.local_devices()[2:3])
    for batches in (split, alone):
        outputs = batches.run(scaled, x, by=2.0)
        np.testing.assert_allclose(
            outputs["sum"], x.sum((1, 2)) @ TREES["net"]["kernel"] * 2, rtol=1e-5
        )
        np.testing.assert_array_equal(outputs["input"], x)


def test_devices_get_the_parameters_when_they_are_needed():
    devices = jax.local_devices()[:4]
    batches = Batches(None, TREES, batch_size=8, devices=devices)
    found = []

    def look(forward, trees, pictures):
        jax.debug.inspect_array_sharding(
            pictures, callback=lambda s: found.append(len(s.device_set))
        )
        return {"all": pictures}

    batches.run(look, pictures(2))
    assert len(batches._copies) == 1
    batches.run(look, pictures(8))
    assert [
        next(iter(c["net"]["kernel"].devices())) for c in batches._copies
    ] == devices
    # Ragged ends are filled up, to as many devices as their size needs.
    batches.run(look, pictures(3))
    assert found == [1, 4, 2]
    assert len(batches._copies) == 4
    assert batches.trees["net"]["kernel"].devices() == {devices[0]}


def test_parameters_go_along_with_arrays_that_are_elsewhere():
    batches = Batches(None, TREES, batch_size=8)
    elsewhere = jax.device_put(pictures(2), jax.local_devices()[3])
    assert (
        elsewhere.sum((1, 2)) @ batches.trees["net"]["kernel"]
    ).devices() == elsewhere.devices()
    with jax.default_device(jax.local_devices()[2]):
        chosen = Batches(None, TREES, batch_size=8)
    x = pictures(8)
    for one in (
        chosen,
        Batches(None, batches.trees, batch_size=8, devices=jax.local_devices()[1:3]),
    ):
        np.testing.assert_allclose(
            one.run(scaled, x)["sum"], batches.run(scaled, x)["sum"], rtol=1e-5
        )
    assert len(chosen._copies) == 1
    assert chosen.trees["net"]["kernel"].devices() == {jax.local_devices()[2]}


def test_threads_that_ask_at_once_compile_once():
    batches = Batches(None, TREES, batch_size=8)
    x = pictures(8)
    traced, compiled = [], []
    together = threading.Barrier(4)

    def slow(forward, trees, images):
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
                expected = x.sum((1, 2)) @ TREES["net"]["kernel"]
                np.testing.assert_allclose(answer.result(), expected, rtol=1e-5)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(traced) == 1
    assert len(compiled) == 1
    # The parameters went to each device once.
    assert len(batches._copies) == devices_for(8, jax.local_devices())


def test_lowering_tells_the_program_that_runs():
    batches = Batches(None, TREES, batch_size=8)
    lowered = batches.lower(scaled, pictures(3), by=2.0)
    assert lowered.out_info["sum"].shape == (4, 2)
    assert lowered.cost_analysis()["flops"] > 0


def test_what_cannot_be_run_is_told():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(None, TREES, batch_size=0)
    with pytest.raises(ValueError, match="devices must name one"):
        Batches(None, TREES, batch_size=1, devices=[])
    with pytest.raises(ValueError, match="There is no image"):
        Batches(None, TREES, batch_size=1).run(scaled, pictures(0))
