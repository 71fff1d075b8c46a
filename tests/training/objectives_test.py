"""Updates beyond one gradient step: statistics, objectives, rates, curricula."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from facecycle_jax import training
from facecycle_jax.devices import make_mesh
from facecycle_jax.losses import (
    move_curriculum,
    start_curriculum,
    window_bounds,
    windowed_mean,
)
from facecycle_jax.methods import Aux, Method, Objective
from facecycle_jax.methods.base import (
    BATCH_STATS,
    SCHEDULE,
    apply_with_stats,
    init_with_stats,
)
from facecycle_jax.networks.batch_norm import BatchNorm


class Normed(nn.Module):
    """A dense layer and a normalisation."""

    @nn.compact
    def __call__(self, x, *, train):
        return BatchNorm(name="norm")(nn.Dense(5, name="dense")(x), train=train)


def normed_method(*, rate=None):
    """A method with the loss of a normalised layer, alone and with a second loss."""
    network = Normed()

    def init(key):
        params, stats = init_with_stats({"normed": (network, jnp.zeros((1, 3)))}, key)
        params["plain"] = {"kernel": jnp.ones((3, 2))}
        return params, {
            BATCH_STATS: stats,
            SCHEDULE: {"count": jnp.zeros((), jnp.int32)},
        }

    def first(params, frozen, images, key):
        x = jnp.mean(images, axis=(1, 2, 3))
        train = key is not None
        y, stats = apply_with_stats(
            network, "normed", {**frozen, **params}, frozen[BATCH_STATS], x, train=train
        )
        total = jnp.mean(jnp.sin(3 * y))
        count = frozen[SCHEDULE]["count"] + 1
        carried = {BATCH_STATS: stats, SCHEDULE: {"count": count}} if train else {}
        return total, Aux({"sine": total, "total": total}, {"input": x}, carried, rate)

    def second(params, frozen, images, key):
        x = jnp.mean(images, axis=(1, 2, 3))
        total = jnp.mean((x @ params["plain"]["kernel"]) ** 2)
        # What the first step left is seen here.
        total = total + 0.0 * frozen[SCHEDULE]["count"]
        return total, Aux(
            {"seen": frozen[SCHEDULE]["count"] * 1.0, "total": total}, {}, {}
        )

    def loss(params, frozen, images, key):
        return first(params, frozen, images, key)

    objectives = (
        Objective("first", first, ("normed",)),
        Objective("second", second, ("plain",)),
    )
    return Method(init, loss), Method(init, loss, objectives)


def make(method, *, devices=1, optimiser=None, **options):
    mesh = make_mesh(jax.devices()[:devices])
    optimiser = optimiser or optax.sgd(0.1)
    init = functools.partial(training.init_state, method=method, optimiser=optimiser)
    key = jax.random.key(0)
    shardings = training.state_shardings(mesh, jax.eval_shape(init, key))
    state = jax.jit(init, out_shardings=shardings)(key)
    step = training.make_train_step(
        method,
        optimiser,
        augment=lambda key, batch: batch["frames"] / 255.0,
        options=training.StepOptions(**options),
        mesh=mesh,
        shardings=shardings,
    )
    return step, state, mesh


def batch(mesh, *, seed=0, value=None):
    frames = (
        np.random.default_rng(seed).uniform(0, 255, (16, 2, 4, 4, 3)).astype(np.float32)
    )
    if value is not None:
        frames[:] = value
    return training.put_batch({"frames": frames}, mesh)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_statistics_are_of_the_global_batch_on_any_number_of_devices():
    results = []
    for devices in (1, 8):
        step, state, mesh = make(normed_method()[0], devices=devices)
        state, terms = step(state, batch(mesh))
        results.append((jax.device_get((state.params, state.frozen)), terms.compute()))
    assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    # The mean of sines is near 0: its rounding is that of values of 1.
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4, abs=1e-6)
    moved = results[0][0][1][BATCH_STATS]["normed"]["norm"]["mean"]
    assert np.abs(moved).max() > 0


def test_running_statistics_are_those_of_the_definition():
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    y, changed = module.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
    np.testing.assert_allclose(
        y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        changed["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6
    )
    unbiased = x.var(axis=(0, 1), ddof=1)
    np.testing.assert_allclose(
        changed["batch_stats"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-5
    )
    plain = module.apply({**variables, **changed}, x, train=False)
    expected = (x - changed["batch_stats"]["mean"]) / np.sqrt(
        changed["batch_stats"]["var"] + 1e-5
    )
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-5)


def test_micro_batches_hand_statistics_on():
    step, state, mesh = make(normed_method()[0], accumulate=2)
    after, _ = step(state, batch(mesh))
    assert int(after.frozen[SCHEDULE]["count"]) == 2


def test_objectives_are_steps_one_after_the_other():
    step, state, mesh = make(normed_method()[1])
    before = jax.device_get(state.params)
    state, terms = step(state, batch(mesh))
    terms = terms.compute()
    assert {"first/sine", "second/seen", "total", "gradient_norm", "skipped"} <= set(
        terms
    )
    # The second sees what the first has carried.
    assert terms["second/seen"] == 1.0
    assert terms["total"] == pytest.approx(
        terms["first/total"] + terms["second/total"], rel=1e-5
    )
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params)
    )
    assert all(jax.tree.leaves(moved["plain"]))
    assert moved["normed"]["dense"]["kernel"]


def test_a_skipped_update_leaves_what_is_carried():
    step, state, mesh = make(normed_method()[1], optimiser=optax.adam(0.1))
    state, _ = step(state, batch(mesh))
    before = jax.device_get(state)
    state, terms = step(state, batch(mesh, value=np.nan))
    assert terms.compute() == {"skipped": 1.0}
    after = jax.device_get(state)
    for name in ("params", "frozen", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(before, name), getattr(after, name)
        )
    assert int(after.step) == 2


def test_the_rate_of_a_loss_scales_its_step():
    changes = []
    for rate in (None, jnp.float32(0.5)):
        step, state, mesh = make(normed_method(rate=rate)[0])
        before = jax.device_get(state.params)
        state, terms = step(state, batch(mesh))
        assert terms.compute().get("rate") == rate
        changes.append(
            jax.tree.map(lambda a, b: a - b, jax.device_get(state.params), before)
        )
    assert_close(
        jax.tree.map(lambda x: 0.5 * x, changes[0]), changes[1], rtol=1e-3, atol=1e-6
    )


def test_windows_average_the_ranks_inside():
    losses = jnp.array([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    assert float(windowed_mean(losses, jnp.array([1, 4]))) == 3.0
    ranking = -losses
    assert float(windowed_mean(losses, jnp.array([0, 2]), ranking=ranking)) == 5.5
    # A window without ranks has neither a loss nor a gradient.
    empty = jnp.array(window_bounds(1)[0])
    value, gradient = jax.value_and_grad(windowed_mean)(losses[:1], empty)
    assert float(value) == 0.0
    assert float(gradient[0]) == 0.0


def test_the_curriculum_moves_after_sixteen_stale_evaluations_then_slows():
    move = jax.jit(functools.partial(move_curriculum, windows=5))
    state = move(start_curriculum(), jnp.float32(1.0))
    moved_at, rates = [], []
    for number in range(1, 16 * 4 + 17 * 15):
        before = int(state.window)
        state = move(state, jnp.float32(1.0))
        if int(state.window) > before:
            moved_at.append(number)
        rates.append(float(state.rate))
    # A loss that is not a number is not progress, and does not hide what follows.
    unknown = move(start_curriculum(), jnp.float32(np.nan))
    better = move(move(unknown, jnp.float32(2.0)), jnp.float32(1.0))
    assert (int(unknown.stale), int(better.stale), float(better.best)) == (1, 0, 1.0)
    # After an event the tracker starts anew, so one more evaluation sets its best.
    assert moved_at == [16, 33, 50, 67]
    assert int(state.window) == 4
    fall = 1 + next(i for i, rate in enumerate(rates) if rate < 1)
    # The first step of the plateau schedule sets its best, eleven more are one too
    # many.
    assert (fall - 67) / 17 == 12
    assert rates[-1] == pytest.approx(0.1)


def test_the_curriculum_stays_while_the_loss_falls():
    state = start_curriculum()
    for number in range(60):
        state = move_curriculum(state, jnp.float32(1.0 - 0.01 * number), windows=5)
    assert int(state.window) == 0
