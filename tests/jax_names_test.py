"""Names of JAX that carry no promise.

Each does on the installed JAX what the package relies on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from facecycle_jax import jax_names


def test_precision_in_force_is_read():
    assert jax_names.default_matmul_precision() is None
    with jax.default_matmul_precision("highest"):
        assert jax_names.default_matmul_precision() == "highest"


def test_default_device_is_read():
    assert jax_names.default_device() is None
    device = jax.local_devices()[3]
    with jax.default_device(device):
        assert jax_names.default_device() == device


def test_types_say_how_arrays_are_placed():
    x = jnp.ones((4, 2))
    assert not jax_names.is_placed_by_type(x)
    auto, explicit = (
        jax.make_mesh((2,), ("d",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    )
    split = jax.sharding.NamedSharding(auto, P("d"))

    def said(wrap):
        """What the function says of its argument while it is traced."""
        found = []

        def look(x):
            found.append(jax_names.is_placed_by_type(x))
            return x

        jax.jit(wrap(look))(x)
        return found

    assert said(lambda look: look) == [False]
    assert said(lambda look: jax.jit(look, in_shardings=split)) == [False]
    assert said(
        lambda look: jax.shard_map(look, mesh=auto, in_specs=P("d"), out_specs=P("d"))
    ) == [True]
    with jax.set_mesh(explicit):
        x = jax.device_put(x, P("d"))
        assert said(lambda look: look) == [True]


def product(x, y, *, scale):
    return jnp.matmul(x, y) * scale


@pytest.fixture(scope="module")
def primitive():
    return jax_names.bilinear_primitive(
        "test_product",
        library=product,
        # Told apart by its value.
        on_cpu=lambda x, y, *, scale: 3 * product(x, y, scale=scale),
        gradients=(
            lambda cotangent, x, y, *, scale: jnp.full(x.shape, 5.0, x.dtype),
            lambda cotangent, x, y, *, scale: jnp.full(y.shape, 7.0, y.dtype),
        ),
    )


def test_a_primitive_compiles_by_platform_and_transposes_as_given(primitive):
    x, y = jnp.ones((2, 3)), jnp.ones((3, 4))
    operation = functools.partial(primitive, scale=2.0)
    np.testing.assert_array_equal(operation(x, y), product(x, y, scale=2.0))
    np.testing.assert_array_equal(
        jax.jit(operation)(x, y), 3 * product(x, y, scale=2.0)
    )
    assert "test_product" in str(jax.make_jaxpr(operation)(x, y))
    text = jax.jit(operation).trace(x, y).lower(lowering_platforms=("tpu",)).as_text()
    assert "3.0" not in text

    of_x, of_y = jax.grad(lambda x, y: operation(x, y).sum(), (0, 1))(x, y)
    np.testing.assert_array_equal(of_x, 5.0)
    np.testing.assert_array_equal(of_y, 7.0)
    mapped = jax.vmap(operation, (0, None))(jnp.stack([x, 2 * x]), y)
    np.testing.assert_array_equal(mapped[1], product(2 * x, y, scale=2.0))
    _, tangent = jax.jvp(operation, (x, y), (x, y))
    np.testing.assert_array_equal(tangent, 2 * product(x, y, scale=2.0))


def test_the_preemption_service_is_known():
    from jax.experimental import multihost_utils

    assert isinstance(jax.config.jax_enable_preemption_service, bool)
    assert callable(multihost_utils.reached_preemption_sync_point)
