"""Names of JAX whose stability JAX does not promise, in one place.

The rest of the package uses JAX's public names only. `tests/jax_names_test.py` tries
each name on the installed JAX. If a release moves one, only this module changes.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Function = Callable[..., jax.Array]


def default_matmul_precision() -> str | None:
    """Returns the precision of matrix products in force at the call.

    `jax.default_matmul_precision` sets it.
    """
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def default_device() -> Any:
    """Returns the device that `jax.default_device` has set, or None."""
    return jax.config.jax_default_device  # type: ignore[attr-defined]


def is_placed_by_type(x: jax.Array) -> bool:
    """Checks whether the type of an array holds its sharding.

    Args:
      x: array or tracer.

    Returns:
      True inside `jax.shard_map` and on a mesh with explicit axes.
    """
    mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)
    kinds = getattr(mesh, "axis_types", None) or ()
    return any(kind != jax.sharding.AxisType.Auto for kind in kinds)


def bilinear_primitive(
    name: str,
    *,
    library: Function,
    on_cpu: Function,
    gradients: tuple[Function, Function],
) -> Callable[..., jax.Array]:
    """Makes an operation from a function that is linear in each of two arrays.

    JAX keeps the operation whole in a traced program. Its implementation is chosen when
    the program is compiled for a platform, so a call outside `jax.jit` never takes the
    form for CPUs. `gradients` define how the operation is transposed.

    Args:
      name: name of the operation in printed programs.
      library: the function of (x, y, **options). It defines shapes and `jax.vmap`. It
        defines the values on all platforms but CPUs, and outside `jax.jit` on CPUs too.
      on_cpu: the same function in the form for programs that are compiled for CPUs.
      gradients: functions of (cotangent, shape of x, y, **options) and (cotangent, x,
        shape of y, **options) that return the cotangents of x and of y; a shape is a
        `jax.ShapeDtypeStruct`.

    Returns:
      The operation, a function of (x, y, **options) with hashable options.
    """
    primitive = Primitive(name)

    def abstract(x: Any, y: Any, **options: Any) -> Any:
        traced = jax.make_jaxpr(lambda x, y: library(x, y, **options))(x, y)
        return traced.out_avals[0]

    def batched(arrays: Any, axes: Any, **options: Any) -> tuple[jax.Array, int]:
        mapped = jax.vmap(lambda x, y: library(x, y, **options), in_axes=axes)
        return mapped(*arrays), 0

    def to_x(cotangent: jax.Array, x: Any, y: jax.Array, **options: Any) -> jax.Array:
        return gradients[0](cotangent, _shape_of(x), y, **options)

    def to_y(cotangent: jax.Array, x: jax.Array, y: Any, **options: Any) -> jax.Array:
        return gradients[1](cotangent, x, _shape_of(y), **options)

    primitive.def_impl(library)
    primitive.def_abstract_eval(abstract)
    ad.defbilinear(primitive, to_x, to_y)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(library, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    return primitive.bind


def _shape_of(missing: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of an operand that a transposition leaves out."""
    return jax.ShapeDtypeStruct(missing.aval.shape, missing.aval.dtype)
