"""The portable forms of the operations, for programs that leave JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny_model

from facecycle_jax import ops
from facecycle_jax.inference import functions
from facecycle_jax.networks.face_networks import make_face_networks
from facecycle_jax.ops.portable import portable_forms


def traced():
    """The text of a whole model's program."""
    networks = make_face_networks(tiny_model.MODEL, vgg_for_loss=False)
    trees = tiny_model.trees()
    outputs = tuple(functions.FACE_OUTPUTS)

    def program(images):
        return functions.face_outputs(networks, trees, images, outputs=outputs)

    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    return str(jax.make_jaxpr(program)(images))


def test_portable_programs_hold_no_operation_of_ours_and_no_choice_of_platform():
    not_portable = ("facecycle_conv", "platform_index", "custom_vjp")
    assert all(name in traced() for name in not_portable)
    with portable_forms():
        text = traced()
    assert not [name for name in not_portable if name in text]


def test_portable_forms_compute_what_those_of_the_platform_do():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
    flow = rng.uniform(-0.5, 0.5, (2, 3, 4, 2)).astype(np.float32)
    kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)

    def program(images):
        moved = ops.warp(images, flow)
        larger = ops.transposed_conv(moved, kernel)
        pooled = ops.max_pool(larger)
        return ops.conv(pooled, kernel[:3, :3, :1].repeat(5, 2), padding=((1, 1),) * 2)

    expected = program(images)
    with portable_forms():
        found = program(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
