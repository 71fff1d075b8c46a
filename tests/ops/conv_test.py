"""The convolution: every form that a kernel's gradient takes is the library's function and derivative."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from facecycle_jax import compile_check, ops, training
from facecycle_jax.ops.conv import _by_products, _by_strips, _form_on_cpu, _plain


def library(x, kernel, *, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def operands(*, shape=(2, 33, 20, 3), kernel=(3, 3), features=5):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return x, jnp.asarray(rng.standard_normal((*kernel, shape[-1], features)), jnp.float32)


CASES = {
    "3x3": ((3, 3), 1, ((1, 1), (1, 1))),
    "7x7 stride 2": ((7, 7), 2, ((3, 3), (3, 3))),
    "a phase of a transposed convolution": ((2, 2), 1, ((1, 0), (0, 1))),
    "1x1": ((1, 1), 1, ((0, 0), (0, 0))),
    "stride 2 without padding": ((2, 3), 2, ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("form", [_by_strips, _by_products, _plain])
@pytest.mark.parametrize("case", CASES)
def test_every_form_is_the_library_s_convolution(form, case, monkeypatch):
    # Strips of two or three rows, the last one shorter.
    monkeypatch.setattr(sys.modules["facecycle_jax.ops.conv"], "_STRIP_POSITIONS", 100)
    size, stride, padding = CASES[case]
    x, kernel = operands(kernel=size)
    y, back = jax.vjp(functools.partial(form, stride=stride, padding=padding), x, kernel)
    expected, expected_back = jax.vjp(functools.partial(library, stride=stride, padding=padding), x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    for gradient, other in zip(back(jnp.cos(y)), expected_back(jnp.cos(expected)), strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-3)


@pytest.mark.parametrize(
    ("channels", "features", "form"),
    [(64, 64, _by_strips), (256, 16, _by_strips), (128, 3, _by_products), (32, 32, _plain), (3, 64, _plain)],
)
def test_its_gradients_are_the_library_s_in_the_form_that_is_chosen(channels, features, form):
    assert _form_on_cpu(channels=channels, features=features) is form
    x, kernel = operands(shape=(2, 24, 40, channels), features=features)
    arguments = {"stride": 1, "padding": ((1, 1), (1, 1))}

    def gradients(f):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel, **arguments))), (0, 1))(x, kernel)

    for ours, theirs in zip(gradients(ops.conv), gradients(library), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(jnp.abs(theirs).max()))


def test_it_has_derivatives_of_both_modes_and_of_second_order():
    x, kernel = operands(shape=(1, 9, 30, 64), features=64)
    kernel = kernel / 64
    arguments = {"stride": 1, "padding": ((1, 1), (1, 1))}

    def second(f):
        def slope(kernel):
            return jax.jvp(lambda k: jnp.sum(jnp.sin(f(x, k, **arguments))), (kernel,), (kernel,))[1]

        return jax.value_and_grad(slope)(kernel)

    (slope, gradient), (expected, expected_gradient) = second(ops.conv), second(library)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-3)


def test_frozen_parts_cost_nothing():
    x, kernel = operands(shape=(2, 16, 40, 64), features=64)
    conv = functools.partial(ops.conv, padding=((1, 1), (1, 1)))

    def convolutions(argument):
        gradient = jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel) ** 2), argument)
        text = jax.jit(gradient).lower(x, kernel).as_text()
        return text.count("stablehlo.convolution")

    # Forward, and one gradient: by the input in one piece, by the kernel in strips of 12 and 4 rows.
    assert convolutions(0) == 2
    assert convolutions(1) == 3


def test_devices_that_share_a_batch_send_sums_only():
    mesh = training.make_mesh()
    x, kernel = operands(shape=(mesh.size, 16, 40, 64), features=64)
    split, whole = training.batch_sharding(mesh), training.replicated(mesh)
    gradient = jax.grad(lambda kernel, x: jnp.sum(ops.conv(x, kernel, padding=((1, 1), (1, 1))) ** 2))
    compiled = jax.jit(gradient, in_shardings=(whole, split), out_shardings=whole).lower(kernel, x).compile()
    assert {c.kind for c in compile_check.count_collectives(compiled.as_text())} == {"all-reduce"}
    np.testing.assert_allclose(compiled(kernel, x), gradient(kernel, x), rtol=1e-3, atol=0.5)


def test_bfloat16_stays():
    x, kernel = (a.astype(jnp.bfloat16) for a in operands(shape=(2, 16, 40, 64), features=64))
    y, back = jax.vjp(functools.partial(ops.conv, padding=((1, 1), (1, 1))), x, kernel)
    assert {y.dtype, *(g.dtype for g in back(y))} == {jnp.dtype(jnp.bfloat16)}


def test_other_backends_get_the_library_s_program():
    x, kernel = operands(shape=(2, 16, 40, 64), features=64)
    arguments = {"stride": 1, "padding": ((1, 1), (1, 1))}

    def text(f):
        gradient = jax.grad(lambda x, kernel: jnp.sum(f(x, kernel, **arguments) ** 2), (0, 1))
        lowered = jax.jit(gradient).trace(x, kernel).lower(lowering_platforms=("tpu",))
        return lowered.as_text().count("stablehlo.convolution")

    assert text(ops.conv) == text(library) == 3


def test_a_kernel_that_does_not_fit_is_named():
    x, kernel = operands()
    with pytest.raises(ValueError, match=r"kernel must be \[kh, kw, 3, F\] for x \(2, 33, 20, 3\)"):
        ops.conv(x, kernel[:, :, :2], padding=((1, 1), (1, 1)))
