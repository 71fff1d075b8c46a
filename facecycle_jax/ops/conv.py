"""Convolution that is fast on CPUs too, above all its gradient by the kernel.

Layout NHWC, kernels [kh, kw, in, out]; any value range.

The convolution is a primitive with its own rules for compiling and transposition.
`jax.custom_vjp` would lose forward mode, and `jax.custom_jvp` does not let us choose
how the derivative is transposed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from facecycle_jax.jax_names import (
    bilinear_primitive,
    default_matmul_precision,
    is_placed_by_type,
)
from facecycle_jax.ops.portable import is_portable

Padding = tuple[tuple[int, int], tuple[int, int]]


class ConvOptions(NamedTuple):
    """Options of a convolution; precision as in `jax.default_matmul_precision`."""

    stride: int
    padding: Padding
    precision: str | None


# The thresholds below were measured, see docs/experiments.md.
# A kernel's gradient is fastest by a matrix product for each tap where the convolution
# is wide on both sides, or has too few outputs.
_WIDE = 128
_FEW_OUTPUTS = 4
_ENOUGH_INPUTS = 16
# With fewer inputs and few outputs XLA's CPU backend has no fast convolution at all.
_MANY_INPUTS = 32
# XLA's CPU backend loses up to four fifths of its speed in a kernel's gradient once a
# channel of the input has more than about 2,048 positions, batch included.
_STRIP_POSITIONS = 1024
# Every strip is compiled and started as an operation of its own. Many strips, or strips
# of small products, cost more than they save.
_MAX_STRIPS = 16
_STRIP_PRODUCTS = 64 * 64


def conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding
) -> jax.Array:
    """Applies a convolution (cross-correlation, without bias).

    Values and derivatives, of every order and in both modes, are those of
    `jax.lax.conv_general_dilated`. Backends other than the CPU compile the same
    operations as for that function. It is called directly where the CPU's forms do not
    apply: inside `jax.shard_map`, on meshes with explicit axes, for an empty batch, for
    symbolic shapes, for negative padding and within `portable_forms`.

    Args:
      x: [N, H, W, C].
      kernel: [kh, kw, C, F].
      stride: step in both directions.
      padding: zeros before and after the rows, and before and after the columns;
        negative numbers cut.

    Returns:
      [N, H', W', F] with H' = floor((H + padding of rows - kh) / stride) + 1, and W'
      likewise.

    Raises:
      ValueError: if the kernel does not have four dimensions, or its channels are not
        those of `x`.
    """
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(
            f"kernel must be [kh, kw, {x.shape[-1]}, F] for x {x.shape}, "
            f"got {kernel.shape}."
        )

    # The precision in force at the call, as in the library, not at compilation.
    options = ConvOptions(
        stride=stride, padding=padding, precision=default_matmul_precision()
    )

    if not _has_own_form(x, kernel, options):
        return _plain(x, kernel, options=options)
    return _bind(x, kernel, options=options)


def _has_own_form(x: jax.Array, kernel: jax.Array, options: ConvOptions) -> bool:
    """Checks whether the forms below apply.

    They count positions and slice rows, and do not support sharded types.
    """
    if is_portable():
        return False

    sizes = (*x.shape, *kernel.shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return False

    margins = np.asarray(options.padding)
    if margins.min() < 0:
        return False
    return not (is_placed_by_type(x) or is_placed_by_type(kernel))


def _plain(
    x: jax.Array, kernel: jax.Array, *, options: ConvOptions, layout: str = "HWIO"
) -> jax.Array:
    """Convolves by the library's function."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (options.stride, options.stride),
        options.padding,
        dimension_numbers=("NHWC", layout, "NHWC"),
        precision=options.precision,
    )


def _on_cpu(x: jax.Array, kernel: jax.Array, *, options: ConvOptions) -> jax.Array:
    """Convolves by the form that is fastest on a CPU."""
    form = _form_on_cpu(kernel.shape, stride=options.stride)
    return form(x, kernel, options=options)


def _form_on_cpu(shape: tuple[int, ...], *, stride: int) -> Callable[..., jax.Array]:
    """Chooses the form for kernels of this shape, by the measured thresholds."""
    _, _, channels, features = shape
    narrow = features <= _FEW_OUTPUTS and channels < _MANY_INPUTS and stride == 1
    return _in_one_product if narrow else _plain


def _in_one_product(
    x: jax.Array, kernel: jax.Array, *, options: ConvOptions
) -> jax.Array:
    """Convolves by one matrix product for all taps, whose results are then added up.

    Stride 1 only.
    """
    kh, kw, channels, features = kernel.shape
    _, height, width, _ = x.shape
    (top, bottom), (left, right) = options.padding
    rows = height + top + bottom - kh + 1
    columns = width + left + right - kw + 1

    # Every pixel times every tap: [N, H, W, kh kw F], then padded.
    side_by_side = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = jnp.matmul(
        x, side_by_side, precision=options.precision, preferred_element_type=wide
    )
    taps = jnp.pad(taps, ((0, 0), (top, bottom), (left, right), (0, 0)))

    # Tap (i, j) contributes to the output i rows above and j columns to the left of the
    # pixel that it read.
    parts = []
    for i, j in np.ndindex(kh, kw):
        first = (i * kw + j) * features
        parts.append(taps[:, i : i + rows, j : j + columns, first : first + features])
    return sum(parts[1:], start=parts[0]).astype(x.dtype)


