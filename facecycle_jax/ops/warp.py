"""Warping by a dense flow. Flows are (x, y) displacements in the grid's units.

2 is the whole picture.

Layout [..., H, W, C] for what is warped and [..., h, w, 2] for flows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.ops.grid_sample import grid_sample
from facecycle_jax.ops.resize import resize_bilinear


def identity_grid(*, height: int, width: int, align_corners: bool = True) -> jax.Array:
    """Builds the grid that samples every pixel at its own place.

    Args:
      height: rows, at least 1.
      width: columns, at least 1.
      align_corners: see `grid_sample`.

    Returns:
      float32 [height, width, 2] of (x, y) in [-1, 1]: the centres of the pixels.
    """
    axes = [
        np.linspace(-1.0, 1.0, n) * (1.0 if align_corners else 1.0 - 1.0 / n)
        for n in (width, height)
    ]
    x, y = np.meshgrid(*axes)
    return jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)


def warp(
    images: jax.Array,
    flow: jax.Array,
    *,
    clamp: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Samples `images` at the identity grid plus `flow`.

    Bilinear, zeros outside, corners aligned.

    Args:
      images: [..., H, W, C] floating point.
      flow: [..., h, w, 2] floating point; resized bilinearly (corners aligned) to H x
        W.
      clamp: cut the resized flow to [-1, 1], as FaceCycle does where it warps pictures
        and does not where it warps features.
      implementation: see `grid_sample`.

    Returns:
      [..., H, W, C], dtype of `images`.

    References:
      FaceCycle (ICCV 2021), section 3.1; Jaderberg et al., "Spatial transformer
      networks", NeurIPS 2015.
    """
    height, width = images.shape[-3:-1]
    flow = resize_bilinear(flow.astype(jnp.float32), height=height, width=width)
    if clamp:
        flow = jnp.clip(flow, -1.0, 1.0)
    grid = identity_grid(height=height, width=width) + flow
    return grid_sample(images, grid, align_corners=True, implementation=implementation)


def backward_flow(flow: jax.Array, *, implementation: str = "auto") -> jax.Array:
    """Approximates the inverse of a flow.

    Minus the flow, carried along itself and cut to [-1, 1].

    Args:
      flow: [..., h, w, 2].
      implementation: see `grid_sample`.

    Returns:
      [..., h, w, 2] in [-1, 1].

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    return -jnp.clip(warp(flow, flow, implementation=implementation), -1.0, 1.0)
