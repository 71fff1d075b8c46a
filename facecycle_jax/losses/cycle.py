"""Losses of the two cycles on images, flows, codes and feature maps.

Each returns one value per example, but for `mean_flow`, which is of a whole batch.
Images and feature maps are [..., H, W, C]. Images are normalised, and feature maps are
rectified.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.ops import ssim
from facecycle_jax.ops.smoothing import smooth_neighbours

# The largest float32 below 1 is 1 - 6e-8. Beyond this value an arctanh is noise.
_LARGEST = 1 - 1e-6


def l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of each pair of images.

    Args:
      a: [..., H, W, C].
      b: [..., H, W, C], broadcast against `a`.

    Returns:
      float32 [...], 0 or more.
    """
    difference = a.astype(jnp.float32) - b.astype(jnp.float32)
    return jnp.mean(jnp.abs(difference), axis=(-3, -2, -1))


def symmetry(images: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of the left and the mirrored right half.

    Neutral faces are frontal, hence nearly symmetric. The middle column of an odd width
    is left out.

    Args:
      images: [..., H, W, C].

    Returns:
      float32 [...], 0 for images that equal their mirror image.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """
    half = images.shape[-2] // 2
    left = images[..., :half, :]
    right = jnp.flip(images[..., images.shape[-2] - half :, :], axis=-2)
    return l1(left, right)


def margin(
    a: jax.Array, b: jax.Array, *, width: float = 0.1, hinge: bool = False
) -> jax.Array:
    """Computes the mean of |a - b| - width, the margin term of the identity cycle.

    Args:
      a: [..., H, W, C].
      b: [..., H, W, C]; the leading axes of `a` and `b` are broadcast against each
        other.
      width: the margin, in normalised units.
      hinge: whether differences below the margin count as 0, as the paper describes.
        Its program does not cut them, so the gradient is that of L1 and also pulls
        images together within the margin. The program's behaviour is the default.

    Returns:
      float32 [...], at least -width (0 with the hinge).

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """
    excess = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)) - width
    if hinge:
        excess = jnp.maximum(excess, 0.0)
    return jnp.mean(excess, axis=(-3, -2, -1))


def fine_detail(images: jax.Array) -> jax.Array:
    """Computes how much of images is detail of a pixel or two, such as stripes.

    Args:
      images: [..., H, W, C].

    Returns:
      float32 [...]: the mean of |image - smoothed image|. Smoothing weighs each pixel
      and its neighbours 1, 2, 1 along both axes, and repeats the edges.
    """
    images = images.astype(jnp.float32)
    smooth = smooth_neighbours(images, 0.25, mode="edge")
    return jnp.mean(jnp.abs(images - smooth), axis=(-3, -2, -1))


def ssim_loss(a: jax.Array, b: jax.Array, *, value_range: float = 1.0) -> jax.Array:
    """Computes 1 - SSIM of each pair of images.

    Args:
      a: [..., H, W, C].
      b: same shape as `a`.
      value_range: L of the SSIM constants. FaceCycle's program uses 1, although
        normalised images span about 4.7. A larger value makes flat regions count less.

    Returns:
      float32 [...], between 0 and 2.
    """
    return 1.0 - ssim(a, b, value_range=value_range)


def folding(flow: jax.Array) -> jax.Array:
    """Computes how far a flow reverses the order of neighbouring places.

    Where it does, the warped image shows a place twice, once mirrored, and no flow can
    undo this. The backward flow is an inverse only of flows that do not fold. Training
    can collapse to a flow that mirrors half of the image, which makes every face
    symmetric.

    Args:
      flow: [..., H, W, 2], (x, y) in units where 2 is the whole image; H and W at least
        2.

    Returns:
      float32 [...]: the mean overlap of neighbours along x plus that along y, as
      fractions of the pixel distance. It is 0 for flows that keep the order, and 1 for
      the mirror image.
    """
    return _overlap(flow[..., 0], axis=-1) + _overlap(flow[..., 1], axis=-2)


def _overlap(flow: jax.Array, axis: int) -> jax.Array:
    """Computes the mean overlap of neighbours along one axis, [..., H, W] to [...]."""
    # Distances of neighbours after the warp: those of the identity, which are 1, plus
    # what the flow adds in pixels.
    change = jnp.diff(flow.astype(jnp.float32), axis=axis)
    steps = 1 + change * (flow.shape[axis] - 1) / 2
    return jnp.mean(jnp.maximum(-steps, 0), axis=(-2, -1))


def _in_places(flow: jax.Array) -> jax.Array:
    """Brings a flow [..., H, W, 2] to units of the distance of two places, float32."""
    height, width = flow.shape[-3:-1]
    distances = jnp.array([width - 1, height - 1], jnp.float32) / 2
    return flow.astype(jnp.float32) * distances


def bending(flow: jax.Array) -> jax.Array:
    """Computes how far a flow is from one that changes evenly from place to place.

    A flow has a free vector at each place, so a loss on images alone lets it tear a
    face. Shifts, scalings and shears have no second differences and cost nothing.

    Args:
      flow: [..., H, W, 2], (x, y) in units where 2 is the whole image; H and W at least
        3.

    Returns:
      float32 [...]: the mean square of the second differences along x, plus that along
      y, summed over the two components. The unit is the distance of two places.
    """
    shifts = _in_places(flow)

    total = jnp.zeros(flow.shape[:-3])
    for axis in (-3, -2):
        second = jnp.diff(shifts, n=2, axis=axis)
        total = total + jnp.mean(jnp.sum(second**2, axis=-1), axis=(-2, -1))
    return total


def mean_flow(flow: jax.Array) -> jax.Array:
    """Computes the size of the mean of several flows.

    Neutral faces are determined only up to a change that all of them share. Where the
    mean is 0, they keep the place and size that faces have on average.

    Args:
      flow: [N, H, W, 2], (x, y) in units where 2 is the whole image; H and W at least
        2.

    Returns:
      float32 scalar: the mean square of the length of the mean. The unit is the
      distance of two places.
    """
    mean = _in_places(jnp.mean(flow.astype(jnp.float32), axis=0))
    return jnp.mean(jnp.sum(mean**2, axis=-1))


def saturation(code: jax.Array) -> jax.Array:
    """Computes the mean square of the input of the tanh that ends a code.

    A tanh with a large input passes almost no gradient, so training can no longer
    change the code. This loss is a function of the input, so its own gradient does not
    vanish there, up to an input of about 7.2. In float32 a tanh beyond that is 1 - 1e-6
    or above, from which its input cannot be told: the loss stays at about 53 and has no
    gradient.

    Args:
      code: [..., D], in (-1, 1).

    Returns:
      float32 [...]; 0 for a code of zeros, 1.2 for one of +-0.8, 7 for one of +-0.99,
      and about 53 at most.
    """
    code = jnp.clip(code.astype(jnp.float32), -_LARGEST, _LARGEST)
    return jnp.mean(jnp.square(jnp.arctanh(code)), axis=-1)


def _correlate(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes A^T B of [..., P, C] and [..., P, D], summed in float32."""
    return jnp.einsum("...pc,...pd->...cd", a, b, preferred_element_type=jnp.float32)


def _flat(features: jax.Array) -> jax.Array:
    """Flattens maps [..., H, W, C] to [..., H W, C]."""
    *lead, height, width, channels = features.shape
    return features.reshape(*lead, height * width, channels)


def gram_matrix(features: jax.Array, *, divide_by_channels: bool = False) -> jax.Array:
    """Computes the correlations of channels, F^T F / (H W).

    Args:
      features: [..., H, W, C].
      divide_by_channels: whether to divide by C too. Many style losses do, FaceCycle's
        program does not. The entries then no longer grow with the width of the layer.

    Returns:
      float32 [..., C, C].

    References:
      Gatys et al., "Image style transfer using convolutional neural networks", CVPR
      2016, section 2.2.
    """
    flat = _flat(features)
    pixels, channels = flat.shape[-2:]
    divisor = pixels * (channels if divide_by_channels else 1)
    return _correlate(flat, flat) / divisor


def few_pixels(*, pixels: int, channels: int) -> bool:
    """Checks whether `gram_loss` uses products over pixels for maps of this size."""
    return 3 * pixels <= channels


@jax.custom_jvp
def _over_channels(features: jax.Array, target: jax.Array) -> jax.Array:
    """Sums the squares of F^T F - T^T T of maps [..., P, C].

    The target has no gradient.
    """
    difference = _correlate(features, features) - _correlate(target, target)
    return jnp.sum(jnp.square(difference), axis=(-2, -1))


@_over_channels.defjvp
def _over_channels_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Computes the derivative 4 <F^T F - T^T T, F^T dF>.

    The first factor is symmetric, so the backward pass needs one product, not two.
    """
    features, target = primals
    change, _ = tangents
    difference = _correlate(features, features) - _correlate(target, target)

    # This product, and its transpose in the backward pass, has the precision of the
    # maps: a float32 result would be cast down to it there in any case.
    along = jnp.einsum("...pc,...pd->...cd", features, change).astype(jnp.float32)

    squares = jnp.sum(jnp.square(difference), axis=(-2, -1))
    return squares, 4 * jnp.sum(difference * along, axis=(-2, -1))


@jax.custom_jvp
def _over_pixels(features: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the value of `_over_channels` by products over pixels.

    These are small where pixels are few. Let D and S be the difference and the sum of
    the maps. Then F^T F - T^T T is (D^T S + S^T D) / 2, and its squares sum up to
    (<D D^T, S S^T> + <D S^T, S D^T>) / 2. No large numbers are subtracted.
    """
    return _with_products(features, target)[0]


@_over_pixels.defjvp
def _over_pixels_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Computes the derivative from the slope 4 F (F^T F - T^T T).

    The slope equals (D D^T + S D^T) S + (S S^T + D S^T) D.
    """
    features, target = primals
    change, _ = tangents
    squares, (d, s), (dd, ss, ds) = _with_products(features, target)

    slope = _mix_pixels(dd + jnp.swapaxes(ds, -1, -2), s) + _mix_pixels(ss + ds, d)
    along = jnp.sum(slope * change.astype(jnp.float32), axis=(-2, -1))
    return squares, along


def _with_products(
    features: jax.Array, target: jax.Array
) -> tuple[
    jax.Array, tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]
]:
    """Computes `_over_pixels` and what its derivative needs.

    Returns:
      The value, then D and S, then D D^T, S S^T and D S^T.
    """
    d = features - target
    s = features + target

    # [..., P, P] each.
    dd = _correlate_pixels(d, d)
    ss = _correlate_pixels(s, s)
    ds = _correlate_pixels(d, s)
    squares = jnp.sum(dd * ss + ds * jnp.swapaxes(ds, -1, -2), axis=(-2, -1)) / 2
    return squares, (d, s), (dd, ss, ds)


def _correlate_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes A B^T of [..., P, C] and [..., Q, C], summed in float32."""
    return jnp.einsum("...pc,...qc->...pq", a, b, preferred_element_type=jnp.float32)


def _mix_pixels(weights: jax.Array, maps: jax.Array) -> jax.Array:
    """Computes K A of [..., P, Q] and [..., Q, C].

    Products have the precision of the maps and are summed in float32.
    """
    return jnp.einsum(
        "...pq,...qc->...pc",
        weights.astype(maps.dtype),
        maps,
        preferred_element_type=jnp.float32,
    )


def gram_loss(
    features: jax.Array, target: jax.Array, *, divide_by_channels: bool = False
) -> jax.Array:
    """Computes the mean squared difference of Gram matrices.

    The target gets no gradient.

    Args:
      features: [..., H, W, C].
      target: maps [..., H, W, C], broadcast against `features`.
      divide_by_channels: see `gram_matrix`.

    Returns:
      float32 [...], 0 or more.
    """
    flat = _flat(features)
    flat_target = jax.lax.stop_gradient(_flat(target))
    pixels, channels = flat.shape[-2:]

    # Both forms have the same value. The first is cheaper for few pixels.
    if few_pixels(pixels=pixels, channels=channels):
        squares = _over_pixels(flat, flat_target)
    else:
        squares = _over_channels(flat, flat_target)

    # Each matrix is divided once, and the mean is over C x C entries.
    divisor = float(pixels * channels * (channels if divide_by_channels else 1))
    return squares / divisor**2


def feature_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the mean squared difference of maps, place by place.

    The target gets no gradient. Unlike the Gram loss, this loss also penalises
    misplaced features.

    Args:
      features: [..., H, W, C].
      target: [..., H, W, C], broadcast against `features`.

    Returns:
      float32 [...], 0 or more.

    References:
      Johnson et al., "Perceptual losses for real-time style transfer", ECCV 2016,
      equation 2.
    """
    fixed = jax.lax.stop_gradient(target).astype(jnp.float32)
    difference = features.astype(jnp.float32) - fixed
    return jnp.mean(difference**2, axis=(-3, -2, -1))
