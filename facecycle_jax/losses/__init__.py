"""Pure loss functions, one value per example; the methods average and weigh them."""

from facecycle_jax.losses.code import saturation
from facecycle_jax.losses.flow import folding
from facecycle_jax.losses.perceptual import feature_loss, gram_loss, gram_matrix
from facecycle_jax.losses.pixel import l1, margin, symmetry
from facecycle_jax.losses.structural import ssim_loss

__all__ = [
    "feature_loss",
    "folding",
    "gram_loss",
    "gram_matrix",
    "l1",
    "margin",
    "saturation",
    "ssim_loss",
    "symmetry",
]
