"""Views of images for the methods that FaceCycle is compared with.

They are made on the device and are pure in key and batch. Batches hold frames uint8
[B, n, S, S, 3]. An item's randomness comes from `fold_in(key, item)`.

Frames that are larger than a view are read without smoothing, see `resize.read_window`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.ops.augment import colour_product, jitter_colours, place_crop
from facecycle_jax.ops.normalisation import LUMA, normalise, pixels_to_unit
from facecycle_jax.ops.resize import read_window

# Luma of PCL's gradient maps.
_EDGE_GREY = (65.738 / 256, 129.057 / 256, 25.064 / 256)
_BLUR_TAPS = 7

Batch = Mapping[str, jax.Array]


class CropOptions(NamedTuple):
    """Square crops, in 256ths of an image's side, as the published programs count.

    Attributes:
      left: left edge of the region that crops lie in.
      top: upper edge of it.
      side: its side.
      smallest: smallest side of a crop.
      largest: largest side of a crop.
    """

    left: int
    top: int
    side: int
    smallest: int
    largest: int


def crop_frames(
    key: jax.Array, batch: Batch, *, size: int, crop: CropOptions, normalised: bool
) -> jax.Array:
    """Crops every frame at its own place, with one side for the whole batch.

    The published programs choose the side once an epoch or once a run. Here each step
    chooses one, which needs no state.

    Args:
      key: random key.
      batch: frames uint8 [B, n, S, S, 3].
      size: side of the result in pixels.
      crop: where and how large.
      normalised: whether ImageNet's mean and standard deviation are applied.

    Returns:
      float32 [B, n, size, size, 3], in 0..1 unless `normalised`.
    """
    frames = batch["frames"]
    side_key, place_key = jax.random.split(key)

    side = jax.random.randint(side_key, (), crop.smallest, crop.largest + 1)

    def one(key: jax.Array, frame: jax.Array) -> jax.Array:
        # Whole 256ths, both ends included.
        offset = jax.random.randint(key, (2,), 0, crop.side - side + 1)
        low = jnp.array([crop.top, crop.left]) + offset
        return read_window(
            pixels_to_unit(frame), low / 256.0, jnp.full(2, side / 256.0), size
        )

    def item(index: jax.Array, frames: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(place_key, index), len(frames))
        return jax.vmap(one)(keys, frames)

    images = jax.vmap(item)(jnp.arange(len(frames)), frames)
    return normalise(images) if normalised else images


def centre_crop_frames(
    batch: Batch, *, size: int, crop: CropOptions, normalised: bool
) -> jax.Array:
    """Crops the centre of the region, by the mean side.

    This is the deterministic counterpart of `crop_frames`. The published programs crop
    at random in evaluation too.

    Args:
      batch: frames uint8 [B, n, S, S, 3].
      size: side of the result in pixels.
      crop: where and how large.
      normalised: whether ImageNet's mean and standard deviation are applied.

    Returns:
      float32 [B, n, size, size, 3], in 0..1 unless `normalised`.
    """
    side = (crop.smallest + crop.largest) / 2
    low = jnp.array([crop.top, crop.left]) + (crop.side - side) / 2

    def one(frame: jax.Array) -> jax.Array:
        return read_window(
            pixels_to_unit(frame), low / 256.0, jnp.full(2, side / 256.0), size
        )

    images = jax.vmap(jax.vmap(one))(batch["frames"])
    return normalise(images) if normalised else images


def gradient_magnitude(image: jax.Array, *, wrapped: bool = False) -> jax.Array:
    """Computes how fast the luma of an image changes, by central differences.

    The image is padded by zeros. This gives bright images a bright frame, as in the
    published program.

    Args:
      image: [H, W, 3] in 0..1.
      wrapped: whether values are cut to bytes modulo 256, as in the published program;
        the steepest edges then turn dark.

    Returns:
      [H, W, 1], up to about 1.2, or at most 1 if `wrapped`.
    """
    # [H + 2, W + 2], so that the differences below are [H, W].
    luma = jnp.pad(colour_product(image, jnp.asarray(_EDGE_GREY)), 1)
    across = luma[1:-1, 2:] - luma[1:-1, :-2]
    down = luma[2:, 1:-1] - luma[:-2, 1:-1]

    # The small addend keeps the square root differentiable at zero.
    magnitude = jnp.sqrt(across**2 + down**2 + 1e-6)[..., None]
    if wrapped:
        return jnp.mod(jnp.floor(magnitude * 255.0), 256.0) / 255.0
    return magnitude


def blur_kernel(sigma: jax.Array) -> jax.Array:
    """Computes the seven weights of a Gaussian, which add up to 1.

    `sigma` is its standard deviation in pixels.
    """
    distance = jnp.arange(_BLUR_TAPS) - _BLUR_TAPS // 2
    weights = jnp.exp(-0.5 * jnp.square(distance / sigma))
    return weights / jnp.sum(weights)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs an image [H, W, C] by a 7 x 7 Gaussian of standard deviation `sigma`.

    The image is padded by its reflection.
    """
    kernel = blur_kernel(sigma)
    half = _BLUR_TAPS // 2

    # The kernel is separable: one axis after the other.
    for axis in (0, 1):
        size = image.shape[axis]
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (half, half)
        padded = jnp.pad(image, padding, mode="reflect")

        parts = []
        for tap in range(_BLUR_TAPS):
            shifted = jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
            parts.append(kernel[tap] * shifted)
        image = sum(parts[1:], start=parts[0])
    return image


