"""The transposed convolution of generator and normaliser, by the form that is fast on each backend.

Layout NHWC, kernels [4, 4, in, out]; any value range.
"""

import jax
import jax.numpy as jnp
from jax import lax

from facecycle_jax.ops.conv import conv


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles height and width by a transposed convolution of kernel 4, stride 2 and padding 1.

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
            f"kernel must be [4, 4, {x.shape[-1]}, F] for x {x.shape}, got {kernel.shape}."
        )
    return lax.platform_dependent(x, kernel, cpu=_by_phases, default=_by_zero_filling)


def _by_zero_filling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The library form, which accelerators have kernels for."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One 2x2 convolution for each of the four positions within an output cell.

    XLA's CPU backend has no fast weight gradient for zero-filled inputs: its plain
    loops take longer than the rest of a train step together.
    """
    n, height, width, channels = x.shape
    features = kernel.shape[-1]
    # Output row 2 i + a takes input rows i + a - 1 and i + a through kernel rows a and
    # a + 2.
    taps = kernel.reshape(2, 2, 2, 2, channels, features)
    rows = []
    for a in (0, 1):
        cells = [
            conv(x, taps[:, a, :, b], padding=((1 - a, a), (1 - b, b))) for b in (0, 1)
        ]
        rows.append(jnp.stack(cells, axis=3))
    return jnp.stack(rows, axis=2).reshape(n, 2 * height, 2 * width, features)
