"""Augmentation on the device, pure in key and batch.

Batches hold frames uint8 [B, 2, S, S, 3]; results are float32 [B, 2, size, size, 3],
normalised.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from facecycle_jax.ops.grid_sample import grid_sample
from facecycle_jax.ops.normalisation import normalise
from facecycle_jax.ops.warp import identity_grid

_GREY = (0.299, 0.587, 0.114)
# Control points a side of a random warp: far enough apart to move a mouth or an eye as
# a whole.
_WARP_POINTS = 5
# Luma and two axes of colour, in which a change of hue is a rotation.
_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def _resample(
    image: jax.Array, low: jax.Array, extent: jax.Array, size: int
) -> jax.Array:
    """Reads the window [low, low + extent] (y, x.

    Parts of the picture) at size x size, bilinearly.
    """
    for axis in (0, 1):
        source = image.shape[axis]
        centres = (jnp.arange(size) + 0.5) / size
        position = (low[axis] + extent[axis] * centres) * source - 0.5
        position = jnp.clip(position, 0.0, source - 1.0)
        weights = jnp.maximum(
            0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(source))
        )
        image = jnp.moveaxis(jnp.tensordot(weights, image, axes=(1, axis)), 0, axis)
    return image


def _jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """Changes colours of a picture in 0..1.

    Brightness, contrast, saturation, hue, in this order.
    """
    change = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    grey = jnp.asarray(_GREY)
    image = jnp.clip(image * (1 + brightness * change[0]), 0.0, 1.0)
    mean = jnp.mean(image @ grey)
    image = jnp.clip(mean + (image - mean) * (1 + contrast * change[1]), 0.0, 1.0)
    luma = (image @ grey)[..., None]
    image = jnp.clip(luma + (image - luma) * (1 + saturation * change[2]), 0.0, 1.0)
    angle = 2 * jnp.pi * hue * change[3]
    turn = jnp.array(
        [
            [1.0, 0.0, 0.0],
            [0.0, jnp.cos(angle), -jnp.sin(angle)],
            [0.0, jnp.sin(angle), jnp.cos(angle)],
        ]
    )
    to_yiq = jnp.asarray(_TO_YIQ)
    return jnp.clip(image @ (jnp.linalg.inv(to_yiq) @ turn @ to_yiq).T, 0.0, 1.0)


def _warp(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Moves what a picture shows by a smooth random field of a deviation of up to `strength` of its side."""
    size = image.shape[0]
    keys = jax.random.split(key)
    amount = jax.random.uniform(keys[0], maxval=strength)
    points = jax.random.normal(keys[1], (_WARP_POINTS, _WARP_POINTS, 2))
    field = amount * jax.image.resize(points, (size, size, 2), "cubic")
    # Parts of the side are halves of the grid's range of two.
    grid = identity_grid(height=size, width=size, align_corners=False) + 2 * field
    return grid_sample(image, grid, align_corners=False, padding="reflection")


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
) -> jax.Array:
    """Crops, recolours, mirrors and warps pictures, each item by a key of its own.

    Where the batch says so, the second picture of an item is the mirror image of the
    first as augmented, but for the warp, of which every picture has its own.

    Args:
      key: random key; item i uses `fold_in(key, i)`.
      batch: frames uint8 [B, 2, S, S, 3], mirror bool [B], identity int32 [B, 2].
      size: side of the result in pixels.
      scale: range of the crop's area, in parts of the picture; above 1 is the whole
        picture.
      ratio: range of the crop's width over its height.
      brightness: largest change of the factor 1.
      contrast: largest change of the factor 1.
      saturation: largest change of the factor 1.
      hue: largest rotation, in turns.
      jitter_probability: of any change of colours.
      mirror_probability: of mirroring a picture.
      warp: largest deviation of a smooth random displacement, in parts of the side; 0
        leaves shapes alone. Not the paper's: single photographs then make pairs of one
        person with another shape of mouth, eyes and brows.

    Returns:
      float32 [B, 2, size, size, 3], normalised.

    References:
      FaceCycle (ICCV 2021), section 4.1, but for `warp`.
    """

    def one(key: jax.Array, frame: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 6)
        area = jax.random.uniform(keys[0], minval=scale[0], maxval=scale[1])
        aspect = jnp.exp(
            jax.random.uniform(
                keys[1], minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])
            )
        )
        extent = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / aspect, aspect])), 1.0)
        low = jax.random.uniform(keys[2], (2,)) * (1.0 - extent)
        image = _resample(frame.astype(jnp.float32) / 255.0, low, extent, size)
        changed = _jitter(
            keys[3],
            image,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
        image = jnp.where(
            jax.random.bernoulli(keys[4], jitter_probability), changed, image
        )
        mirrored = jax.random.bernoulli(keys[5], mirror_probability)
        return jnp.where(mirrored, jnp.flip(image, axis=1), image)

    def item(
        index: jax.Array, frames: jax.Array, mirror: jax.Array, identity: jax.Array
    ) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), 2)
        first, second = one(keys[0], frames[0]), one(keys[1], frames[1])
        use_mirror = mirror & (identity[0] == identity[1])
        pair = jnp.stack(
            [first, jnp.where(use_mirror, jnp.flip(first, axis=1), second)]
        )
        if not warp:
            return pair
        keys = jax.random.split(jax.random.fold_in(keys[0], 1), 2)
        return jax.vmap(lambda key, image: _warp(key, image, warp))(keys, pair)

    frames = batch["frames"]
    pictures = jax.vmap(item)(
        jnp.arange(frames.shape[0]), frames, batch["mirror"], batch["identity"]
    )
    return normalise(pictures)


def plain_pairs(batch: Mapping[str, jax.Array], *, size: int) -> jax.Array:
    """Resizes and normalises pictures without chance, for evaluation.

    Args:
      batch: frames uint8 [B, 2, S, S, 3], mirror bool [B], identity int32 [B, 2].
      size: side of the result in pixels.

    Returns:
      float32 [B, 2, size, size, 3], normalised; the second is the mirror image where
      the batch says so.
    """
    whole = (jnp.zeros(2), jnp.ones(2))

    def resize(frame: jax.Array) -> jax.Array:
        return _resample(frame.astype(jnp.float32) / 255.0, *whole, size)

    pictures = jax.vmap(jax.vmap(resize))(batch["frames"])
    use_mirror = batch["mirror"] & (batch["identity"][:, 0] == batch["identity"][:, 1])
    second = jnp.where(
        use_mirror[:, None, None, None],
        jnp.flip(pictures[:, 0], axis=-2),
        pictures[:, 1],
    )
    return normalise(jnp.stack([pictures[:, 0], second], axis=1))