def _input_gradient(
    cotangent: jax.Array,
    x: jax.ShapeDtypeStruct,
    kernel: jax.Array,
    *,
    options: ConvOptions,
) -> jax.Array:
    """Computes the gradient by the input, by the CPU's form or by the library."""

    def through(
        form: Callable[..., jax.Array], kernel: jax.Array, cotangent: jax.Array
    ) -> jax.Array:
        transposed = jax.linear_transpose(lambda x: form(x, kernel, options=options), x)
        return transposed(cotangent)[0]

    on_cpu = _form_on_cpu(kernel.shape, stride=options.stride)
    if on_cpu is _plain:
        return through(_plain, kernel, cotangent)

    ours = functools.partial(through, on_cpu)
    library = functools.partial(through, _plain)
    return lax.platform_dependent(kernel, cotangent, cpu=ours, default=library)


def _kernel_gradient(
    cotangent: jax.Array,
    x: jax.Array,
    kernel: jax.ShapeDtypeStruct,
    *,
    options: ConvOptions,
) -> jax.Array:
    """Computes the gradient by the kernel, by the CPU's form or by the library."""
    shape = kernel.shape
    on_cpu = _gradient_on_cpu(
        channels=shape[2], features=shape[3], stride=options.stride
    )
    library = functools.partial(by_library, shape=shape, options=options)
    if on_cpu is by_library:
        return library(x, cotangent)

    ours = functools.partial(on_cpu, shape=shape, options=options)
    return lax.platform_dependent(x, cotangent, cpu=ours, default=library)


def _gradient_on_cpu(
    *, channels: int, features: int, stride: int
) -> Callable[..., jax.Array]:
    """Chooses the form of a kernel's gradient, by the measured thresholds."""
    narrow = features <= _FEW_OUTPUTS and channels >= _ENOUGH_INPUTS
    if stride == 1 and (narrow or min(channels, features) >= _WIDE):
        return _by_products
    return _by_strips if channels * features >= _STRIP_PRODUCTS else by_library


def by_library(
    x: jax.Array,
    cotangent: jax.Array,
    *,
    shape: tuple[int, ...],
    options: ConvOptions,
    form: Callable[..., jax.Array] = _plain,
) -> jax.Array:
    """Computes a kernel's gradient as JAX's transpose of a form of the convolution."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    transposed = jax.linear_transpose(
        lambda kernel: form(x, kernel, options=options), kernel
    )
    return transposed(cotangent)[0]


def _by_products(
    x: jax.Array, cotangent: jax.Array, *, shape: tuple[int, ...], options: ConvOptions
) -> jax.Array:
    """Computes a kernel's gradient by one matrix product for each tap.

    Stride 1 only. Each product is of the input and the cotangent, summed over the
    positions that the tap read. The cotangent is shifted rather than the input, so that
    the input is transposed once for all taps.
    """
    (top, _), (left, _) = options.padding
    spare_rows = x.shape[1] - cotangent.shape[1]
    spare_columns = x.shape[2] - cotangent.shape[2]

    zero = jnp.zeros((), cotangent.dtype)
    # Contracts batch, rows and columns.
    dimensions = (((0, 1, 2), (0, 1, 2)), ((), ()))

    taps = []
    for i, j in np.ndindex(*shape[:2]):
        # Padded, and cut where negative, to the size of the input.
        down = i - top
        right = j - left
        margins = (
            (0, 0, 0),
            (down, spare_rows - down, 0),
            (right, spare_columns - right, 0),
            (0, 0, 0),
        )
        moved = lax.pad(cotangent, zero, margins)
        product = lax.dot_general(x, moved, dimensions, precision=options.precision)
        taps.append(product)
    return jnp.stack(taps).reshape(shape)


def _by_strips(
    x: jax.Array, cotangent: jax.Array, *, shape: tuple[int, ...], options: ConvOptions
) -> jax.Array:
    """Computes a kernel's gradient as a sum over strips of rows."""
    return by_library(x, cotangent, shape=shape, options=options, form=_in_strips)


def _in_strips(x: jax.Array, kernel: jax.Array, *, options: ConvOptions) -> jax.Array:
    """Convolves strips of rows one by one.

    The gradient then is a sum over short convolutions. Rows are split and not the
    batch, because devices share the batch.
    """
    n, height, width, _ = x.shape
    kh, kw, _, _ = kernel.shape
    (top, bottom), columns = options.padding
    stride = options.stride

    # Output rows of a strip: as many as the limits of positions and of strips allow.
    rows = (height + top + bottom - kh) // stride + 1
    positions = n * ((width + sum(columns) - kw) // stride + 1)
    step = max(1, _STRIP_POSITIONS // positions, -(-rows // _MAX_STRIPS))

    # The backend computes gradients in this order of axes. Transposing here does so
    # once for all strips.
    turned = kernel.transpose(2, 0, 1, 3)

    strips = []
    for first in range(0, rows, step):
        # The input rows that the strip reads, some of which may be padding.
        start = first * stride - top
        stop = (min(first + step, rows) - 1) * stride - top + kh
        part = x[:, max(0, start) : min(stop, height)]

        beyond = ((max(0, -start), max(0, stop - height)), columns)
        strip_options = options._replace(padding=beyond)
        strips.append(_plain(part, turned, options=strip_options, layout="IHWO"))
    return jnp.concatenate(strips, axis=1)


_bind = bilinear_primitive(
    "facecycle_conv",
    library=_plain,
    on_cpu=_on_cpu,
    gradients=(_input_gradient, _kernel_gradient),
)
