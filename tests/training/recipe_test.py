"""Accumulation, clipping and weight averaging on the real loop, computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import toy_training

from facecycle_jax import training

STEPS, MICRO, CLIP, DECAY, RATE, B1, B2 = 6, 2, 0.05, 0.6, 1e-3, 0.5, 0.9


def by_hand(seed):
    """Adam on clipped means of two micro-batches' gradients, and the weight average."""
    method = toy_training.toy_method()
    params, frozen = method.init(jax.random.key(seed))
    gradient = jax.jit(jax.grad(lambda p, x, key: method.loss(p, frozen, x, key)[0]))
    average = params
    first = second = jax.tree.map(jnp.zeros_like, params)
    batches = toy_training.ToyLoader(16, 0).batches(0)
    norms = []
    for step in range(STEPS):
        augment_key, noise_key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), step)
        )
        images = toy_training.augment_pairs(
            augment_key, next(batches), size=toy_training.SIZE
        )
        keys = jax.random.split(noise_key, MICRO)
        parts = [gradient(params, images[i::MICRO], keys[i]) for i in range(MICRO)]
        mean = jax.tree.map(lambda *g: sum(g) / MICRO, *parts)
        norms.append(
            float(
                np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(mean)))
            )
        )
        scale = min(1.0, CLIP / norms[-1])
        mean = jax.tree.map(lambda g, scale=scale: g * scale, mean)
        first = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, first, mean)
        second = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, second, mean)

        def move(p, m, v, t=step + 1):
            return p - RATE * (m / (1 - B1**t)) / (jnp.sqrt(v / (1 - B2**t)) + 1e-8)

        params = jax.tree.map(move, params, first, second)
        decay = min(DECAY, (1 + step) / (10 + step))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p, average, params
        )
    return params, average, norms


def assert_close(ours, expected, start):
    """Compares what was learned: the weights less those at the start."""
    for a, b, c in zip(*map(jax.tree.leaves, (ours, expected, start)), strict=True):
        difference = np.linalg.norm(np.asarray(a) - b)
        assert difference < 1e-3 * np.linalg.norm(np.asarray(b) - c)


def test_a_run_does_what_its_configuration_says(tmp_path):
    params, average, norms = by_hand(seed=3)
    # The gradients are of one size, and all of them are clipped.
    assert min(norms) > 2 * CLIP
    state = toy_training.train(
        tmp_path,
        seed=3,
        batch_size=16,
        num_steps=STEPS,
        log_every=1,
        checkpoint_every=2,
        optimiser__schedule_epochs=(0,),
        optimiser__schedule_rates=(RATE,),
        optimiser__b1=B1,
        optimiser__b2=B2,
        optimiser__accumulate=MICRO,
        optimiser__clip_norm=CLIP,
        optimiser__ema_decay=DECAY,
    )
    start, _ = toy_training.toy_method().init(jax.random.key(3))
    assert_close(state.params, params, start)
    assert_close(state.ema, average, start)
    # What is exported is the average, and what is logged the norm before clipping.
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: training.load_trees(tmp_path)[name] for name in state.ema},
        jax.device_get(state.ema),
    )
    logged = [
        m["train/gradient_norm"]
        for m in training.read_metrics(tmp_path)
        if "train/total" in m
    ]
    np.testing.assert_allclose(logged, norms, rtol=1e-4)