class ColourOptions(NamedTuple):
    """Random changes of a view that keep its geometry.

    Attributes:
      strength: largest change of brightness, contrast and saturation.
      hue: largest rotation of the hue, in turns.
      jitter_probability: of changing those four.
      grey_probability: of dropping colours.
      blur_probability: of a Gaussian blur, of a standard deviation of 0.1 to 2 pixels.
      edge_probability: of replacing the image by its gradient magnitude.
      wrapped_edges: see `gradient_magnitude`.
    """

    strength: float = 0.8
    hue: float = 0.2
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.8
    edge_probability: float = 0.6
    wrapped_edges: bool = False


def _recolour(key: jax.Array, image: jax.Array, options: ColourOptions) -> jax.Array:
    """Jitters, drops colours, blurs and finds edges, in this order and each at random.

    The image is [H, W, 3] in 0..1. The result is too, unless it is a gradient map that
    is not wrapped, which reaches about 1.2.
    """
    keys = jax.random.split(key, 6)
    changed = jitter_colours(
        keys[0],
        image,
        brightness=options.strength,
        contrast=options.strength,
        saturation=options.strength,
        hue=options.hue,
    )
    jittered = jax.random.bernoulli(keys[1], options.jitter_probability)
    image = jnp.where(jittered, changed, image)

    luma = colour_product(image, jnp.asarray(LUMA))
    grey = jnp.broadcast_to(luma[..., None], image.shape)
    without_colours = jax.random.bernoulli(keys[2], options.grey_probability)
    image = jnp.where(without_colours, grey, image)

    sigma = jax.random.uniform(keys[3], minval=0.1, maxval=2.0)
    blurred = gaussian_blur(image, sigma)
    use_blurred = jax.random.bernoulli(keys[4], options.blur_probability)
    image = jnp.where(use_blurred, blurred, image)

    edges = gradient_magnitude(image, wrapped=options.wrapped_edges)
    use_edges = jax.random.bernoulli(keys[5], options.edge_probability)
    return jnp.where(use_edges, edges, image)


