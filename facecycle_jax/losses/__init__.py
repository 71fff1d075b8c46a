"""Pure loss functions. The methods average and weight them.

Most return one value per example. `mean_flow`, `orthogonality` and `windowed_mean`
return one value for a whole batch, whose items they compare or rank.
"""

from facecycle_jax.losses.contrast import (
    contrast_accuracy,
    contrastive_logits,
    contrastive_logits_of_sets,
    info_nce,
    orthogonality,
)
from facecycle_jax.losses.cycle import (
    bending,
    feature_loss,
    fine_detail,
    folding,
    gram_loss,
    gram_matrix,
    l1,
    margin,
    mean_flow,
    saturation,
    ssim_loss,
    symmetry,
)
from facecycle_jax.losses.windowed import (
    Curriculum,
    move_curriculum,
    start_curriculum,
    window_bounds,
    windowed_mean,
)

__all__ = [
    "Curriculum",
    "bending",
    "contrast_accuracy",
    "contrastive_logits",
    "contrastive_logits_of_sets",
    "feature_loss",
    "fine_detail",
    "folding",
    "gram_loss",
    "gram_matrix",
    "info_nce",
    "l1",
    "margin",
    "mean_flow",
    "move_curriculum",
    "orthogonality",
    "saturation",
    "ssim_loss",
    "start_curriculum",
    "symmetry",
    "window_bounds",
    "windowed_mean",
]
