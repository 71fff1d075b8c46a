"""Gradients of single layers, as this package and as the libraries compute them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import flops, timing
from benchmarks.ours import PRECISIONS, Setting, compiled_program
from facecycle_jax import ops

# Convolutions at the paper's width: taps in a row, side of the result, channels,
# features. The generator's, a phase of its transposed ones, and one of 64 channels.
CONVOLUTIONS = (
    (3, 16, 256, 256),
    (3, 32, 128, 128),
    (3, 64, 128, 128),
    (3, 64, 128, 3),
    (2, 32, 256, 128),
    (3, 64, 64, 64),
)
# Max pooling in VGG-19: side of the maps, channels.
POOLINGS = ((64, 64), (32, 128))

# A function of (maps, cotangent).
Gradient = Callable[[jax.Array, jax.Array], Any]


class _Case(NamedTuple):
    """A layer's gradient, computed in several ways.

    Attributes:
      name: of the case.
      ours: as this package computes it.
      library: as JAX's own functions compute it.
      torch: name of the function in `torch_programs` that builds PyTorch's program.
      arrays: float32 maps [N, H, W, C], and the cotangent of the layer's output.
      options: what PyTorch's program needs in addition.
      flops: operations of one call; None if they are not counted.
    """

    name: str
    ours: Gradient
    library: Gradient
    torch: str
    arrays: list[np.ndarray]
    options: dict[str, int]
    flops: float | None


def measure(
    setting: Setting, *, torch: bool, repeats: int, peak: float
) -> list[timing.Row]:
    """Measures the gradients of kernels, and max pooling with its gradient.

    Args:
      setting: gives batch (two maps a pair), precision and device. The shapes are those
        of width 1.
      torch: whether PyTorch is measured too.
      repeats: number of timed calls of each program.
      peak: operations a second of the device.

    Returns:
      The rows.
    """
    maps = 2 * setting.batch
    settings = {"maps": maps, "precision": setting.precision, "device": setting.device}

    rows = []
    for case in _cases(maps):
        programs: dict[str, timing.Program | str] = {}
        for name, function in (("ours", case.ours), ("library", case.library)):
            make = functools.partial(_program, function, case.arrays, setting)
            programs[name] = timing.built(make)
        if torch:
            programs["torch"] = torch_program(
                case.torch, *case.arrays, setting=setting, **case.options
            )

        work = None
        if case.flops is not None:
            work = timing.Work(images=maps, flops=case.flops, peak=peak)
        rows += timing.measure(
            case.name, programs, settings=settings, repeats=repeats, work=work
        )
    return rows


def _cases(maps: int) -> Iterator[_Case]:
    """Yields the cases one by one, because the arrays of all may be large."""
    for convolution in CONVOLUTIONS:
        yield _convolution(maps, *convolution)
    for pooling in POOLINGS:
        yield _pooling(maps, *pooling)


def _convolution(
    maps: int, taps: int, side: int, channels: int, features: int
) -> _Case:
    """Makes the case of a convolution's gradient by its kernel."""
    pad = padding_of(taps)
    side_before = side + taps - 1 - 2 * pad
    name = f"kernel's gradient {taps}x{taps}, {side}x{side}x{channels} to {features}"

    # This gradient has as many products as the forward pass.
    layer = flops.conv(side_before, channels, features, kernel=taps)
    return _Case(
        name=name,
        ours=_kernel_gradient(ops.conv, taps),
        library=_kernel_gradient(_library_conv, taps),
        torch="kernel_gradient_program",
        arrays=_draw(
            (maps, side_before, side_before, channels), (maps, side, side, features)
        ),
        options={"taps": taps, "padding": pad},
        flops=maps * layer.flops,
    )


def _pooling(maps: int, side: int, channels: int) -> _Case:
    """Makes the case of 2x2 max pooling with its gradient."""
    half = side // 2
    return _Case(
        name=f"max pooling {side}x{side}x{channels} with gradient",
        ours=_pooled(ops.max_pool),
        library=_pooled(_library_pool),
        torch="max_pool_program",
        arrays=_draw((maps, side, side, channels), (maps, half, half, channels)),
        options={},
        flops=None,
    )


def padding_of(taps: int) -> int:
    """Returns the number of zeros to pad on each side of a map.

    With an odd number of taps the map then keeps its size.
    """
    return (taps - 1) // 2


def _draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Draws float32 arrays of these shapes."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _library_conv(x: jax.Array, kernel: jax.Array, *, padding: Any) -> jax.Array:
    """Convolves maps [N, H, W, C] with a kernel [h, w, C, F]."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _library_pool(x: jax.Array) -> jax.Array:
    """Computes the maximum of 2x2 areas of maps [N, H, W, C]."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _kernel_gradient(conv: Callable[..., jax.Array], taps: int) -> Gradient:
    """Builds the gradient of a convolution by its kernel."""
    pad = padding_of(taps)

    def gradient(x: jax.Array, cotangent: jax.Array) -> Any:
        # A convolution is linear in its kernel, so that zeros serve as well as weights.
        kernel = jnp.zeros((taps, taps, x.shape[-1], cotangent.shape[-1]), x.dtype)
        padding = ((pad, pad), (pad, pad))
        _, pull = jax.vjp(lambda kernel: conv(x, kernel, padding=padding), kernel)
        return pull(cotangent)

    return gradient


def _pooled(pool: Callable[[jax.Array], jax.Array]) -> Gradient:
    """Builds a pooling with its gradient."""

    def with_gradient(x: jax.Array, cotangent: jax.Array) -> Any:
        pooled, pull = jax.vjp(pool, x)
        return pooled, pull(cotangent)

    return with_gradient


def _program(
    function: Gradient, arrays: Sequence[np.ndarray], setting: Setting
) -> timing.Program:
    """Builds a program that calls a function in the setting's precision."""
    dtype = PRECISIONS[setting.precision][0]
    arguments = [jnp.asarray(array, dtype) for array in arrays]
    return compiled_program(function, arguments, setting)


def torch_program(
    name: str, *arrays: np.ndarray, setting: Setting, **options: int
) -> timing.Program | str:
    """Builds a program of `torch_programs`, or states why it cannot be run here.

    Args:
      name: of the function that builds it.
      *arrays: its arrays.
      setting: gives precision and device.
      **options: its other options.

    Returns:
      The program, or the reason.
    """
    from benchmarks import torch_programs

    make = getattr(torch_programs, name)
    return timing.built(lambda: make(*arrays, setting=setting, **options))
