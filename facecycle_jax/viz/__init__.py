"""Images for people: flow colours, captioned panels and line plots."""

from facecycle_jax.viz.code_map import thumbnail_map
from facecycle_jax.viz.curves import curves
from facecycle_jax.viz.flow_colours import flow_legend, flow_to_rgb
from facecycle_jax.viz.images import save_png
from facecycle_jax.viz.panel import grid, training_panel, translation_panel

__all__ = [
    "curves",
    "flow_legend",
    "flow_to_rgb",
    "grid",
    "save_png",
    "thumbnail_map",
    "training_panel",
    "translation_panel",
]
