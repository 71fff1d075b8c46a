"""Gradients of single layers, as this package and as the libraries compute them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import timing
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


def measure(
    setting: Setting, *, torch: bool, repeats: int, peak: float
) -> list[timing.Row]:
    """Measures the gradients by kernels, and max pooling with its gradient.

    Args:
      setting: two maps a pair, precision and device; the shapes are those of width 1.
      torch: whether PyTorch's are measured too.
      repeats: timed calls of each program.
      peak: operations a second of the device.

    Returns:
      The rows.
    """
    maps = 2 * setting.batch
    settings = {"maps": maps, "precision": setting.precision, "device": setting.device}
    rows = []

    def compare(
        case: str,
        ours: Any,
        library: Any,
        name: str,
        arrays: Any,
        work: timing.Work | None = None,
        **options: int,
    ) -> None:
        programs: dict[str, timing.Program | str] = {
            "ours": timing.built(lambda: _program(ours, arrays, setting)),
            "library": timing.built(lambda: _program(library, arrays, setting)),
        }
        if torch:
            programs["torch"] = torch_program(name, *arrays, setting=setting, **options)
        rows.extend(
            timing.measure(
                case, programs, settings=settings, repeats=repeats, work=work
            )
        )

    for taps, side, channels, features in CONVOLUTIONS:
        pad = padding_of(taps)
        around = side + taps - 1 - 2 * pad
        arrays = _draw((maps, around, around, channels), (maps, side, side, features))
        work = timing.Work(
            maps, 2.0 * maps * side * side * taps * taps * channels * features, peak
        )
        case = (
            f"kernel's gradient {taps}x{taps}, {side}x{side}x{channels} to {features}"
        )
        ours, library = (
            _kernel_gradient(conv, taps) for conv in (ops.conv, _library_conv)
        )
        compare(
            case,
            ours,
            library,
            "kernel_gradient_program",
            arrays,
            work,
            taps=taps,
            padding=pad,
        )
    for side, channels in POOLINGS:
        arrays = _draw(
            (maps, side, side, channels), (maps, side // 2, side // 2, channels)
        )
        case = f"max pooling {side}x{side}x{channels} with gradient"
        compare(
            case,
            _pooled(ops.max_pool),
            _pooled(_library_pool),
            "max_pool_program",
            arrays,
        )
    return rows


def padding_of(taps: int) -> int:
    """Returns the number of zeros to pad on each side of a map.

    With an odd number of taps the map then keeps its size.
    """
    return (taps - 1) // 2


def _draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _library_conv(x: jax.Array, kernel: jax.Array, *, padding: Any) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _library_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _kernel_gradient(
    conv: Callable[..., jax.Array], taps: int
) -> Callable[[jax.Array, jax.Array], Any]:
    """Builds the gradient of a convolution by its kernel, of input and cotangent."""
    pad = (padding_of(taps),) * 2

    def gradient(x: jax.Array, cotangent: jax.Array) -> Any:
        kernel = jnp.zeros((taps, taps, x.shape[-1], cotangent.shape[-1]), x.dtype)
        return jax.vjp(lambda kernel: conv(x, kernel, padding=(pad, pad)), kernel)[1](
            cotangent
        )

    return gradient


def _pooled(
    pool: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], Any]:
    def both(x: jax.Array, cotangent: jax.Array) -> Any:
        y, pull = jax.vjp(pool, x)
        return y, pull(cotangent)

    return both


def _program(
    function: Callable[..., Any], arrays: list[np.ndarray], setting: Setting
) -> timing.Program:
    dtype = PRECISIONS[setting.precision][0]
    return compiled_program(function, [jnp.asarray(a, dtype) for a in arrays], setting)


def torch_program(
    name: str, *arrays: np.ndarray, setting: Setting, **options: int
) -> timing.Program | str:
    """Builds a program of `torch_programs` by its name, or says why there is none."""
    from benchmarks import torch_programs

    make = getattr(torch_programs, name)
    return timing.built(lambda: make(*arrays, setting=setting, **options))
