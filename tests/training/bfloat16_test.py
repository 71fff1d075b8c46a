"""Training in bfloat16.

Weights stay float32, losses and updates stay near those of float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from facecycle_jax import methods, ops, training
from facecycle_jax.devices import make_mesh
from facecycle_jax.training import StepOptions

STEPS = 4


@functools.cache
def batch():
    """Two smooth images of each of two people, the second pair mirror images."""
    coarse = (
        np.random.default_rng(0).integers(30, 225, (2, 2, 6, 6, 3)).astype(np.float32)
    )
    frames = (
        np.asarray(jax.image.resize(coarse, (2, 2, 64, 64, 3), "cubic"))
        .clip(0, 255)
        .astype(np.uint8)
    )
    identity = np.array([[0, 0], [1, 1]], np.int32)
    return {
        "frames": frames,
        "mirror": np.array([False, True]),
        "track": identity,
        "identity": identity,
    }


def train(method_name, dtype):
    """Takes a few steps of gradient descent on one batch.

    Its changes of weights are gradients.
    """
    config = {
        "method": method_name,
        "model": {
            "width": 1 / 16,
            "image_size": 64,
            "code_dim": 16,
            "dtype": dtype,
            "trunk": "learned",
        },
        "loss": {"vgg": "random", "vgg_width": 0.0, "perceptual": "none"},
    }
    method = methods.make(config)
    optimiser = optax.sgd(0.01)
    mesh = make_mesh(jax.devices()[:1])
    init = functools.partial(
        training.init_state, method=method, optimiser=optimiser, average=True
    )
    key = jax.random.key(0)
    shardings = training.state_shardings(mesh, jax.eval_shape(init, key))
    state = jax.jit(init, out_shardings=shardings)(key)
    step = training.make_train_step(
        method,
        optimiser,
        augment=functools.partial(ops.augment_pairs, size=64),
        options=StepOptions(ema_decay=0.9),
        mesh=mesh,
        shardings=shardings,
    )
    before = jax.device_get(state.params)
    losses = []
    for _ in range(STEPS):
        state, averages = step(state, training.put_batch(batch(), mesh))
        losses.append(averages.compute()["total"])
    return before, state, losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "method_name",
    ["motion_cycle", pytest.param("identity_cycle", marks=pytest.mark.slow)],
)
def test_bfloat16_trains_as_float32_does(method_name):
    before, full, losses = train(method_name, "float32")
    same, half, rough = train(method_name, "bfloat16")
    # The weights and their average are float32 whatever is computed in.
    jax.tree.map(np.testing.assert_array_equal, before, same)
    for tree in (half.params, half.ema):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert int(half.nonfinite_total) == 0
    assert np.isfinite(rough).all()
    # The noise and the augmentation are the same; eight bits of mantissa move the loss
    # by less than 2 %.
    np.testing.assert_allclose(rough, losses, rtol=0.02)
    # Both move the weights the same way: the cosine between the changes, 0.91 where
    # this was written.
    changes = []
    for state in (full, half):
        change = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
        changes.append(
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)]).astype(
                np.float64
            )
        )
    cosine = (
        changes[0]
        @ changes[1]
        / np.prod([np.linalg.norm(change) for change in changes])
    )
    assert cosine > 0.8
