"""Distances between feature maps, per example. Layout [..., H, W, C], rectified maps."""

import jax
import jax.numpy as jnp


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
      divide_by_channels: also divide by C, as many style losses do and FaceCycle's program does not;
        the entries then no longer grow with the layer's activation energy times its width.

    Returns:
      float32 [..., C, C].

    References:
      Gatys et al., "Image style transfer using convolutional neural networks", CVPR 2016, section 2.2.
    """
    flat = _flat(features)
    pixels, channels = flat.shape[-2:]
    return _correlate(flat, flat) / (pixels * (channels if divide_by_channels else 1))


def few_pixels(*, pixels: int, channels: int) -> bool:
    """Tells whether `gram_loss` compares maps of this many pixels and channels by products over pixels."""
    return 3 * pixels <= channels


@jax.custom_jvp
def _over_channels(features: jax.Array, target: jax.Array) -> jax.Array:
    """Sums the squares of F^T F - T^T T of maps [..., P, C]; the target has no gradient."""
    return jnp.sum(jnp.square(_correlate(features, features) - _correlate(target, target)), axis=(-2, -1))


@_over_channels.defjvp
def _over_channels_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """4 <F^T F - T^T T, F^T dF>, the first being symmetric: backwards one product instead of two."""
    (features, target), (change, _) = primals, tangents
    difference = _correlate(features, features) - _correlate(target, target)
    # In the precision of the maps, and so backwards, where float32 would be cast down to it in any case.
    along = jnp.einsum("...pc,...pd->...cd", features, change).astype(jnp.float32)
    return jnp.sum(jnp.square(difference), axis=(-2, -1)), 4 * jnp.sum(difference * along, axis=(-2, -1))


@jax.custom_jvp
def _over_pixels(features: jax.Array, target: jax.Array) -> jax.Array:
    """The number of `_over_channels` from products over pixels, which are small where pixels are few.

    With D and S the difference and the sum of the maps F^T F - T^T T is (D^T S + S^T D) / 2, and its squares
    sum up to (<D D^T, S S^T> + <D S^T, S D^T>) / 2. Differences of large numbers are not taken.
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
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Computes `_over_pixels`, with D and S and the products D D^T, S S^T and D S^T behind it."""
    d, s = features - target, features + target
    dd, ss, ds = _correlate_pixels(d, d), _correlate_pixels(s, s), _correlate_pixels(d, s)
    squares = jnp.sum(dd * ss + ds * jnp.swapaxes(ds, -1, -2), axis=(-2, -1)) / 2
    return squares, (d, s), (dd, ss, ds)


def _correlate_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes A B^T of [..., P, C] and [..., Q, C], summed in float32."""
    return jnp.einsum("...pc,...qc->...pq", a, b, preferred_element_type=jnp.float32)


def _mix_pixels(weights: jax.Array, maps: jax.Array) -> jax.Array:
    """Computes K A of [..., P, Q] and [..., Q, C] in the precision of the maps, summed in float32."""
    product = "...pq,...qc->...pc"
    return jnp.einsum(product, weights.astype(maps.dtype), maps, preferred_element_type=jnp.float32)


def gram_loss(features: jax.Array, target: jax.Array, *, divide_by_channels: bool = False) -> jax.Array:
    """Computes the mean squared difference of Gram matrices; the target gets no gradient.

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
    """Computes the mean squared difference of maps at each place; the target gets no gradient.

    Unlike the Gram loss it compares content where it stands, so it also sees misplaced features.

    Args:
      features: [..., H, W, C].
      target: [..., H, W, C], broadcast against `features`.

    Returns:
      float32 [...], 0 or more.

    References:
      Johnson et al., "Perceptual losses for real-time style transfer", ECCV 2016, equation 2.
    """
    difference = features.astype(jnp.float32) - jax.lax.stop_gradient(target).astype(jnp.float32)
    return jnp.mean(difference**2, axis=(-3, -2, -1))
