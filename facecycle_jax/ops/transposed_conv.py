"""The transposed convolution of generator and normaliser, fast on each backend.

Layout NHWC, kernels [4, 4, in, out]; any value range.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from facecycle_jax.jax_names import (
    bilinear_primitive,
    default_matmul_precision,
    is_placed_by_type,
)
from facecycle_jax.ops.conv import ConvOptions, by_library, conv
from facecycle_jax.ops.portable import by_platform


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles height and width by a transposed convolution.

    Kernel 4, stride 2, padding 1.

    Args:
      x: [N, H, W, C].
      kernel: [4, 4, C, F], tap order of a convolution over the zero-filled input
        (PyTorch's kernels are mirrored against it).

    Returns:
      [N, 2 H, 2 W, F].

    Raises:
      ValueError: if the kernel is not 4 x 4 or its channels are not those of `x`.
    """
    if kernel.ndim != 4 or kernel.shape[:3] != (4, 4, x.shape[-1]):
        raise ValueError(
            f"kernel must be [4, 4, {x.shape[-1]}, F] for x {x.shape}, "
            f"got {kernel.shape}."
        )
    # The precision in force at the call, as in the library, not at compilation.
    precision = default_matmul_precision()
    plain = functools.partial(_by_zero_filling, precision=precision)

    # The operation of our own does not support sharded types.
    if is_placed_by_type(x) or is_placed_by_type(kernel):
        default = plain
    else:
        default = functools.partial(_zero_filled, precision=precision)
    return by_platform(x, kernel, cpu=_by_phases, default=default, portable=plain)


def _by_zero_filling(
    x: jax.Array, kernel: jax.Array, *, precision: str | None = None
) -> jax.Array:
    """Convolves by the library's function, which accelerators have kernels for."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _input_gradient(
    cotangent: jax.Array,
    x: jax.ShapeDtypeStruct,
    kernel: jax.Array,
    *,
    precision: str | None,
) -> jax.Array:
    """Computes the gradient by the input as JAX does."""
    transposed = jax.linear_transpose(
        lambda x: _by_zero_filling(x, kernel, precision=precision), x
    )
    return transposed(cotangent)[0]


def _kernel_gradient(
    cotangent: jax.Array,
    x: jax.Array,
    kernel: jax.ShapeDtypeStruct,
    *,
    precision: str | None,
) -> jax.Array:
    """Computes the gradient by the kernel through the convolution the other way.

    Tap k joins input i with output 2 i + 2 - k. So does tap 3 - k of a convolution with
    stride 2 that reads the output and writes the input. By JAX's own rule, XLA mirrors
    the whole cotangent on TPUs; here only the small kernel is mirrored.
    """
    taps = (4, 4, kernel.shape[3], kernel.shape[2])
    options = ConvOptions(stride=2, padding=((1, 1), (1, 1)), precision=precision)
    mirrored = by_library(cotangent, x, shape=taps, options=options)
    return lax.rev(mirrored, (0, 1)).swapaxes(2, 3)


_zero_filled = bilinear_primitive(
    "facecycle_transposed_conv",
    library=_by_zero_filling,
    on_cpu=_by_zero_filling,
    gradients=(_input_gradient, _kernel_gradient),
)


def _by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a 2x2 convolution for each of the four positions in an output cell.

    XLA's CPU backend has no fast weight gradient for zero-filled inputs. Its plain
    loops take longer than the rest of a train step together.
    """
    n, height, width, channels = x.shape
    features = kernel.shape[-1]

    # Output row 2 i + a takes input rows i + a - 1 and i + a through kernel rows a and
    # a + 2; columns likewise. The axes are now (half, a, half, b, C, F).
    taps = kernel.reshape(2, 2, 2, 2, channels, features)
    rows = []
    for a in (0, 1):
        cells = []
        for b in (0, 1):
            padding = ((1 - a, a), (1 - b, b))
            cells.append(conv(x, taps[:, a, :, b], padding=padding))
        rows.append(jnp.stack(cells, axis=3))

    # [N, H, a, W, b, F] interleaves the four results.
    return jnp.stack(rows, axis=2).reshape(n, 2 * height, 2 * width, features)
