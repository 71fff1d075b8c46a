"""Losses of the two cycles.

Images, flows, codes and feature maps, one value per example.

Images and feature maps are [..., H, W, C]. Images are normalised; feature maps are
rectified.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.ops import ssim

# The largest float32 below 1 is 1 - 6e-8; beyond this an arctanh is noise.
_LARGEST = 1 - 1e-6


def l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of each pair of pictures.

    Args:
      a: [..., H, W, C].
      b: [..., H, W, C], broadcast against `a`.

    Returns:
      float32 [...], 0 or more.
    """
    return jnp.mean(
        jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)), axis=(-3, -2, -1)
    )


def symmetry(images: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of the left half and the mirrored right half.

    Neutral faces are frontal, hence nearly symmetric. A middle column of an odd width
    is left out.

    Args:
      images: [..., H, W, C].

    Returns:
      float32 [...], 0 for pictures that equal their mirror image.

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
      b: [..., H, W, C], broadcast against `a`.
      width: the margin, in normalised units.
      hinge: whether differences below the margin count as 0. The paper describes this;
        its program does not cut, so that pictures are drawn together beyond the margin
        too (the gradient is that of plain L1). The program's behaviour is the default.

    Returns:
      float32 [...], at least -width (0 with the hinge).

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """
    excess = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)) - width
    if hinge:
        excess = jnp.maximum(excess, 0.0)
    return jnp.mean(excess, axis=(-3, -2, -1))


def ssim_loss(a: jax.Array, b: jax.Array, *, value_range: float = 1.0) -> jax.Array:
    """Computes 1 - SSIM of each pair of pictures.

    Args:
      a: [..., H, W, C].
      b: same shape as `a`.
      value_range: L of the SSIM constants. FaceCycle's program uses 1 although
        normalised pictures span about 4.7; the larger value makes flat regions count
        less.

    Returns:
      float32 [...], between 0 and 2.
    """
    return 1.0 - ssim(a, b, value_range=value_range)


def folding(flow: jax.Array) -> jax.Array:
    """Computes how far a flow turns the order of neighbouring places round.

    Where it does, the warped picture shows a place twice, mirrored, and no flow can
    undo it: the backward flow, the flow carried along itself, is an inverse only of
    flows that do not fold. A flow that mirrors half of the picture makes every face
    symmetric, the same for all, which training can fall into.

    Args:
      flow: [..., H, W, 2], (x, y) in units where 2 is the whole picture; H and W at
        least 2.

    Returns:
      float32 [...]: the mean overlap of neighbours along x and along y, in distances of
      neighbours of the identity; 0 for flows that keep the order, 1 for the picture's
      mirror image.
    """
    return _overlap(flow[..., 0], axis=-1) + _overlap(flow[..., 1], axis=-2)


def _overlap(flow: jax.Array, axis: int) -> jax.Array:
    steps = (
        1 + jnp.diff(flow.astype(jnp.float32), axis=axis) * (flow.shape[axis] - 1) / 2
    )
    return jnp.mean(jnp.maximum(-steps, 0), axis=(-2, -1))


def saturation(code: jax.Array) -> jax.Array:
    """Computes the mean square of what the tanh at a code's end was given.

    Where it is large the tanh lets next to no gradient through: the code is a row of
    signs that training cannot change any more. The cost is of its argument, so that its
    own gradient does not vanish there.

    Args:
      code: [..., D], in (-1, 1).

    Returns:
      float32 [...]; 0 for a code of zeros, 1.2 for one of +-0.8, 7 for one of +-0.99.
    """
    code = jnp.clip(code.astype(jnp.float32), -_LARGEST, _LARGEST)
    return jnp.mean(jnp.square(jnp.arctanh(code)), axis=-1)


def _correlate(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes A^T B of [..., P, C] and [..., P, D], summed in float32."""
    return jnp.einsum("...pc,...pd->...cd", a, b, preferred_element_type=jnp.float32)


def _flat(features: jax.Array) -> jax.Array:
    """Maps [..., H, W, C] as [..., H W, C]."""
    *lead, height, width, channels = features.shape
    return features.reshape(*lead, height * width, channels)


def gram_matrix(features: jax.Array, *, divide_by_channels: bool = False) -> jax.Array:
    """Computes F^T F / (H W), the channels' correlations.

    Args:
      features: [..., H, W, C].
      divide_by_channels: also divide by C, as many style losses do and FaceCycle's
        program does not; the entries then no longer grow with the layer's activation
        energy times its width.

    Returns:
      float32 [..., C, C].

    References:
      Gatys et al., "Image style transfer using convolutional neural networks", CVPR
      2016, section 2.2.
    """
    flat = _flat(features)
    pixels, channels = flat.shape[-2:]
    return _correlate(flat, flat) / (pixels * (channels if divide_by_channels else 1))


def few_pixels(*, pixels: int, channels: int) -> bool:
    """Tells whether `gram_loss` compares maps of this many pixels and channels by products over pixels."""
    return 3 * pixels <= channels


@jax.custom_jvp
def _over_channels(features: jax.Array, target: jax.Array) -> jax.Array:
    """Sums the squares of F^T F - T^T T of maps [..., P, C].

    The target has no gradient.
    """
    return jnp.sum(
        jnp.square(_correlate(features, features) - _correlate(target, target)),
        axis=(-2, -1),
    )


@_over_channels.defjvp
def _over_channels_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """4 <F^T F - T^T T, F^T dF>, the first being symmetric.

    Backwards one product instead of two.
    """
    (features, target), (change, _) = primals, tangents
    difference = _correlate(features, features) - _correlate(target, target)
    # In the precision of the maps, and so backwards, where float32 would be cast down
    # to it in any case.
    along = jnp.einsum("...pc,...pd->...cd", features, change).astype(jnp.float32)
    return jnp.sum(jnp.square(difference), axis=(-2, -1)), 4 * jnp.sum(
        difference * along, axis=(-2, -1)
    )


@jax.custom_jvp
def _over_pixels(features: jax.Array, target: jax.Array) -> jax.Array:
    """The number of `_over_channels` from products over pixels, which are small where pixels are few.

    With D and S the difference and the sum of the maps F^T F - T^T T is (D^T S + S^T D)
    / 2, and its squares sum up to (<D D^T, S S^T> + <D S^T, S D^T>) / 2. Differences of
    large numbers are not taken.
    """
    return _with_products(features, target)[0]


@_over_pixels.defjvp
def _over_pixels_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The slope 4 F (F^T F - T^T T) is (D D^T + S D^T) S + (S S^T + D S^T) D."""
    (features, target), (change, _) = primals, tangents
    squares, (d, s), (dd, ss, ds) = _with_products(features, target)
    slope = _mix_pixels(dd + jnp.swapaxes(ds, -1, -2), s) + _mix_pixels(ss + ds, d)
    along = jnp.sum(slope * change.astype(jnp.float32), axis=(-2, -1))
    return squares, along


def _with_products(
    features: jax.Array, target: jax.Array
) -> tuple[
    jax.Array, tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]
]:
    """Computes `_over_pixels`, with D and S and the products D D^T, S S^T and D S^T behind it."""
    d, s = features - target, features + target
    dd, ss, ds = (
        _correlate_pixels(d, d),
        _correlate_pixels(s, s),
        _correlate_pixels(d, s),
    )
    squares = jnp.sum(dd * ss + ds * jnp.swapaxes(ds, -1, -2), axis=(-2, -1)) / 2
    return squares, (d, s), (dd, ss, ds)


def _correlate_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes A B^T of [..., P, C] and [..., Q, C], summed in float32."""
    return jnp.einsum("...pc,...qc->...pq", a, b, preferred_element_type=jnp.float32)


def _mix_pixels(weights: jax.Array, maps: jax.Array) -> jax.Array:
    """Computes K A of [..., P, Q] and [..., Q, C] in the precision of the maps, summed in float32."""
    product = "...pq,...qc->...pc"
    return jnp.einsum(
        product, weights.astype(maps.dtype), maps, preferred_element_type=jnp.float32
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
    flat, target = _flat(features), jax.lax.stop_gradient(_flat(target))
    pixels, channels = flat.shape[-2:]
    few = few_pixels(pixels=pixels, channels=channels)
    squares = (_over_pixels if few else _over_channels)(flat, target)
    divisor = float(pixels * channels * (channels if divide_by_channels else 1))
    return squares / divisor**2


def feature_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the mean squared difference of maps at each place.

    The target gets no gradient.

    Unlike the Gram loss it compares content where it stands, so it also sees misplaced
    features.

    Args:
      features: [..., H, W, C].
      target: [..., H, W, C], broadcast against `features`.

    Returns:
      float32 [...], 0 or more.

    References:
      Johnson et al., "Perceptual losses for real-time style transfer", ECCV 2016,
      equation 2.
    """
    difference = features.astype(jnp.float32) - jax.lax.stop_gradient(target).astype(
        jnp.float32
    )
    return jnp.mean(difference**2, axis=(-3, -2, -1))
