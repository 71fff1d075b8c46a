"""Augmentation on the device, pure in key and batch.

Batches hold frames uint8 [B, 2, S, S, 3]; results are float32 [B, 2, size, size, 3],
normalised.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from facecycle_jax.ops.grid_sample import grid_sample
from facecycle_jax.ops.normalisation import LUMA, normalise, pixels_to_unit
from facecycle_jax.ops.resize import read_window
from facecycle_jax.ops.warp import identity_grid

# Control points on each side of a random warp. They are far enough apart to move a
# mouth or an eye as a whole.
_WARP_POINTS = 5
# Slope of the surface that stands for a face at the image's edges, where light is
# changed.
_ROUNDNESS = 2.0
# Tags of keys. They are above the number of keys that `split` makes of the same key,
# because `fold_in(key, n)` is the n-th of those.
_LIGHT_TAG = 1001
_WARP_TAG = 1002
# The YIQ space: luma, and two axes of colour in which a change of hue is a rotation.
_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
# Inverted here, because XLA would invert it again in every step.
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def colour_product(image: jax.Array, weights: jax.Array) -> jax.Array:
    """Multiplies colours [..., 3] by weights [3] or [3, C].

    TPUs multiply float32 in bfloat16 by default, which would round the pixels.
    """
    return jnp.matmul(image, weights, precision=lax.Precision.HIGHEST)


def jitter_colours(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """Changes the colours of an image at random.

    The order is brightness, contrast, saturation, hue.

    Args:
      key: random key.
      image: [H, W, 3] in 0..1.
      brightness: largest change, as a fraction.
      contrast: largest change, as a fraction.
      saturation: largest change, as a fraction.
      hue: largest change, in turns.

    Returns:
      [H, W, 3] in 0..1.
    """
    change = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    grey = jnp.asarray(LUMA)

    image = jnp.clip(image * (1 + brightness * change[0]), 0.0, 1.0)

    # Contrast scales distances from the mean luma of the image.
    mean = jnp.mean(colour_product(image, grey))
    image = jnp.clip(mean + (image - mean) * (1 + contrast * change[1]), 0.0, 1.0)

    # Saturation scales distances from the luma of each pixel.
    luma = colour_product(image, grey)[..., None]
    image = jnp.clip(luma + (image - luma) * (1 + saturation * change[2]), 0.0, 1.0)

    # Hue is a rotation in YIQ, here as one matrix on RGB.
    angle = 2 * jnp.pi * hue * change[3]
    turn = jnp.array(
        [
            [1.0, 0.0, 0.0],
            [0.0, jnp.cos(angle), -jnp.sin(angle)],
            [0.0, jnp.sin(angle), jnp.cos(angle)],
        ]
    )
    rotation = colour_product(
        colour_product(jnp.asarray(_FROM_YIQ), turn), jnp.asarray(_TO_YIQ)
    )
    return jnp.clip(colour_product(image, rotation.T), 0.0, 1.0)


def _warp(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Warps an image [S, S, C] by a smooth random field.

    The field's standard deviation is random, up to `strength` as a fraction of S.
    """
    size = image.shape[0]
    keys = jax.random.split(key)

    # Displacements [size, size, 2] between random ones at few control points.
    amount = jax.random.uniform(keys[0], maxval=strength)
    points = jax.random.normal(keys[1], (_WARP_POINTS, _WARP_POINTS, 2))
    field = amount * jax.image.resize(points, (size, size, 2), "cubic")

    # The grid spans 2, so fractions of the side count twice.
    grid = identity_grid(height=size, width=size, align_corners=False) + 2 * field
    return grid_sample(image, grid, align_corners=False, padding="reflection")


def _side_light(key: jax.Array, image: jax.Array, largest: float) -> jax.Array:
    """Lights an image [S, S, 3] in 0..1 from the side, as if the face were a dome.

    The light comes from a random direction, at most `largest` degrees from the camera's
    axis. What it does not reach keeps a random part of its brightness.
    """
    size = image.shape[0]
    keys = jax.random.split(key, 3)

    # The surface's slopes grow linearly from the middle outwards.
    position = _ROUNDNESS * ((jnp.arange(size) + 0.5) / size * 2 - 1)
    x, y = jnp.meshgrid(position, position)

    # Lambert's law, relative to a light from the camera: what the length of the normal
    # divides is the same for both.
    angle = jnp.deg2rad(jax.random.uniform(keys[0], maxval=largest))
    around = jax.random.uniform(keys[1], maxval=2 * jnp.pi)
    sideways = x * jnp.cos(around) + y * jnp.sin(around)
    direct = jnp.maximum(jnp.cos(angle) + jnp.sin(angle) * sideways, 0.0)
    ambient = jax.random.uniform(keys[2], minval=0.01, maxval=0.3)
    light = ambient + (1 - ambient) * jnp.minimum(direct, 1.5)

    # Pixels are about the square root of the light that reached the camera.
    return jnp.clip(image * jnp.sqrt(light)[..., None], 0.0, 1.0)


