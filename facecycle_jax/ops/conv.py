"""Convolution that is fast on CPUs too, its gradient by the kernel above all.

Layout NHWC, kernels [kh, kw, in, out]; any value range.

It is a primitive with its own rules for compiling and for transposition:
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

Padding = tuple[tuple[int, int], tuple[int, int]]


class _Options(NamedTuple):
    """What a convolution does beside its two arrays.

    Precision as in `jax.default_matmul_precision`.
    """

    stride: int
    padding: Padding
    precision: str | None


# Where a kernel's gradient is fastest by a matrix product for each tap: wide on both
# sides, or with too few outputs for convolutions. Measured, as all that follows, in
# docs/performance.md.
_WIDE = 128
_FEW_OUTPUTS, _ENOUGH_INPUTS = 4, 16
# With fewer inputs and few outputs XLA's CPU backend has no fast convolution at all.
_MANY_INPUTS = 32
# XLA's CPU backend loses up to four fifths of its speed in a kernel's gradient once a
# channel of the input is over some 2,048 positions long, batch included.
_STRIP_POSITIONS = 1024
# Every strip is an operation of its own, to compile and to start: not too many, and not
# of small products.
_MAX_STRIPS = 16
_STRIP_PRODUCTS = 64 * 64


def conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding
) -> jax.Array:
    """Applies a convolution (cross-correlation, without bias).

    Values and derivatives, of every order and in both modes, are those of
    `jax.lax.conv_general_dilated`; what is computed for them on other backends than the
    CPU is the same too. Where our forms do not apply it is that function: inside
    `jax.shard_map`, on meshes with explicit axes, for an empty batch, for symbolic
    shapes and for negative padding.

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
      ValueError: if the kernel has not four dimensions or its channels are not those of
        `x`.
    """
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(
            f"kernel must be [kh, kw, {x.shape[-1]}, F] for x {x.shape}, got {kernel.shape}."
        )
    # The precision in force here, as the library does it, not that when the program is
    # compiled.
    options = _Options(stride, padding, default_matmul_precision())

    if not _has_own_form(x, kernel, options):
        return _plain(x, kernel, options=options)
    return _bind(x, kernel, options=options)


def _has_own_form(x: jax.Array, kernel: jax.Array, options: _Options) -> bool:
    """Whether the forms below apply.

    They count positions, slice rows, and know of no sharded types.
    """
    sizes = (*x.shape, *kernel.shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return False

    margins = np.asarray(options.padding)
    if margins.min() < 0:
        return False
    return not (is_placed_by_type(x) or is_placed_by_type(kernel))


def _plain(
    x: jax.Array, kernel: jax.Array, *, options: _Options, layout: str = "HWIO"
) -> jax.Array:
    """The library form."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (options.stride, options.stride),
        options.padding,
        dimension_numbers=("NHWC", layout, "NHWC"),
        precision=options.precision,
    )


def _on_cpu(x: jax.Array, kernel: jax.Array, *, options: _Options) -> jax.Array:
    """What is faster there."""
    return _form_on_cpu(kernel.shape, stride=options.stride)(x, kernel, options=options)


def _form_on_cpu(shape: tuple[int, ...], *, stride: int) -> Callable[..., jax.Array]:
    """Chooses by measurement."""
    _, _, channels, features = shape
    narrow = features <= _FEW_OUTPUTS and channels < _MANY_INPUTS and stride == 1
    return _in_one_product if narrow else _plain


def _in_one_product(x: jax.Array, kernel: jax.Array, *, options: _Options) -> jax.Array:
    """One matrix product for all taps, whose results are added up in their places.

    Stride 1 only.
    """
    kh, kw, channels, features = kernel.shape
    _, height, width, _ = x.shape
    (top, bottom), (left, right) = options.padding
    rows, columns = height + top + bottom - kh + 1, width + left + right - kw + 1
    side_by_side = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = jnp.matmul(
        x, side_by_side, precision=options.precision, preferred_element_type=wide
    )
    taps = jnp.pad(taps, ((0, 0), (top, bottom), (left, right), (0, 0)))
    places = []
    for i, j in np.ndindex(kh, kw):
        first = (i * kw + j) * features
        places.append(taps[:, i : i + rows, j : j + columns, first : first + features])
    return sum(places[1:], start=places[0]).astype(x.dtype)


