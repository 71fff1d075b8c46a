"""The implementations behind `grid_sample`: gathers and products with hat weights.

Images are [N, H, W, C] and places [N, P]. Both directions work on `Taps`, computed in
float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST


class Taps(NamedTuple):
    """Places of all samples between their neighbours.

    Attributes:
      low: int32 [N, P, 2], (x, y) of the upper left tap; may be -2 .. size + 1, outside
        the image.
      weight: float32 [N, P, 2], weight of the next tap in x and y, in [0, 1]; low has 1
        - weight.
      slope: float32 [N, P, 2], derivative of the pixel position by the grid's
        coordinate, 0 where the position does not move with it.
      valid: float32 [N, P], 0 for samples without a position.
    """

    low: jax.Array
    weight: jax.Array
    slope: jax.Array
    valid: jax.Array


def make_taps(
    grid: jax.Array,
    *,
    height: int,
    width: int,
    align_corners: bool,
    padding: str,
    mode: str,
) -> Taps:
    """Turns grid coordinates [N, P, 2] into taps."""
    x, x_slope, x_valid = _position(
        grid[..., 0], size=width, align_corners=align_corners, padding=padding
    )
    y, y_slope, y_valid = _position(
        grid[..., 1], size=height, align_corners=align_corners, padding=padding
    )
    position = jnp.stack([x, y], axis=-1)
    slope = jnp.stack([x_slope, y_slope], axis=-1)

    # A sample needs both of its coordinates.
    valid = x_valid & y_valid
    slope = jnp.where(valid[..., None], slope, 0.0)

    if mode == "nearest":
        # All weight on one tap, which does not move with the position.
        low = jnp.round(position)
        weight = jnp.zeros_like(position)
        slope = jnp.zeros_like(slope)
    else:
        low = jax.lax.stop_gradient(jnp.floor(position))
        weight = position - low

    return Taps(
        low=low.astype(jnp.int32),
        weight=weight,
        slope=slope,
        valid=valid.astype(jnp.float32),
    )


def _position(
    x: jax.Array, *, size: int, align_corners: bool, padding: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maps coordinates along one axis to pixel positions.

    Returns:
      The position, its derivative by the coordinate, and whether there is a position.
    """
    x = x.astype(jnp.float32)
    scale = (size - 1) / 2 if align_corners else size / 2

    valid = ~jnp.isnan(x)
    if padding == "reflection":
        # Beyond 2^24 pixels float32 cannot tell odd from even reflections.
        valid &= jnp.abs(x) * scale < 2.0**24
    x = jnp.where(valid, x, 0.0)

    if scale == 0:
        # One pixel with aligned corners: every finite coordinate is its centre.
        # Infinite ones stay outside, where 0 * inf would be NaN.
        raw = jnp.where(jnp.isinf(x), x, 0.0)
    else:
        raw = x * scale + (size - 1) / 2

    if padding == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        position, sign = _reflect(raw, low=low, span=span)
    else:
        position, sign = raw, jnp.ones_like(raw)

    if padding == "zeros":
        # Far outside is as good as just outside, and fits an integer.
        cut = jnp.clip(position, -2.0, size + 1.0)
        moves = (position > -2.0) & (position < size + 1.0)
    else:
        cut = jnp.clip(position, 0.0, size - 1.0)
        moves = (position > 0.0) & (position < size - 1.0)
    slope = jnp.where(moves, sign, 0.0) * scale

    # The value of `cut` with `slope` as its only derivative, for the plain formula: the
    # difference of `linear` and itself is 0 and has the derivative `slope`.
    finite = jnp.where(moves, x, 0.0)
    linear = slope * finite
    position = jax.lax.stop_gradient(cut) + (linear - jax.lax.stop_gradient(linear))
    return position, jax.lax.stop_gradient(slope), valid


def _reflect(raw: jax.Array, *, low: float, span: float) -> tuple[jax.Array, jax.Array]:
    """Folds positions into [low, low + span] by reflection at both ends.

    Returns:
      The folded positions, and their derivatives: 1 or -1, or 0 if the span is empty.
    """
    if span == 0:
        return jnp.zeros_like(raw), jnp.zeros_like(raw)

    # The lower end mirrors everything below it.
    distance = raw - low
    sign = jnp.where(distance < 0, -1.0, 1.0)
    distance = jnp.abs(distance)

    # Beyond that, every second span runs backwards.
    rest = jnp.fmod(distance, span)
    flipped = jnp.mod(jnp.floor(distance / span), 2) == 1
    folded = jnp.where(flipped, span - rest, rest) + low
    return folded, jnp.where(flipped, -sign, sign)


