"""Every form of the convolution has the library's values and derivatives."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from facecycle_jax import ops
from facecycle_jax.devices import batch_sharding, make_mesh, replicated
from facecycle_jax.ops.conv import (
    ConvOptions,
    _by_products,
    _by_strips,
    _gradient_on_cpu,
    _in_one_product,
    by_library,
)
from launch import compile_check


def library(x, kernel, *, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def operands(*, shape=(2, 33, 20, 3), kernel=(3, 3), features=5):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return x, jnp.asarray(
        rng.standard_normal((*kernel, shape[-1], features)), jnp.float32
    )


CASES = {
    "3x3": ((3, 3), 1, ((1, 1), (1, 1))),
    "7x7 stride 2": ((7, 7), 2, ((3, 3), (3, 3))),
    "a phase of a transposed convolution": ((2, 2), 1, ((1, 0), (0, 1))),
    "1x1": ((1, 1), 1, ((0, 0), (0, 0))),
    "stride 2 without padding": ((2, 3), 2, ((0, 0), (0, 0))),
}


IN_EVERY_FORM = pytest.mark.parametrize(
    ("channels", "features"),
    [(64, 64), (128, 128), (16, 3)],
    ids=["strips", "products", "one product"],
)


@pytest.mark.parametrize("form", [_by_strips, _by_products, by_library])
@pytest.mark.parametrize("case", CASES)
def test_every_form_of_the_kernel_gradient_agrees_with_the_library(
    form, case, monkeypatch
):
    # Strips of two or three rows, the last one shorter.
    monkeypatch.setattr(sys.modules["facecycle_jax.ops.conv"], "_STRIP_POSITIONS", 100)
    size, stride, padding = CASES[case]
    if form is _by_products and stride != 1:
        pytest.skip("products are of stride 1")
    x, kernel = operands(kernel=size)
    y, back = jax.vjp(
        lambda kernel: library(x, kernel, stride=stride, padding=padding), kernel
    )
    gradient = form(
        x, jnp.cos(y), shape=kernel.shape, options=ConvOptions(stride, padding, None)
    )
    np.testing.assert_allclose(gradient, back(jnp.cos(y))[0], atol=2e-3)


@pytest.mark.parametrize(
    "case", [name for name, (_, stride, _) in CASES.items() if stride == 1]
)
def test_one_product_agrees_with_the_library(case):
    size, stride, padding = CASES[case]
    x, kernel = operands(kernel=size)
    y, back = jax.vjp(
        functools.partial(_in_one_product, options=ConvOptions(stride, padding, None)),
        x,
        kernel,
    )
    expected, expected_back = jax.vjp(
        functools.partial(library, stride=stride, padding=padding), x, kernel
    )
    np.testing.assert_allclose(y, expected, atol=1e-4)
    for gradient, other in zip(
        back(jnp.cos(y)), expected_back(jnp.cos(y)), strict=True
    ):
        np.testing.assert_allclose(gradient, other, atol=2e-3)


@pytest.mark.parametrize(
    ("channels", "features", "stride", "form"),
    [
        (64, 64, 1, _by_strips),
        (256, 16, 1, _by_strips),
        (128, 128, 2, _by_strips),
        (128, 256, 1, _by_products),
        (64, 3, 1, _by_products),
        (16, 3, 1, _by_products),
        (16, 3, 2, by_library),
        (8, 3, 1, by_library),
        (32, 32, 1, by_library),
        (3, 64, 1, by_library),
    ],
)
def test_the_chosen_form_has_the_library_s_gradients(channels, features, stride, form):
    assert _gradient_on_cpu(channels=channels, features=features, stride=stride) is form
    x, kernel = operands(shape=(2, 24, 40, channels), features=features)
    arguments = {"stride": stride, "padding": ((1, 1), (1, 1))}

    def gradients(f):
        loss = jax.value_and_grad(
            lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel, **arguments))), (0, 1)
        )
        return jax.tree.leaves(jax.jit(loss)(x, kernel))

    for ours, theirs in zip(gradients(ops.conv), gradients(library), strict=True):
        np.testing.assert_allclose(
            ours, theirs, atol=1e-3 * float(jnp.abs(theirs).max())
        )


@IN_EVERY_FORM
def test_derivatives_of_both_modes_and_second_order_agree_with_the_library(
    channels, features
):
    x, kernel = operands(shape=(1, 9, 30, channels), features=features)
    kernel = kernel / channels
    arguments = {"stride": 1, "padding": ((1, 1), (1, 1))}

    def derivatives(f):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(f(x, kernel, **arguments)))

        def slope(x, kernel):
            return jax.jvp(loss, (x, kernel), (jnp.cos(x), kernel))[1]

        def steepness(x, kernel):
            return sum(
                jnp.sum(jnp.square(g)) for g in jax.grad(loss, (0, 1))(x, kernel)
            )

        return [
            jax.value_and_grad(of, (0, 1))(
                x, kernel
            )  # backward over forward, backward over backward
            for of in (slope, steepness)
        ] + [
            jax.jvp(jax.grad(loss, 1), (x, kernel), (jnp.cos(x), kernel))
        ]  # forward over backward

    # The library's one by one: jitted, some of these are wrong on CPUs with JAX 0.7.
    ours = jax.tree.leaves(jax.jit(derivatives, static_argnums=0)(ops.conv))
    theirs = jax.tree.leaves(derivatives(library))
    assert len(ours) == 8
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3 * float(jnp.abs(other).max()))


def test_it_maps_over_further_axes():
    x, kernel = operands(shape=(2, 6, 5, 4), features=3)
    xs, kernels = jnp.stack([x, -x]), jnp.stack([kernel, kernel + 1])
    conv = functools.partial(ops.conv, padding=((1, 1), (1, 1)))
    np.testing.assert_allclose(
        jax.vmap(conv)(xs, kernels)[1], conv(-x, kernel + 1), atol=1e-4
    )
    np.testing.assert_allclose(
        jax.vmap(conv, (None, 0))(x, kernels)[1], conv(x, kernel + 1), atol=1e-4
    )

    def gradient(kernel):
        return jax.grad(lambda kernel: jnp.sum(jnp.sin(conv(x, kernel))))(kernel)

    np.testing.assert_allclose(
        jax.vmap(gradient)(kernels)[1], gradient(kernel + 1), atol=1e-4
    )


def test_it_computes_in_the_precision_in_force_where_it_is_called():
    x, kernel = operands()
    conv = functools.partial(ops.conv, padding=((1, 1), (1, 1)))

    def text(precision):
        with jax.default_matmul_precision(precision):
            traced = jax.jit(
                jax.grad(lambda kernel: jnp.sum(conv(x, kernel) ** 2))
            ).trace(kernel)
        lowered = traced.lower(lowering_platforms=("tpu",)).as_text()
        return lowered.count("#stablehlo<precision HIGHEST>")

    # Two operands of the convolution and of its gradient.
    assert text("highest") == 4
    assert text("default") == 0


def test_frozen_parts_cost_nothing():
    x, kernel = operands(shape=(2, 16, 40, 64), features=64)
    conv = functools.partial(ops.conv, padding=((1, 1), (1, 1)))

    def convolutions(argument):
        gradient = jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel) ** 2), argument)
        text = jax.jit(gradient).lower(x, kernel).as_text()
        return text.count("stablehlo.convolution")

    # Forward, and one gradient: by the input in one piece, by the kernel in strips of
    # 12 and 4 rows.
    assert convolutions(0) == 2
    assert convolutions(1) == 3


@IN_EVERY_FORM
def test_devices_that_share_a_batch_send_sums_only(channels, features):
    mesh = make_mesh()
    x, kernel = operands(shape=(mesh.size, 16, 40, channels), features=features)
    split, whole = batch_sharding(mesh), replicated(mesh)
    gradient = jax.grad(
        lambda kernel, x: jnp.sum(ops.conv(x, kernel, padding=((1, 1), (1, 1))) ** 2)
    )
    compiled = (
        jax.jit(gradient, in_shardings=(whole, split), out_shardings=whole)
        .lower(kernel, x)
        .compile()
    )
    assert {c.kind for c in compile_check.count_collectives(compiled.as_text())} == {
        "all-reduce"
    }
    np.testing.assert_allclose(
        compiled(kernel, x), gradient(kernel, x), rtol=1e-3, atol=0.5
    )


@IN_EVERY_FORM
def test_results_and_gradients_of_bfloat16_are_bfloat16(channels, features):
    x, kernel = (
        a.astype(jnp.bfloat16)
        for a in operands(shape=(2, 16, 40, channels), features=features)
    )
    y, back = jax.vjp(functools.partial(ops.conv, padding=((1, 1), (1, 1))), x, kernel)
    assert {y.dtype, *(g.dtype for g in back(y))} == {jnp.dtype(jnp.bfloat16)}


@IN_EVERY_FORM
def test_other_backends_get_the_library_s_program(channels, features):
    x, kernel = operands(shape=(2, 16, 40, channels), features=features)
    arguments = {"stride": 1, "padding": ((1, 1), (1, 1))}

    def text(f):
        gradient = jax.grad(
            lambda x, kernel: jnp.sum(f(x, kernel, **arguments) ** 2), (0, 1)
        )
        lowered = jax.jit(gradient).trace(x, kernel).lower(lowering_platforms=("tpu",))
        names = (
            "convolution",
            "dot_general",
            "pad",
            "slice",
            "concatenate",
            "transpose",
            "reverse",
        )
        return [lowered.as_text().count(f"stablehlo.{name}") for name in names]

    assert text(ops.conv) == text(library)
    assert text(library)[:2] == [3, 0]


def test_a_kernel_that_does_not_fit_is_named():
    x, kernel = operands()
    with pytest.raises(
        ValueError, match=r"kernel must be \[kh, kw, 3, F\] for x \(2, 33, 20, 3\)"
    ):
        ops.conv(x, kernel[:, :, :2], padding=((1, 1), (1, 1)))


IN_ALL_FORMS = pytest.mark.parametrize(
    ("channels", "features"),
    [(4, 4), (64, 64), (128, 128), (16, 3)],
    ids=["library", "strips", "products", "one product"],
)


def value_and_gradients(f, padding=((1, 1), (1, 1))):
    def loss(x, kernel):
        return jnp.sum(jnp.sin(f(x, kernel, stride=1, padding=padding)))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def assert_same_as_library(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = float(jnp.abs(other).max()) if other.size else 0.0
        np.testing.assert_allclose(mine, other, atol=1e-3 * scale)


@IN_ALL_FORMS
@pytest.mark.parametrize("padding", [((-1, 1), (1, 1)), ((1, -1), (0, -2))])
def test_negative_padding_cuts(channels, features, padding):
    operands_ = operands(shape=(2, 9, 8, channels), features=features)
    ours, theirs = (
        value_and_gradients(f, padding)(*operands_) for f in (ops.conv, library)
    )
    assert_same_as_library(ours, theirs)


@IN_ALL_FORMS
def test_an_empty_batch_has_gradients(channels, features):
    x, kernel = operands(shape=(0, 9, 8, channels), features=features)
    value, (of_x, of_kernel) = value_and_gradients(ops.conv)(x, kernel)
    assert value == 0
    assert of_x.shape == x.shape
    np.testing.assert_array_equal(of_kernel, jnp.zeros_like(kernel))


@IN_ALL_FORMS
def test_gradients_are_exported_with_a_symbolic_batch(channels, features):
    x, kernel = operands(shape=(3, 9, 8, channels), features=features)
    (batch,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(value_and_gradients(ops.conv))(shape, kernel)
    assert_same_as_library(
        exported.call(x, kernel), value_and_gradients(library)(x, kernel)
    )


@IN_ALL_FORMS
@pytest.mark.parametrize("varying", ["x", "kernel", "both"])
def test_gradients_inside_shard_map_agree_with_the_library(channels, features, varying):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    x, kernel = operands(shape=(2, 9, 8, channels), kernel=(6, 3), features=features)
    specs = (P("d") if varying != "kernel" else P(), P("d") if varying != "x" else P())

    def gradients(f):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(f(x, kernel, stride=1, padding=((1, 1), (1, 1)))))

        inner = jax.shard_map(
            jax.grad(loss, (0, 1)), mesh=mesh, in_specs=specs, out_specs=specs
        )
        return jax.jit(inner)(x, kernel)

    assert_same_as_library(gradients(ops.conv), gradients(library))


def test_a_result_that_varies_between_devices_says_so():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    x, kernel = operands(shape=(2, 9, 8, 4), kernel=(6, 3))
    conv = functools.partial(ops.conv, padding=((1, 1), (1, 1)))
    with pytest.raises(ValueError, match="out_specs"):
        jax.shard_map(conv, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())(x, kernel)


@IN_ALL_FORMS
def test_gradients_on_a_mesh_with_explicit_axes_agree_with_the_library(
    channels, features
):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    x, kernel = operands(shape=(2, 9, 8, channels), features=features)
    with jax.set_mesh(mesh):
        placed = jax.device_put(
            (x, kernel), (NamedSharding(mesh, P("d")), NamedSharding(mesh, P()))
        )
        ours, theirs = (value_and_gradients(f)(*placed) for f in (ops.conv, library))
        assert_same_as_library(ours, theirs)
