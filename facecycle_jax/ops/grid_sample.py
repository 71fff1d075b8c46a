"""Sampling of images and maps at arbitrary places, with its own derivative rule.

Images [..., H, W, C] of any value range; grids [..., h, w, 2] of (x, y), where -1 and 1
are the first and last pixel of a row or column: their centres with `align_corners`,
else their outer edges.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.ops import _sampling
from facecycle_jax.ops.portable import by_platform, is_portable

PADDINGS = ("zeros", "border", "reflection")
MODES = ("bilinear", "nearest")
IMPLEMENTATIONS = ("auto", "gather", "matmul", "dense", "separable", "autodiff")
# Above this many pixels the products' weights outgrow what gathers cost, also on a TPU.
_MATMUL_PIXELS = 64 * 64


class _Options(NamedTuple):
    """Static arguments, hashable for the derivative rule."""

    align_corners: bool
    padding: str
    mode: str
    implementation: str


def grid_sample(
    image: jax.Array,
    grid: jax.Array,
    *,
    align_corners: bool,
    padding: str = "zeros",
    mode: str = "bilinear",
    implementation: str = "auto",
) -> jax.Array:
    """Samples `image` at the places in `grid`.

    Results equal those of PyTorch's function of this name.

    First derivatives in reverse mode have a rule of their own. For second derivatives
    or forward mode use `implementation='autodiff'`, the plain formula. It has the same
    values and first derivatives, is differentiable any number of times, and has a
    slower backward pass.

    A sample whose coordinate is NaN is zero and passes no gradient to image or grid.
    With reflection this also holds for coordinates farther than 2^24 pixels. Other
    infinite or huge coordinates lie outside: zeros, or the edge with border padding.
    Invalid coordinates never affect other samples. With aligned corners every finite
    coordinate along an axis of one pixel is the centre of that pixel.

    A NaN in the image reaches every sample with a tap on it, even if the tap's weight
    is zero. With 'matmul' it reaches every sample of that image.

    Args:
      image: [..., H, W, C], float32 or bfloat16.
      grid: [..., h, w, 2], floating point. Leading axes broadcast against those of
        `image`. Positions are computed in float32.
      align_corners: whether -1 and 1 are the centres of the corner pixels or their
        outer edges.
      padding: what lies outside: 'zeros', 'border' (the nearest edge pixel) or
        'reflection'.
      mode: 'bilinear' or 'nearest' (halves go to the even pixel; no gradient to the
        grid).
      implementation: 'gather' is one gather of the four taps, with a scatter-add
        backward. 'dense', 'separable' and 'matmul' are products with hat weights for
        matrix units: of all pixels at once, of columns and then rows, or whichever
        needs less memory. 'autodiff' see above. 'auto' is 'matmul' on TPUs for images
        of up to 64x64 pixels and 'gather' elsewhere, chosen by the platform that the
        program is compiled for.

    Returns:
      [..., h, w, C], dtype of `image`.

    Raises:
      ValueError: if shapes, dtypes or names do not fit.

    References:
      Jaderberg et al., "Spatial transformer networks", NeurIPS 2015, equations 5-7.
    """
    lead = _check(
        image, grid, padding=padding, mode=mode, implementation=implementation
    )
    image = jnp.broadcast_to(image, lead + image.shape[-3:])
    grid = jnp.broadcast_to(grid, lead + grid.shape[-3:])
    options = _Options(
        align_corners=align_corners,
        padding=padding,
        mode=mode,
        implementation=implementation,
    )

    # One axis of images and one of samples. The sizes are spelled out, because -1 is
    # undefined where there is no image or no sample.
    count = math.prod(lead)
    flat_image = image.reshape(count, *image.shape[-3:])
    flat_grid = grid.reshape(count, grid.shape[-3] * grid.shape[-2], 2)

    # Other programs know no derivative rules.
    plain = implementation == "autodiff" or is_portable()
    sample = _sample_plain if plain else _sample
    out = sample(flat_image, flat_grid, options)
    return out.reshape(*lead, *grid.shape[-3:-1], image.shape[-1])


def _check(
    image: jax.Array, grid: jax.Array, *, padding: str, mode: str, implementation: str
) -> tuple[int, ...]:
    """Checks the arguments and returns the common leading axes."""
    choices = (
        ("padding", padding, PADDINGS),
        ("mode", mode, MODES),
        ("implementation", implementation, IMPLEMENTATIONS),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(
                f"grid_sample: {name} must be one of {known}, got {value!r}."
            )

    if image.ndim < 3 or grid.ndim < 3 or grid.shape[-1] != 2:
        raise ValueError(
            "grid_sample takes image [..., H, W, C] and grid [..., h, w, 2], "
            f"got {image.shape} and {grid.shape}."
        )
    if 0 in image.shape[-3:]:
        raise ValueError(f"grid_sample: the image has no pixels, shape {image.shape}.")
    for name, array in (("image", image), ("grid", grid)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"grid_sample: {name} must be floating point, got {array.dtype}."
            )

    try:
        return jnp.broadcast_shapes(image.shape[:-3], grid.shape[:-3])
    except ValueError:
        raise ValueError(
            f"grid_sample: leading axes {image.shape[:-3]} of the image and "
            f"{grid.shape[:-3]} of the grid do not broadcast."
        ) from None


def _by_platform(
    options: _Options, pixels: int, function: Callable[..., Any], *operands: Any
) -> Any:
    """Calls function(implementation, *operands), with 'auto' resolved."""
    if options.implementation != "auto":
        return function(options.implementation, *operands)

    gather = functools.partial(function, "gather")
    if pixels > _MATMUL_PIXELS:
        return gather(*operands)

    matmul = functools.partial(function, "matmul")
    return by_platform(*operands, tpu=matmul, default=gather)


def _taps(shape: tuple[int, ...], grid: jax.Array, options: _Options) -> _sampling.Taps:
    """Computes the taps of a grid [N, P, 2] in images [N, H, W, C] of this shape."""
    return _sampling.make_taps(
        grid,
        height=shape[1],
        width=shape[2],
        align_corners=options.align_corners,
        padding=options.padding,
        mode=options.mode,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(image: jax.Array, grid: jax.Array, options: _Options) -> jax.Array:
    """Samples [N, H, W, C] at [N, P, 2] -> [N, P, C]."""
    taps = _taps(image.shape, grid, options)
    pixels = image.shape[1] * image.shape[2]

    def forward(
        implementation: str, image: jax.Array, taps: _sampling.Taps
    ) -> jax.Array:
        return _sampling.FORWARD[implementation](image, taps)

    return _by_platform(options, pixels, forward, image, taps)


def _sample_forward(
    image: jax.Array, grid: jax.Array, options: _Options
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass computes the taps again: they are cheap, and larger than the
    # grid.
    return _sample(image, grid, options), (image, grid)


def _sample_backward(
    options: _Options, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, grid = residuals
    taps = _taps(image.shape, grid, options)
    pixels = image.shape[1] * image.shape[2]

    def backward(
        implementation: str,
        image: jax.Array,
        taps: _sampling.Taps,
        cotangent: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        return _sampling.BACKWARD[implementation](image, taps, cotangent)

    d_image, d_position = _by_platform(
        options, pixels, backward, image, taps, cotangent
    )

    # 0 * inf would be NaN where a cotangent is infinite: no gradient means none.
    d_grid = jnp.where(taps.slope == 0, 0.0, d_position * taps.slope)
    return d_image.astype(image.dtype), d_grid.astype(grid.dtype)


_sample.defvjp(_sample_forward, _sample_backward)


def _sample_plain(image: jax.Array, grid: jax.Array, options: _Options) -> jax.Array:
    """Samples by the formula alone, without a derivative rule of its own."""
    return _sampling.gather_forward(image, _taps(image.shape, grid, options))