def _input_gradient(
    cotangent: jax.Array,
    x: jax.ShapeDtypeStruct,
    kernel: jax.Array,
    *,
    options: _Options,
) -> jax.Array:
    """On CPUs through what is faster there, elsewhere the library's."""

    def through(
        form: Callable[..., jax.Array], kernel: jax.Array, cotangent: jax.Array
    ) -> jax.Array:
        return jax.linear_transpose(lambda x: form(x, kernel, options=options), x)(
            cotangent
        )[0]

    on_cpu = _form_on_cpu(kernel.shape, stride=options.stride)
    if on_cpu is _plain:
        return through(_plain, kernel, cotangent)
    ours, library = (functools.partial(through, form) for form in (on_cpu, _plain))
    return lax.platform_dependent(kernel, cotangent, cpu=ours, default=library)


def _kernel_gradient(
    cotangent: jax.Array,
    x: jax.Array,
    kernel: jax.ShapeDtypeStruct,
    *,
    options: _Options,
) -> jax.Array:
    """On CPUs what is fastest there, elsewhere the library's."""
    shape = kernel.shape
    on_cpu = _gradient_on_cpu(
        channels=shape[2], features=shape[3], stride=options.stride
    )
    library = functools.partial(_by_library, shape=shape, options=options)
    if on_cpu is _by_library:
        return library(x, cotangent)
    ours = functools.partial(on_cpu, shape=shape, options=options)
    return lax.platform_dependent(x, cotangent, cpu=ours, default=library)


def _gradient_on_cpu(
    *, channels: int, features: int, stride: int
) -> Callable[..., jax.Array]:
    """Chooses by measurement."""
    narrow = features <= _FEW_OUTPUTS and channels >= _ENOUGH_INPUTS
    if stride == 1 and (narrow or min(channels, features) >= _WIDE):
        return _by_products
    return _by_strips if channels * features >= _STRIP_PRODUCTS else _by_library


def _by_library(
    x: jax.Array,
    cotangent: jax.Array,
    *,
    shape: tuple[int, ...],
    options: _Options,
    form: Callable[..., jax.Array] = _plain,
) -> jax.Array:
    """Lets JAX go backwards through a form of the convolution to its kernel of that shape."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(
        lambda kernel: form(x, kernel, options=options), kernel
    )(cotangent)[0]


def _by_products(
    x: jax.Array, cotangent: jax.Array, *, shape: tuple[int, ...], options: _Options
) -> jax.Array:
    """One matrix product for each tap, stride 1 only.

    The input with the cotangent at what the tap read.

    The cotangent moves and not the input: that is turned for the product, once for all
    taps.
    """
    (top, _), (left, _) = options.padding
    spare = [a - b for a, b in zip(x.shape[1:3], cotangent.shape[1:3], strict=True)]
    zero = jnp.zeros((), cotangent.dtype)
    positions = ((0, 1, 2), (0, 1, 2))
    taps = []
    for i, j in np.ndindex(*shape[:2]):
        down, right = i - top, j - left
        margins = (
            (0, 0, 0),
            (down, spare[0] - down, 0),
            (right, spare[1] - right, 0),
            (0, 0, 0),
        )
        moved = lax.pad(cotangent, zero, margins)
        taps.append(
            lax.dot_general(
                x, moved, (positions, ((), ())), precision=options.precision
            )
        )
    return jnp.stack(taps).reshape(shape)


def _by_strips(
    x: jax.Array, cotangent: jax.Array, *, shape: tuple[int, ...], options: _Options
) -> jax.Array:
    """A sum over strips of rows, each the library's."""
    return _by_library(x, cotangent, shape=shape, options=options, form=_in_strips)


def _in_strips(x: jax.Array, kernel: jax.Array, *, options: _Options) -> jax.Array:
    """Convolves strips of rows one by one, so that a gradient is a sum over short convolutions.

    Rows and not items of the batch are what is split, as devices share the batch.
    """
    n, height, width, _ = x.shape
    kh, kw, _, _ = kernel.shape
    (top, bottom), columns = options.padding
    stride = options.stride
    rows = (height + top + bottom - kh) // stride + 1
    positions = n * ((width + sum(columns) - kw) // stride + 1)
    step = max(1, _STRIP_POSITIONS // positions, -(-rows // _MAX_STRIPS))
    # The order that the backend computes gradients in: one transposition for all
    # strips.
    turned = kernel.transpose(2, 0, 1, 3)
    strips = []
    for first in range(0, rows, step):
        start = first * stride - top
        stop = (min(first + step, rows) - 1) * stride - top + kh
        beyond = ((max(0, -start), max(0, stop - height)), columns)
        part = x[:, max(0, start) : min(stop, height)]
        strips.append(
            _plain(
                part, turned, options=options._replace(padding=beyond), layout="IHWO"
            )
        )
    return jnp.concatenate(strips, axis=1)


_bind = bilinear_primitive(
    "facecycle_conv",
    library=_plain,
    on_cpu=_on_cpu,
    gradients=(_input_gradient, _kernel_gradient),
)