def _corner_weights(taps: Taps) -> jax.Array:
    """Computes the weights [N, P, 4] of the corners.

    Their order is upper left, upper right, lower left, lower right.
    """
    x = taps.weight[..., 0]
    y = taps.weight[..., 1]
    corners = [(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x]
    return jnp.stack(corners, axis=-1) * taps.valid[..., None]


def _corners(taps: Taps, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Computes flat indices [N, P, 4] of the corners, and whether they lie inside."""
    x = taps.low[..., :1] + jnp.array([0, 1, 0, 1])
    y = taps.low[..., 1:] + jnp.array([0, 0, 1, 1])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)

    # Corners outside read the nearest pixel, which the caller replaces by zero.
    index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    return index, inside


def _gather(image: jax.Array, index: jax.Array, inside: jax.Array) -> jax.Array:
    """Fetches all corners at once: [N, P, 4, C], zeros outside."""
    n, height, width, channels = image.shape
    flat = image.reshape(n, height * width, channels)
    count = 4 * index.shape[1]
    values = jnp.take_along_axis(flat, index.reshape(n, count, 1), axis=1)
    return jnp.where(inside[..., None], values.reshape(*index.shape, channels), 0)


def gather_forward(image: jax.Array, taps: Taps) -> jax.Array:
    """Samples [N, P, C] by one gather of the four taps."""
    index, inside = _corners(taps, *image.shape[1:3])
    values = _gather(image, index, inside).astype(jnp.float32)
    out = jnp.sum(values * _corner_weights(taps)[..., None], axis=2)

    # A sample without a position is zero even where it would multiply a NaN by zero.
    return jnp.where(taps.valid[..., None] > 0, out, 0.0).astype(image.dtype)


def gather_backward(
    image: jax.Array, taps: Taps, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients of image [N, H, W, C] and of pixel positions [N, P, 2]."""
    n, height, width, channels = image.shape
    index, inside = _corners(taps, height, width)
    count = 4 * index.shape[1]

    # By the image: each sample's cotangent, weighted, is added at its four corners.
    cotangent = jnp.where(taps.valid[..., None] > 0, cotangent.astype(jnp.float32), 0.0)
    spread = cotangent[:, :, None, :] * _corner_weights(taps)[..., None]
    spread = jnp.where(inside[..., None], spread, 0.0).reshape(n, count, channels)

    def add(index: jax.Array, values: jax.Array) -> jax.Array:
        zeros = jnp.zeros((height * width, channels), values.dtype)
        return zeros.at[index].add(values)

    d_image = jax.vmap(add)(index.reshape(n, count), spread).reshape(image.shape)

    # By the position: differences of neighbouring corners, after a product of each
    # corner's value with the cotangent, [N, P, 4].
    dots = jnp.einsum(
        "npkc,npc->npk",
        _gather(image, index, inside).astype(jnp.float32),
        cotangent,
        precision=_HIGHEST,
    )
    x = taps.weight[..., 0]
    y = taps.weight[..., 1]
    d_x = (1 - y) * (dots[..., 1] - dots[..., 0]) + y * (dots[..., 3] - dots[..., 2])
    d_y = (1 - x) * (dots[..., 2] - dots[..., 0]) + x * (dots[..., 3] - dots[..., 1])
    return d_image, jnp.stack([d_x, d_y], axis=-1)


def _hats(taps: Taps, axis: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Computes hat weights [N, P, size] along one axis.

    A hat is 1 - |pixel - position| where that is positive. Also returns its derivative
    by the position: 1 at the high tap, -1 at the low one.
    """
    at_low = taps.low[..., axis, None] == jnp.arange(size)
    at_high = taps.low[..., axis, None] + 1 == jnp.arange(size)
    weight = taps.weight[..., axis, None]
    hat = at_low * (1 - weight) + at_high * weight
    slope = at_high.astype(jnp.float32) - at_low.astype(jnp.float32)
    return hat, slope


def _dense_is_smaller(image: jax.Array) -> bool:
    """Checks whether 'dense' needs less memory than 'separable'.

    'dense' holds weights [P, H W] over all pixels, 'separable' rows [P, W C] of the
    image.
    """
    return image.shape[1] <= image.shape[3]


def _product(formula: str, *operands: jax.Array) -> jax.Array:
    """Computes an einsum that multiplies and adds in float32."""
    return jnp.einsum(
        formula, *operands, precision=_HIGHEST, preferred_element_type=jnp.float32
    )


def _weights(
    taps: Taps, image: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes x hat, x slope, y hat and y slope in the image's dtype."""
    x_hat, x_slope = _hats(taps, 0, image.shape[2])
    y_hat, y_slope = _hats(taps, 1, image.shape[1])
    x_hat = x_hat.astype(image.dtype)
    x_slope = x_slope.astype(image.dtype)
    y_hat = y_hat.astype(image.dtype)
    y_slope = y_slope.astype(image.dtype)

    # One of the two hats is enough to remove samples without a position.
    x_hat = x_hat * taps.valid[..., None].astype(image.dtype)
    return x_hat, x_slope, y_hat, y_slope


def dense_forward(image: jax.Array, taps: Taps) -> jax.Array:
    """Samples [N, P, C] by one product with weights [N, P, H, W] of all pixels."""
    x_hat, _, y_hat, _ = _weights(taps, image)
    weights = y_hat[..., :, None] * x_hat[..., None, :]
    return _product("npij,nijc->npc", weights, image).astype(image.dtype)


def dense_backward(
    image: jax.Array, taps: Taps, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients of image [N, H, W, C] and of pixel positions [N, P, 2]."""
    x_hat, x_slope, y_hat, y_slope = _weights(taps, image)
    cotangent = jnp.where(taps.valid[..., None] > 0, cotangent, 0)

    # By the image: the transposed product.
    weights = y_hat[..., :, None] * x_hat[..., None, :]
    d_image = _product("npij,npc->nijc", weights, cotangent)

    # By the position: [N, P, H, W] of each pixel's value times the cotangent, weighted
    # by the slope of one hat and the other hat.
    dots = _product("npc,nijc->npij", cotangent, image)
    d_x = jnp.sum(dots * y_hat[..., :, None] * x_slope[..., None, :], axis=(-2, -1))
    d_y = jnp.sum(dots * y_slope[..., :, None] * x_hat[..., None, :], axis=(-2, -1))
    return d_image, jnp.stack([d_x, d_y], axis=-1)


def separable_forward(image: jax.Array, taps: Taps) -> jax.Array:
    """Samples [N, P, C] along the columns for every sample, then along the rows."""
    x_hat, _, y_hat, _ = _weights(taps, image)
    rows = _product("npi,nijc->npjc", y_hat, image)
    out = _product("npj,npjc->npc", x_hat.astype(jnp.float32), rows)
    return out.astype(image.dtype)


def separable_backward(
    image: jax.Array, taps: Taps, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients of image [N, H, W, C] and of pixel positions [N, P, 2]."""
    x_hat, x_slope, y_hat, y_slope = _weights(taps, image)
    cotangent = jnp.where(taps.valid[..., None] > 0, cotangent, 0)

    # By the image: along the row [N, P, W, C], then down the columns.
    spread = x_hat[..., None] * cotangent[..., None, :]
    d_image = _product("npi,npjc->nijc", y_hat, spread)

    # By the position: the slope of one hat and the other hat, in the order of the
    # forward pass.
    rows = _product("npi,nijc->npjc", y_hat, image)
    d_x = _product("npj,npjc,npc->np", x_slope, rows, cotangent)
    row_slopes = _product("npi,nijc->npjc", y_slope, image)
    d_y = jnp.sum(spread * row_slopes, axis=(-2, -1))
    return d_image, jnp.stack([d_x, d_y], axis=-1)


def matmul_forward(image: jax.Array, taps: Taps) -> jax.Array:
    """Samples [N, P, C] by whichever products need less memory."""
    forward = dense_forward if _dense_is_smaller(image) else separable_forward
    return forward(image, taps)


def matmul_backward(
    image: jax.Array, taps: Taps, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes gradients of image [N, H, W, C] and of pixel positions [N, P, 2]."""
    backward = dense_backward if _dense_is_smaller(image) else separable_backward
    return backward(image, taps, cotangent)


FORWARD = {
    "gather": gather_forward,
    "matmul": matmul_forward,
    "dense": dense_forward,
    "separable": separable_forward,
}
BACKWARD = {
    "gather": gather_backward,
    "matmul": matmul_backward,
    "dense": dense_backward,
    "separable": separable_backward,
}
