"""The update: schedule, accumulation, averages, skipped updates, several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training

from facecycle_jax import training
from facecycle_jax.devices import make_mesh

OPTIONS = {"b1": 0.5, "b2": 0.999, "clip_norm": 0.0}


def make(*, devices=1, fsdp=False, optimiser=None, noise=0.0, **options):
    mesh = make_mesh(jax.devices()[:devices])
    method = toy_training.toy_method(noise=noise)
    optimiser = optimiser or optax.sgd(0.1)
    options = training.StepOptions(**options)

    def init(key):
        return training.init_state(
            key, method=method, optimiser=optimiser, average=options.ema_decay > 0
        )

    key = jax.random.key(0)
    shardings = training.state_shardings(mesh, jax.eval_shape(init, key), fsdp=fsdp)
    state = jax.jit(init, out_shardings=shardings)(key)
    step = training.make_train_step(
        method,
        optimiser,
        augment=lambda key, batch: toy_training.plain_pairs(batch, size=8),
        options=options,
        mesh=mesh,
        shardings=shardings,
    )
    return step, state, mesh


def batch(mesh, *, value=None, seed=0, size=16):
    frames = np.random.default_rng(seed).integers(
        0, 255, (size, 2, 8, 8, 3), dtype=np.uint8
    )
    if value is not None:
        frames[:] = value
    return training.put_batch({"frames": frames}, mesh)


def assert_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance)


def test_the_whole_state_is_updated_in_place():
    """Donation: every byte of the old state is reused for the new one."""
    step, state, mesh = make(optimiser=optax.adam(1e-3), ema_decay=0.9)
    memory = step.lower(state, batch(mesh)).compile().memory_analysis()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    # Buffers are rounded up to whole words of the allocator.
    assert memory.alias_size_in_bytes >= held


def test_schedules_of_the_paper():
    from facecycle_jax.configs import identity_cycle, motion_cycle

    stage1 = training.make_schedule(
        motion_cycle.get_config().optimiser, steps_per_epoch=7
    )
    stage2 = training.make_schedule(
        identity_cycle.get_config().optimiser, steps_per_epoch=7
    )
    for epoch, rate in {0: 1e-5, 1: 5e-5, 19: 5e-5, 20: 1e-5, 39: 1e-5}.items():
        for step in (7 * epoch, 7 * epoch + 6):
            np.testing.assert_allclose(stage1(step), rate, rtol=1e-6)
    for epoch, rate in {0: 5e-5, 1: 1e-4, 9: 1e-4, 10: 1e-5, 19: 1e-5}.items():
        for step in (7 * epoch, 7 * epoch + 6):
            np.testing.assert_allclose(stage2(step), rate, rtol=1e-6)


def test_a_schedule_is_stretched_from_its_own_length_to_that_of_the_run():
    options = {
        "schedule_epochs": (0, 1, 20),
        "schedule_rates": (1.0, 2.0, 3.0),
        "cosine_epochs": 40,
        "schedule_length_epochs": 40,
    }
    # 40 epochs of 7 steps become 100 steps: an epoch is 2.5 of them.
    unit = training.schedule_epoch(options, steps_per_epoch=7, total_steps=100)
    assert unit == 2.5
    schedule = training.make_schedule(options, steps_per_epoch=unit)
    for step, rate, epoch in [(0, 1, 0), (2, 2, 0), (49, 2, 19), (50, 3, 20)]:
        falling = 0.5 * (1 + np.cos(np.pi * epoch / 40))
        np.testing.assert_allclose(schedule(step), rate * falling, rtol=1e-6)

    # The length in steps wins; as planned, or without a length, nothing changes.
    lengths = {"schedule_length_steps": 140, "schedule_length_epochs": 40}
    for given, total, expected in [
        (lengths, 70, 3.5),
        (lengths, 140, 7),
        ({"schedule_length_epochs": 10}, 70, 7),
        ({}, 70, 7),
    ]:
        found = training.schedule_epoch(given, steps_per_epoch=7, total_steps=total)
        assert found == expected


@pytest.mark.parametrize(
    ("epochs", "rates", "said"),
    [
        ((0, 1), (1.0,), "2 entries"),
        ((1,), (1.0,), "rise from 0"),
        ((0,), (-1.0,), "negative"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(epochs, rates, said):
    config = {"schedule_epochs": epochs, "schedule_rates": rates}
    with pytest.raises(ValueError, match=said):
        training.make_schedule(config, steps_per_epoch=3)


def test_the_optimiser_is_adam_at_the_scheduled_rate():
    optimiser = training.make_optimiser(OPTIONS, lambda count: 0.1 * (count + 1))
    params = jnp.zeros(3)
    state = optimiser.init(params)
    # Adam's first steps of a constant gradient are the learning rate itself.
    for rate in (0.1, 0.2):
        updates, state = optimiser.update(jnp.array([1.0, -2.0, 5.0]), state, params)
        np.testing.assert_allclose(updates, [-rate, rate, -rate], rtol=1e-5)


def test_clipping_bounds_the_gradient():
    options = {**OPTIONS, "clip_norm": 1.0}
    given = training.make_optimiser(options, optax.constant_schedule(1.0))
    state = given.init(jnp.zeros(2))
    a, _ = given.update(jnp.array([30.0, 40.0]), state)
    b, _ = given.update(jnp.array([0.6, 0.8]), state)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_accumulation_equals_the_big_batch():
    for accumulate in (2, 4):
        results = []
        for n in (1, accumulate):
            step, state, mesh = make(accumulate=n, noise=0.0)
            results.append(step(state, batch(mesh)))
        assert_close(results[0][0].params, results[1][0].params, rtol=1e-5, atol=1e-7)
        a, b = results[0][1].compute(), results[1][1].compute()
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("fsdp", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_equal_one(fsdp, accumulate):
    step, state, mesh = make(devices=1, noise=0.1)
    one, terms_one = step(state, batch(mesh))
    step, state, mesh = make(devices=8, fsdp=fsdp, accumulate=accumulate, noise=0.1)
    if fsdp:
        kernel = state.params["generator"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8
    if accumulate > 1:
        # Noise is drawn per micro-batch, so compare with as many on one device.
        step1, state1, mesh1 = make(devices=1, accumulate=accumulate, noise=0.1)
        one, terms_one = step1(state1, batch(mesh1))
    eight, terms_eight = step(state, batch(mesh))
    # SGD: the change of a parameter is its gradient.
    assert_close(one.params, eight.params, rtol=1e-5, atol=1e-6)
    assert terms_one.compute() == pytest.approx(terms_eight.compute(), rel=1e-5)


def test_updates_that_are_not_finite_are_skipped_and_counted():
    step, state, mesh = make(optimiser=optax.adam(0.1), ema_decay=0.9)
    state, _ = step(state, batch(mesh))
    before = jax.device_get(state)
    for in_row in (1, 2):
        state, terms = step(state, batch(mesh, value=255))
        assert int(state.nonfinite_in_row) == in_row
        assert terms.compute() == {"skipped": 1.0}
    after = jax.device_get(state)
    for name in ("params", "opt_state", "ema"):
        for x, y in zip(
            jax.tree.leaves(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y)
    state, terms = step(state, batch(mesh))
    assert int(state.step) == 4
    assert int(state.nonfinite_total) == 2
    assert int(state.nonfinite_in_row) == 0
    assert terms.compute()["skipped"] == 0.0
    assert not np.array_equal(
        np.asarray(state.params["generator"]["kernel"]),
        before.params["generator"]["kernel"],
    )


def test_the_weight_average_follows_slowly():
    step, state, mesh = make(ema_decay=0.9)
    start = jax.device_get(state.params)
    state, _ = step(state, batch(mesh))
    # The first decay is (1 + 0) / (10 + 0).
    expected = jax.tree.map(
        lambda a, b: 0.1 * a + 0.9 * b, start, jax.device_get(state.params)
    )
    assert_close(state.ema, expected, rtol=1e-5, atol=1e-7)
    assert state.eval_params is state.ema


def test_noise_depends_on_the_step_and_the_seed_alone():
    def losses(**options):
        step, state, mesh = make(optimiser=optax.sgd(0.0), noise=1.0, **options)
        found = []
        for _ in range(2):
            state, terms = step(state, batch(mesh))
            found.append(terms.compute()["total"])
        return found

    first = losses(seed=1)
    assert first == losses(seed=1)
    assert first[0] != first[1]
    assert first[0] != losses(seed=2)[0]


def test_batches_that_cannot_be_split_are_refused():
    mesh = make_mesh()
    training.check_batch(16, accumulate=2, mesh=mesh)
    with pytest.raises(
        ValueError, match=r"batch_size 12 .*accumulate 1 times the 8 devices"
    ):
        training.check_batch(12, accumulate=1, mesh=mesh)
    with pytest.raises(ValueError, match="at least 1"):
        training.check_batch(8, accumulate=0, mesh=mesh)
    table = training.describe(mesh, batch_size=16, accumulate=2)
    assert "data=8" in table
    assert "16 items" in table


def test_averages_leave_masked_values_out():
    one = training.Averages.of({"a": jnp.array(1.0)})
    three = training.Averages.of({"a": jnp.array(3.0)})
    broken = training.Averages.of({"a": jnp.array(jnp.nan)}, mask=jnp.array(False))
    assert one.merge(three).merge(broken).compute() == {"a": 2.0}
    assert broken.compute() == {}
