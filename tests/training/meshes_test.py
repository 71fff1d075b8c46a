"""Loss and gradients of real networks on several devices or processes, and sharded."""

import functools

import jax
import numpy as np
import pytest
from one_update import BATCH, one_update, settings
from several import ROOT, codes, start

from facecycle_jax import data
from facecycle_jax.training import sharding

METHODS = ("motion_cycle", "identity_cycle")


@functools.cache
def on_one_device(method):
    return one_update(method, devices=jax.devices()[:1])[0]


def assert_same(found, expected):
    names = {name for name in found if not name.startswith("data:")}
    assert names == set(expected)
    for name in names:
        a, b = found[name], expected[name]
        # Rounding, relative to the largest entry of the array: single entries may be
        # nearly 0.
        scale = np.abs(b).max()
        np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=2e-4 * scale + 1e-9, err_msg=name
        )


# Of what is not slow, devices/mesh_test.py compares numbers of a small network, and
# compile_check/compiling_test.py looks at what devices send each other.
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_give_the_numbers_of_one(method, monkeypatch):
    # Sharded parameters too, and small arrays, as these networks have no others.
    monkeypatch.setattr(sharding, "_MIN_SHARDED", 2**8)
    found, state, _ = one_update(method, fsdp=True)
    assert_same(found, on_one_device(method))
    for tree in (state.params, state.opt_state):
        leaves = jax.tree.leaves(tree)
        large = [
            x for x in leaves if x.size >= 2**8 and any(n % 8 == 0 for n in x.shape)
        ]
        assert large
        for leaf in large:
            assert leaf.addressable_shards[0].data.size == leaf.size // 8
    held = sum(
        x.addressable_shards[0].data.nbytes
        for x in jax.tree.leaves((state.params, state.opt_state))
    )
    whole = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    assert held < whole / 4


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_with_whole_parameters_give_the_numbers_of_one(method):
    assert_same(one_update(method)[0], on_one_device(method))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_with_four_devices_give_the_numbers_of_one(method, tmp_path):
    file = tmp_path / "arrays.npz"
    ended = start(
        2, str(ROOT / "tests" / "helpers" / "one_update.py"), method, str(file)
    )
    assert codes(ended) == [0, 0], ended
    found = dict(np.load(file))
    assert_same(found, on_one_device(method))
    # The parts, in the order of processes, are the batch of one process: no overlap and
    # no gap.
    whole = next(data.make_loader(settings(method), split="train").batches(5))
    np.testing.assert_array_equal(found["data:track"].reshape(BATCH, 2), whole["track"])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_accumulation_of_the_motion_cycle_equals_the_big_batch(devices):
    # Noise is drawn per micro-batch, so it is left out.
    big = one_update("motion_cycle", devices=jax.devices()[:1], noise=False)[0]
    small = one_update(
        "motion_cycle", devices=jax.devices()[:devices], accumulate=4, noise=False
    )[0]
    assert_same(small, big)


@pytest.mark.slow
def test_the_mean_face_of_accumulation_is_that_of_a_micro_batch():
    """So the identity cycle's loss is not that of the big batch.

    `StepOptions` and the docs say so.
    """
    update = functools.partial(
        one_update,
        "identity_cycle",
        devices=jax.devices()[:1],
        noise=False,
        consensus=1.0,
    )
    big = update()[0]
    small = update(accumulate=4)[0]
    assert np.isfinite(small["term:total"])

    # Four faces are nearer to their own mean than to that of all sixteen.
    assert small["term:l1/consensus"] < 0.95 * big["term:l1/consensus"]
