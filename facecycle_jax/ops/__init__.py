"""Pure array functions that need jax alone.

Convolution, sampling, resizing, pooling, similarity, pixel values, histograms
of gradients, augmentation and turns of a head.
"""

from facecycle_jax.ops.augment import augment_pairs, plain_pairs
from facecycle_jax.ops.conv import conv
from facecycle_jax.ops.gradient_histograms import (
    HISTOGRAM_SIZE,
    gradient_histograms,
)
from facecycle_jax.ops.grid_sample import grid_sample
from facecycle_jax.ops.normalisation import (
    at_least_float32,
    denormalise,
    normalise,
    normalise_lighting,
    pixels_to_unit,
    unit_length,
)
from facecycle_jax.ops.pixel_shuffle import (
    depth_to_space,
    pixel_shuffle,
    space_to_depth,
)
from facecycle_jax.ops.pooling import adaptive_average_pool, max_pool
from facecycle_jax.ops.resize import double_bilinear, resize_bilinear
from facecycle_jax.ops.ssim import ssim
from facecycle_jax.ops.transposed_conv import transposed_conv
from facecycle_jax.ops.turn import head_rotation, turned_flow, turned_grid
from facecycle_jax.ops.warp import backward_flow, clipped_grid, identity_grid, warp

__all__ = [
    "HISTOGRAM_SIZE",
    "adaptive_average_pool",
    "at_least_float32",
    "augment_pairs",
    "backward_flow",
    "clipped_grid",
    "conv",
    "denormalise",
    "depth_to_space",
    "double_bilinear",
    "gradient_histograms",
    "grid_sample",
    "head_rotation",
    "identity_grid",
    "max_pool",
    "normalise",
    "normalise_lighting",
    "pixel_shuffle",
    "pixels_to_unit",
    "plain_pairs",
    "resize_bilinear",
    "space_to_depth",
    "ssim",
    "transposed_conv",
    "turned_flow",
    "turned_grid",
    "unit_length",
    "warp",
]