def place_crop(
    key: jax.Array, area: jax.Array, aspect: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Places a crop at random inside an image.

    Args:
      key: random key.
      area: scalar, as a fraction of the image.
      aspect: scalar, its width over its height.

    Returns:
      Where it begins and its extent, each [2] (y, x), as fractions of the image. Sides
      that are longer than the image are cut.
    """
    extent = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / aspect, aspect])), 1.0)
    low = jax.random.uniform(key, (2,)) * (1.0 - extent)
    return low, extent


def augment_pairs(
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    *,
    size: int,
    scale: tuple[float, float] = (0.95, 1.05),
    ratio: tuple[float, float] = (0.95, 1.05),
    brightness: float = 0.05,
    contrast: float = 0.05,
    saturation: float = 0.05,
    hue: float = 0.01,
    jitter_probability: float = 0.8,
    mirror_probability: float = 0.5,
    warp: float = 0.0,
    side_light: float = 0.0,
    two_views: bool = False,
) -> jax.Array:
    """Crops, recolours, mirrors and warps images, each item by a key of its own.

    Where `mirror` is set, the second image of an item is the mirror image of the
    augmented first one. The warp comes last and differs for every image. Images larger
    than `size` are read without smoothing, see `resize.read_window`.

    Args:
      key: random key; item i uses `fold_in(key, i)`.
      batch: frames uint8 [B, 2, S, S, 3], mirror bool [B], identity int32 [B, 2].
      size: side of the result in pixels.
      scale: range of the crop's area, as a fraction of the image; above 1 is the whole
        image.
      ratio: range of the crop's width over its height.
      brightness: largest change of the factor 1.
      contrast: largest change of the factor 1.
      saturation: largest change of the factor 1.
      hue: largest rotation, in turns.
      jitter_probability: of any change of colours.
      mirror_probability: of mirroring an image.
      warp: largest standard deviation of a smooth random displacement, as a fraction of
        the side; 0 leaves shapes alone. The paper has no such warp. With it, single
        photographs make pairs of one person with different shapes of mouth, eyes and
        brows.
      side_light: largest angle of a random light from the camera's axis, in degrees, on
        half of the images; 0 leaves light alone. Not in the paper.
      two_views: whether an image that is paired with itself (`mirror`) is augmented
        twice, each time differently, instead of being mirrored. Not in the paper.

    Returns:
      float32 [B, 2, size, size, 3], normalised.

    References:
      FaceCycle (ICCV 2021), section 4.1, but for `warp`, `side_light` and `two_views`.
    """

    def one(key: jax.Array, frame: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 6)

        # A crop of random area and aspect, somewhere inside the image.
        area = jax.random.uniform(keys[0], minval=scale[0], maxval=scale[1])
        log_aspect = jax.random.uniform(
            keys[1], minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])
        )
        low, extent = place_crop(keys[2], area, jnp.exp(log_aspect))
        image = read_window(pixels_to_unit(frame), low, extent, size)

        changed = jitter_colours(
            keys[3],
            image,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
        jittered = jax.random.bernoulli(keys[4], jitter_probability)
        image = jnp.where(jittered, changed, image)

        if side_light:
            # Further keys, so that all else is drawn as without it.
            light_keys = jax.random.split(jax.random.fold_in(key, _LIGHT_TAG))
            lit = _side_light(light_keys[0], image, side_light)
            image = jnp.where(jax.random.bernoulli(light_keys[1]), lit, image)

        mirrored = jax.random.bernoulli(keys[5], mirror_probability)
        return jnp.where(mirrored, jnp.flip(image, axis=1), image)

    def item(
        index: jax.Array, frames: jax.Array, mirror: jax.Array, identity: jax.Array
    ) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), 2)
        first = one(keys[0], frames[0])
        second = one(keys[1], frames[1])

        # Two people are never replaced by one and their mirror image.
        use_mirror = mirror & (identity[0] == identity[1])
        if not two_views:
            second = jnp.where(use_mirror, jnp.flip(first, axis=1), second)
        pair = jnp.stack([first, second])
        if not warp:
            return pair

        warp_keys = jax.random.split(jax.random.fold_in(keys[0], _WARP_TAG), 2)
        return jax.vmap(lambda key, image: _warp(key, image, warp))(warp_keys, pair)

    frames = batch["frames"]
    items = jnp.arange(frames.shape[0])
    images = jax.vmap(item)(items, frames, batch["mirror"], batch["identity"])
    return normalise(images)


def plain_pairs(batch: Mapping[str, jax.Array], *, size: int) -> jax.Array:
    """Resizes and normalises images deterministically, for evaluation.

    Images larger than `size` are read without smoothing, see `resize.read_window`.

    Args:
      batch: frames uint8 [B, 2, S, S, 3], mirror bool [B], identity int32 [B, 2].
      size: side of the result in pixels.

    Returns:
      float32 [B, 2, size, size, 3], normalised; the second is the mirror image of the
      first where `mirror` is set and both are of one person.
    """
    low = jnp.zeros(2)
    extent = jnp.ones(2)

    def resize(frame: jax.Array) -> jax.Array:
        return read_window(pixels_to_unit(frame), low, extent, size)

    images = jax.vmap(jax.vmap(resize))(batch["frames"])
    first = images[:, 0]

    use_mirror = batch["mirror"] & (batch["identity"][:, 0] == batch["identity"][:, 1])
    mirrored = jnp.flip(first, axis=-2)
    second = jnp.where(use_mirror[:, None, None, None], mirrored, images[:, 1])
    return normalise(jnp.stack([first, second], axis=1))
