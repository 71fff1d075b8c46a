"""Convolution whose gradient by the kernel is fast on CPUs too.

Layout NHWC, kernels [kh, kw, in, out]; any value range.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Padding = tuple[tuple[int, int], tuple[int, int]]

# XLA's CPU backend loses up to four fifths of its speed in a kernel's gradient once a channel of the input
# is over some 2,048 positions long, batch included: measured in docs/performance.md.
_STRIP_POSITIONS = 1024
# Every strip is an operation of its own, to compile and to start: not too many, and not of small products.
_MAX_STRIPS = 16
_STRIP_PRODUCTS = 64 * 64
# A kernel with fewer outputs is too narrow for either convolution, if it has inputs enough.
_FEW_OUTPUTS, _MANY_INPUTS = 8, 64


def conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding) -> jax.Array:
    """Applies a convolution (cross-correlation, without bias).

    Values and derivatives, of every order and in both modes, are those of `jax.lax.conv_general_dilated`;
    what is computed for them on other backends than the CPU is the same too.

    Args:
      x: [N, H, W, C].
      kernel: [kh, kw, C, F].
      stride: step in both directions.
      padding: zeros before and after the rows, and before and after the columns.

    Returns:
      [N, H', W', F] with H' = floor((H + padding of rows - kh) / stride) + 1, and W' likewise.

    Raises:
      ValueError: if the kernel has not four dimensions or its channels are not those of `x`.
    """
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(f"kernel must be [kh, kw, {x.shape[-1]}, F] for x {x.shape}, got {kernel.shape}.")
    return _conv(x, kernel, stride, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return _plain(x, kernel, stride=stride, padding=padding)


@functools.partial(_conv.defjvp, symbolic_zeros=True)
def _derivative(
    stride: int, padding: Padding, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """Says how the output moves with input and kernel: what JAX transposes for gradients."""
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _conv(x, kernel, stride, padding)
    moved = []
    if not isinstance(dx, SymbolicZero):
        moved.append(_conv(dx, kernel, stride, padding))
    if not isinstance(dkernel, SymbolicZero):
        on_cpu, elsewhere = (
            functools.partial(form, stride=stride, padding=padding)
            for form in (_form_on_cpu(channels=kernel.shape[2], features=kernel.shape[3]), _plain)
        )
        moved.append(lax.platform_dependent(x, dkernel, cpu=on_cpu, default=elsewhere))
    return y, sum(moved[1:], start=moved[0])


def _form_on_cpu(*, channels: int, features: int) -> Callable[..., jax.Array]:
    """Chooses what is fastest there to go backwards through, by measurement."""
    if features <= _FEW_OUTPUTS and channels >= _MANY_INPUTS:
        return _by_products
    return _by_strips if channels * features >= _STRIP_PRODUCTS else _plain


def _plain(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding, kernel_layout: str = "HWIO"
) -> jax.Array:
    """The library form."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", kernel_layout, "NHWC")
    )


def _by_strips(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves strips of rows one by one, so that a gradient is a sum over short convolutions.

    Rows and not items of the batch are what is split, as devices share the batch.
    """
    n, height, width, _ = x.shape
    kh, kw, _, _ = kernel.shape
    (top, bottom), columns = padding
    rows = (height + top + bottom - kh) // stride + 1
    positions = n * ((width + sum(columns) - kw) // stride + 1)
    step = max(1, _STRIP_POSITIONS // positions, -(-rows // _MAX_STRIPS))
    # The order that the backend computes gradients in: one transposition for all strips.
    turned = kernel.transpose(2, 0, 1, 3)
    strips = []
    for first in range(0, rows, step):
        start = first * stride - top
        stop = (min(first + step, rows) - 1) * stride - top + kh
        beyond = ((max(0, -start), max(0, stop - height)), columns)
        part = x[:, max(0, start) : min(stop, height)]
        strips.append(_plain(part, turned, stride=stride, padding=beyond, kernel_layout="IHWO"))
    return jnp.concatenate(strips, axis=1)


def _by_products(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """One matrix product for all taps, whose columns a convolution with ones adds up in their places."""
    kh, kw, channels, features = kernel.shape
    taps = kh * kw * features
    columns = jnp.einsum("nhwc,ct->nhwt", x, kernel.transpose(2, 0, 1, 3).reshape(channels, taps))
    ones = jnp.eye(taps, dtype=x.dtype).reshape(kh, kw, features, taps).swapaxes(2, 3)
    return _plain(columns, ones, stride=stride, padding=padding)
