"""The transposed convolution: both forms are one function, with one derivative."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from facecycle_jax import ops
from facecycle_jax.ops.transposed_conv import (
    _by_phases,
    _by_zero_filling,
    _zero_filled,
)


def operands():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 7, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((4, 4, 3, 6)), jnp.float32)
    return x, kernel, jnp.asarray(rng.standard_normal((2, 10, 14, 6)), jnp.float32)


def on_accelerators(x, kernel):
    """The form of accelerators, with its own rule for the kernel's gradient."""
    return _zero_filled(x, kernel, precision=None)


@pytest.mark.parametrize("form", [_by_phases, on_accelerators])
def test_the_forms_agree_in_values_and_gradients(form):
    x, kernel, cotangent = operands()
    one, back_one = jax.vjp(form, x, kernel)
    two, back_two = jax.vjp(_by_zero_filling, x, kernel)
    np.testing.assert_allclose(one, two, atol=1e-5)
    for a, b in zip(back_one(cotangent), back_two(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_form_of_accelerators_has_derivatives_of_every_kind():
    x, kernel, cotangent = operands()
    jax.test_util.check_grads(
        lambda x, kernel: jnp.sum(cotangent * on_accelerators(x, kernel) ** 2),
        (x, kernel),
        order=2,
        rtol=0.02,
    )
    batched = jax.vmap(on_accelerators, in_axes=(0, None))(x[:, None], kernel)
    np.testing.assert_allclose(batched[:, 0], on_accelerators(x, kernel), atol=1e-5)


def test_it_has_gradients_inside_shard_map():
    x, kernel, cotangent = operands()
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

    def loss(x, kernel, cotangent):
        return jnp.sum(cotangent * ops.transposed_conv(x, kernel))

    split = jax.shard_map(
        jax.grad(loss), mesh=mesh, in_specs=(P("d"), P(), P("d")), out_specs=P("d")
    )
    np.testing.assert_allclose(
        jax.jit(split)(x, kernel, cotangent),
        jax.grad(loss)(x, kernel, cotangent),
        atol=1e-5,
    )


def test_it_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    x, kernel, _ = operands()
    theirs = torch.nn.functional.conv_transpose2d(
        torch.tensor(np.array(x)).permute(0, 3, 1, 2),
        torch.tensor(np.array(kernel)[::-1, ::-1].copy()).permute(2, 3, 0, 1),
        stride=2,
        padding=1,
    )
    np.testing.assert_allclose(
        ops.transposed_conv(x, kernel), theirs.permute(0, 2, 3, 1), atol=1e-5
    )


def test_a_kernel_that_does_not_fit_is_named():
    x, kernel, _ = operands()
    with pytest.raises(ValueError, match=r"kernel must be \[4, 4, 3, F\]"):
        ops.transposed_conv(x, kernel[:3])
