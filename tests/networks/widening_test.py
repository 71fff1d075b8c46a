"""Widened networks compute what the narrow ones compute."""

import jax
import numpy as np
import pytest

from facecycle_jax.errors import UserError
from facecycle_jax.networks import make_face_networks, widen
from facecycle_jax.networks.face_networks import init_identity, init_motion

MODEL = {
    "image_size": 64,
    "code_dim": 8,
    "dtype": "float32",
    "trunk": "learned",
    "width": 0.0625,
    "encoder_width": 0.125,
}


def shapes_of(model):
    networks = make_face_networks(model, vgg_for_loss=False)

    def init(key):
        return {**init_motion(networks, key), **init_identity(networks, key)}

    return networks, jax.eval_shape(init, jax.random.key(0))


def random_trees(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32), shapes
    )


def outputs(networks, trees):
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def compute(trees):
        code, flow, back = networks.motion(trees, images)
        maps = networks.features(trees, images)
        neutral = networks.generate(trees, maps, flow)
        identity = networks.identity_code(trees, images)
        of_neutral = networks.features(trees, neutral)
        mean = networks.remove_identity(trees, of_neutral, identity)
        return code, back, neutral, identity, mean

    return compute(trees)


def test_networks_of_twice_the_width_compute_the_same():
    narrow, shapes = shapes_of(MODEL)
    trees = random_trees(shapes)
    wide, wide_shapes = shapes_of({**MODEL, "width": 0.125, "encoder_width": 0.25})

    widened = widen(trees, wide_shapes)
    assert jax.tree.map(np.shape, widened) == jax.tree.map(
        lambda leaf: leaf.shape, wide_shapes
    )

    expected = outputs(narrow, trees)
    for got, want in zip(outputs(wide, widened), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())

    # The copies of a channel are read with different weights, so they part.
    kernel = widened["generator"]["residual1"]["conv1"]["kernel"]
    assert np.abs(kernel[:, :, 0] - kernel[:, :, 1]).max() > 1e-2


def test_what_has_its_size_already_is_kept():
    _, shapes = shapes_of(MODEL)
    trees = {"trunk": random_trees(shapes["trunk"]), "other": {"a": np.zeros(3)}}
    kept = widen(trees, shapes)

    assert kept["other"] is trees["other"]
    jax.tree.map(np.testing.assert_array_equal, kept["trunk"], trees["trunk"])


def test_a_width_that_is_no_multiple_is_refused_by_name():
    narrow = {"trunk": {"conv": {"kernel": np.zeros((3, 3, 4, 4))}}}
    wide = {"trunk": {"conv": {"kernel": np.zeros((3, 3, 4, 6))}}}
    with pytest.raises(UserError, match=r"trunk/conv/kernel has shape .*multiple"):
        widen(narrow, wide)
