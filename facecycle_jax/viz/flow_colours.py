"""Optical flow as colours, in the convention of the Middlebury benchmark.

Flows are [..., H, W, 2], (x, y) with y pointing down, in any unit. Images are uint8
[..., H, W, 3], RGB. The hue is the direction of the flow and the saturation its length,
so no flow is white.
"""

import functools

import numpy as np

from facecycle_jax.errors import UserError

# Steps of the wheel between its six colours: red-yellow, -green, -cyan, -blue,
# -magenta, -red.
_STEPS = (15, 6, 4, 11, 13, 6)
_EPSILON = 1e-5


@functools.cache
def _colour_wheel() -> np.ndarray:
    """Makes the colours of the 55 directions, float64 [55, 3], 0..255."""
    wheel = np.zeros((sum(_STEPS), 3))
    start = 0
    for segment, steps in enumerate(_STEPS):
        ramp = np.floor(255 * np.arange(steps) / steps)

        # Segments alternate: one channel rises, then the one before it falls.
        full = ((segment + 1) // 2) % 3
        moving = (1 - segment) % 3
        wheel[start : start + steps, full] = 255
        wheel[start : start + steps, moving] = 255 - ramp if segment % 2 else ramp
        start += steps
    return wheel


def flow_to_rgb(flow: np.ndarray, *, max_flow: float | None = None) -> np.ndarray:
    """Draws flow fields as colours.

    Args:
      flow: [..., H, W, 2] (x, y), any unit, finite.
      max_flow: the length drawn with full saturation, in the unit of `flow`; None takes
        the longest vector of each field, so that fields of different strength look
        alike. Longer vectors are drawn darker.

    Returns:
      uint8 [..., H, W, 3], RGB; white where there is no flow.

    Raises:
      UserError: if the last axis is not 2, a value is not finite, or `max_flow` is not
        above 0.

    References:
      Baker et al., "A Database and Evaluation Methodology for Optical Flow", ICCV 2007.
    """
    flow = np.asarray(flow, np.float64)
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise UserError(
            f"flow_to_rgb takes flow [..., H, W, 2], got shape {flow.shape}."
        )
    if not np.isfinite(flow).all():
        bad = int((~np.isfinite(flow)).sum())
        raise UserError(
            f"flow_to_rgb takes finite flow, got {bad} of {flow.size} values that are "
            "not."
        )
    if max_flow is not None and not max_flow > 0:
        raise UserError(f"max_flow must be above 0, got {max_flow}.")

    # Lengths as fractions of the longest.
    length = np.linalg.norm(flow, axis=-1, keepdims=True)
    if max_flow is None:
        longest = length.max(axis=(-3, -2), keepdims=True, initial=0.0) + _EPSILON
    else:
        longest = max_flow
    x, y = np.moveaxis(flow / longest, -1, 0)
    radius = length[..., 0] / np.broadcast_to(longest, length.shape)[..., 0]

    # The direction's place on the wheel, between two of its colours.
    wheel = _colour_wheel()
    count = len(wheel)
    position = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (count - 1)
    low = np.floor(position).astype(np.int32)
    part = (position - low)[..., None]
    colour = ((1 - part) * wheel[low] + part * wheel[(low + 1) % count]) / 255

    # Shorter vectors are mixed with white; longer than the longest are darkened.
    radius = radius[..., None]
    inside = 1 - radius * (1 - colour)
    shade = np.where(radius <= 1, inside, colour * 0.75)
    return np.floor(255 * shade).astype(np.uint8)


def flow_legend(size: int) -> np.ndarray:
    """Draws the key to the colours.

    Each pixel's colour is that of the flow from the centre to it.

    Args:
      size: side of the image, in pixels.

    Returns:
      uint8 [size, size, 3]: a disc on white.

    Raises:
      UserError: if `size` is below 1.
    """
    if size < 1:
        raise UserError(f"flow_legend needs a size of at least 1 pixel, got {size}.")

    # Centres of the pixels in -1..1, as a flow of their own position.
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)

    outside = np.linalg.norm(flow, axis=-1) > 1
    legend = flow_to_rgb(flow, max_flow=1.0)
    legend[outside] = 255
    return legend
