"""Warping of images and maps by a dense flow.

What is warped is [..., H, W, C]. Flows are [..., h, w, 2] displacements (x, y) in the
grid's units, where 2 is the whole width or height.
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
    axes = []
    for size in (width, height):
        # Unless -1 and 1 are the centres of the outer pixels, those lie half a pixel
        # inside the range.
        reach = 1.0 if align_corners else 1.0 - 1.0 / size
        axes.append(np.linspace(-1.0, 1.0, size) * reach)

    x, y = np.meshgrid(*axes)
    return jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)


def clipped_grid(flow: jax.Array) -> jax.Array:
    """Turns flows into sampling grids: each pixel's place plus the flow.

    Args:
      flow: [..., H, W, 2], (x, y) in units of half an image, corners aligned.

    Returns:
      [..., H, W, 2], cut to [-1, 1].
    """
    base = identity_grid(height=flow.shape[-3], width=flow.shape[-2])
    return jnp.clip(base + flow, -1.0, 1.0)


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
      clamp: whether the resized flow is cut to [-1, 1]. FaceCycle cuts it where it
        warps images, and not where it warps features.
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

    The result is minus the flow, warped by itself and cut to [-1, 1].

    Args:
      flow: [..., h, w, 2].
      implementation: see `grid_sample`.

    Returns:
      [..., h, w, 2] in [-1, 1].

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    return -jnp.clip(warp(flow, flow, implementation=implementation), -1.0, 1.0)
