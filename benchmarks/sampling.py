"""Grid sampling of maps, by each of our implementations and by PyTorch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.layers import torch_program
from benchmarks.ours import PRECISIONS, Setting, compiled_program
from facecycle_jax import ops

# Square maps that the paper's networks sample: side, channels. The last ones are
# images.
MAPS = ((16, 256), (32, 128), (64, 3))
# Those of `ops.grid_sample`. 'auto' is one of the others, chosen for the shape.
IMPLEMENTATIONS = ("auto", "gather", "dense", "separable", "autodiff")


def measure(setting: Setting, *, torch: bool, repeats: int) -> list[timing.Row]:
    """Measures sampling, forward and with gradients.

    Args:
      setting: gives batch (two maps a pair), precision and device.
      torch: whether PyTorch is measured too.
      repeats: number of timed calls of each program.

    Returns:
      The rows.
    """
    maps = 2 * setting.batch
    settings = {"maps": maps, "precision": setting.precision, "device": setting.device}

    rows = []
    for side, channels in MAPS:
        image, grid = draw_arrays((maps, side, side, channels))
        for backward in (False, True):
            programs: dict[str, timing.Program | str] = {}
            for implementation in IMPLEMENTATIONS:
                make = functools.partial(
                    our_program,
                    image,
                    grid,
                    implementation=implementation,
                    backward=backward,
                    setting=setting,
                )
                programs[implementation] = timing.built(make)
            if torch:
                programs["torch"] = torch_program(
                    "grid_sample_program",
                    image,
                    grid,
                    setting=setting,
                    backward=backward,
                )

            rows += timing.measure(
                f"grid-sample {describe(side, channels, backward=backward)}",
                programs,
                settings=settings,
                repeats=repeats,
            )
    return rows


def describe(side: int, channels: int, *, backward: bool) -> str:
    """Names a sampling, e.g. '16x16x256 with gradients'."""
    gradients = " with gradients" if backward else ""
    return f"{side}x{side}x{channels}{gradients}"


def draw_arrays(
    shape: tuple[int, int, int, int], *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws maps, and a smooth grid that mostly stays inside them, as a learned flow.

    Args:
      shape: [N, H, W, C] of the maps.
      seed: of the random numbers.

    Returns:
      float32 maps [N, H, W, C], and a grid float32 [N, H, W, 2], (x, y) from -1 to 1.
    """
    rng = np.random.default_rng(seed)
    count, height, width, _ = shape
    coarse = rng.normal(0, 0.15, (count, 4, 4, 2)).astype(np.float32)
    flow = ops.resize_bilinear(jnp.asarray(coarse), height=height, width=width)
    grid = ops.identity_grid(height=height, width=width) + flow
    return rng.standard_normal(shape).astype(np.float32), np.asarray(grid)


def sampling_function(implementation: str, *, backward: bool) -> Callable[..., Any]:
    """Returns a function of (image, grid), to be jitted.

    Args:
      implementation: one of `IMPLEMENTATIONS`.
      backward: whether it also returns the gradients of image and grid.

    Returns:
      The function. Its result is the sampled image, and the gradients if requested.
    """
    sample = functools.partial(
        ops.grid_sample, align_corners=True, implementation=implementation
    )

    def with_gradients(image: jax.Array, grid: jax.Array) -> Any:
        out, pull = jax.vjp(sample, image, grid)
        # Any cotangent will do, and the output has its shape.
        return out, pull(out)

    return with_gradients if backward else sample


def our_program(
    image: np.ndarray,
    grid: np.ndarray,
    *,
    implementation: str,
    backward: bool,
    setting: Setting,
) -> timing.Program:
    """Builds a program that samples the image in the setting's precision.

    Args:
      image: float32 [N, H, W, C].
      grid: float32 [N, H, W, 2], which stays float32.
      implementation: one of `IMPLEMENTATIONS`.
      backward: whether the gradients of image and grid are computed too.
      setting: gives precision and device.

    Returns:
      The program.
    """
    sample = sampling_function(implementation, backward=backward)
    dtype = PRECISIONS[setting.precision][0]
    return compiled_program(sample, (jnp.asarray(image, dtype), grid), setting)