def distant_windows(key: jax.Array) -> jax.Array:
    """Chooses two crops that lie in different quadrants of an image.

    Crops are 0.4 of the side wide, so those of different quadrants do not overlap.

    Returns:
      Upper left corners [2, 2] (y, x), as fractions of the side.
    """
    quadrant_key, place_key = jax.random.split(key)
    quadrants = jax.random.choice(quadrant_key, 4, (2,), replace=False)
    half = jnp.stack([quadrants // 2, quadrants % 2], axis=1)

    # A quadrant is 0.5 wide, so corners lie 0 to 0.1 inside it.
    return 0.5 * half + jax.random.uniform(place_key, (2, 2), maxval=0.1)


def distant_views(
    key: jax.Array, frames: jax.Array, *, size: int, colours: ColourOptions
) -> jax.Array:
    """Makes two views of each image from crops that lie far apart.

    Args:
      key: random key.
      frames: uint8 [B, S, S, 3].
      size: side of the result in pixels.
      colours: what else changes.

    Returns:
      float32 [B, 2, size, size, 3] in 0..1, gradient maps up to about 1.2.

    References:
      Liu et al., "Pose-disentangled contrastive learning", CVPR 2023.
    """

    def item(index: jax.Array, frame: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        image = pixels_to_unit(frame)

        def view(key: jax.Array, low: jax.Array) -> jax.Array:
            cropped = read_window(image, low, jnp.full(2, 0.4), size)
            return _recolour(key, cropped, colours)

        return jax.vmap(view)(keys[1:], distant_windows(keys[0]))

    return jax.vmap(item)(jnp.arange(len(frames)), frames)


def recoloured_views(
    key: jax.Array,
    frames: jax.Array,
    *,
    size: int,
    count: int,
    colours: ColourOptions,
    mirrored: bool = False,
) -> jax.Array:
    """Makes several views of each whole image that differ in colours, blur and edges.

    Args:
      key: random key.
      frames: uint8 [B, S, S, 3].
      size: side of the result in pixels.
      count: number of views of each image.
      colours: what changes.
      mirrored: whether the views show the mirror image.

    Returns:
      float32 [B, count, size, size, 3] in 0..1, gradient maps up to about 1.2.
    """

    def item(index: jax.Array, frame: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), count)
        image = read_window(pixels_to_unit(frame), jnp.zeros(2), jnp.ones(2), size)
        image = jnp.flip(image, axis=1) if mirrored else image
        return jax.vmap(lambda key: _recolour(key, image, colours))(keys)

    return jax.vmap(item)(jnp.arange(len(frames)), frames)


def spread_views(
    key: jax.Array,
    frames: jax.Array,
    batch: jax.Array,
    *,
    size: int,
    count: int,
    colours: ColourOptions,
) -> jax.Array:
    """Makes many views of the mirror images of a few images, spread over a batch.

    The views are those of `recoloured_views` with `mirrored`. Laid out by image, all of
    them would belong to the few items that the images are of, and a batch that is split
    over devices would have every device make all views. Here every item of the batch
    holds the same number of views, so that each device makes its share.

    Args:
      key: random key.
      frames: uint8 [P, S, S, 3].
      batch: uint8 [B, ...], any array that is split over devices as the result is to
        be.
      size: side of the result in pixels.
      count: number of views of each image.
      colours: what changes.

    Returns:
      float32 [B, R, size, size, 3] in 0..1, gradient maps up to about 1.2, where R is P
      count / B, rounded up. In order of rows, the first P count are the views of the
      first image, then those of the second, and so on; what is left repeats them. A
      batch with more items than there are views therefore makes more than are needed.
    """
    items = len(frames)
    rows = -(-items * count // len(batch))

    def keys_of(index: jax.Array) -> jax.Array:
        return jax.random.split(jax.random.fold_in(key, index), count)

    keys = jax.vmap(keys_of)(jnp.arange(items)).reshape(-1)
    images = jnp.flip(whole_frames(frames, size=size), axis=2)

    # The number of each view [B, R]. Zeros that are computed from the batch are added,
    # so that the compiler splits the numbers over devices as the batch is split.
    numbers = jnp.arange(len(batch) * rows).reshape(-1, rows) % (items * count)
    pixels = batch.reshape(len(batch), -1)[:, :1].astype(numbers.dtype)
    numbers = numbers + jnp.minimum(pixels, 0)

    def view(number: jax.Array) -> jax.Array:
        return _recolour(keys[number], images[number // count], colours)

    return jax.vmap(jax.vmap(view))(numbers)


def cropped_views(
    key: jax.Array,
    frames: jax.Array,
    *,
    size: int,
    scale: tuple[float, float],
    mirror_probability: float,
    colours: ColourOptions,
) -> jax.Array:
    """Makes two views of each image by crops, mirroring and colours.

    Args:
      key: random key.
      frames: uint8 [B, S, S, 3].
      size: side of the result in pixels.
      scale: range of a crop's area, as a fraction of the image.
      mirror_probability: of mirroring a view.
      colours: what else changes.

    Returns:
      float32 [B, 2, size, size, 3] in 0..1, gradient maps up to about 1.2.

    References:
      Chen et al., "A simple framework for contrastive learning of visual
      representations", ICML 2020.
    """

    def item(index: jax.Array, frame: jax.Array) -> jax.Array:
        image = pixels_to_unit(frame)

        def view(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key, 5)

            # A crop of random area and an aspect of 3/4 to 4/3.
            area = jax.random.uniform(keys[0], minval=scale[0], maxval=scale[1])
            log_aspect = jax.random.uniform(keys[1], minval=-1.0, maxval=1.0)
            aspect = jnp.exp(log_aspect * jnp.log(4 / 3))
            low, extent = place_crop(keys[2], area, aspect)

            cropped = read_window(image, low, extent, size)
            mirrored = jax.random.bernoulli(keys[3], mirror_probability)
            cropped = jnp.where(mirrored, jnp.flip(cropped, axis=1), cropped)
            return _recolour(keys[4], cropped, colours)

        return jax.vmap(view)(jax.random.split(jax.random.fold_in(key, index), 2))

    return jax.vmap(item)(jnp.arange(len(frames)), frames)


def whole_frames(frames: jax.Array, *, size: int) -> jax.Array:
    """Resizes images uint8 [..., S, S, 3] to float32 [..., size, size, 3] in 0..1."""

    def resize(frame: jax.Array) -> jax.Array:
        return read_window(pixels_to_unit(frame), jnp.zeros(2), jnp.ones(2), size)

    flat = frames.reshape(-1, *frames.shape[-3:])
    resized = jax.vmap(resize)(flat)
    return resized.reshape(*frames.shape[:-3], size, size, frames.shape[-1])
