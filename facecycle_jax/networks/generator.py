"""The generator, which makes an image from trunk maps and a flow.

Images are [N, H, W, 3], normalised, without a final activation. Trunk maps are conv2_1
[N, H/2, W/2, C2] and conv3_1 [N, H/4, W/4, C3].
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.blocks import Dtype, ResidualBlock, UpConv, conv, scaled
from facecycle_jax.ops import depth_to_space, warp

# Two 3x3 convolutions reach the zeros around a map from up to two places away. In a map
# of this side, all places but the middle one do.
MEAN_SIDE = 5
# Channels of an image of half the side that holds every pixel of the whole one.
IMAGE_CHANNELS = 12


class NoiseEncoding(nn.Module):
    """Content for the areas that a warp uncovers.

    Two rectified convolutions are applied to noise around a map's mean. Without noise
    the result is constant but for the edges, so it is computed on a small map and
    spread.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [N, H, W, C] and an optional key to [N, H, W, C].

        Without a key there is no noise.
        """
        count, height, width, channels = x.shape
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        if key is None:
            small = (count, min(height, MEAN_SIDE), min(width, MEAN_SIDE), channels)
            y = jnp.broadcast_to(y, small)
        else:
            y = y + jax.random.normal(key, x.shape, jnp.float32).astype(x.dtype)

        for name in ("conv1", "conv2"):
            y = conv(
                y,
                features=channels,
                kernel=3,
                name=name,
                dtype=self.dtype,
                init="default",
            )
            y = nn.relu(y)

        # To the full size; with noise it has that already.
        tall = _spread(y, 1, height)
        return _spread(tall, 2, width)


def _spread(x: jax.Array, axis: int, length: int) -> jax.Array:
    """Repeats the middle along an axis until it has that length."""
    missing = length - x.shape[axis]
    if not missing:
        return x

    before, middle, after = jnp.split(x, (MEAN_SIDE // 2, MEAN_SIDE // 2 + 1), axis)
    middle = jnp.repeat(middle, missing + 1, axis)
    return jnp.concatenate([before, middle, after], axis)


class Generator(nn.Module):
    """Generates a face from trunk maps, warped by a flow or as they are.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (12.85 M
        parameters).
      dtype: computation dtype.
      image_skip: whether the result is added to the warped image, which is then packed
        behind the channels of conv2_1. The networks learn what a warp cannot show, and
        images are sharp from the start. Not in the paper.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32
    image_skip: bool = False

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        flow: jax.Array | None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Generates images.

        Args:
          features: {'conv2_1': [N, H/2, W/2, C2], 'conv3_1': [N, H/4, W/4, C3]} of the
            trunk.
          flow: [N, h, w, 2], or None to reconstruct the face without motion
            (autoencoding).
          key: random key of the noise; None adds no noise.

        Returns:
          float32 [N, H, W, 3].
        """
        dtype = self.dtype
        fine = features["conv2_1"].astype(dtype)
        # The last channels are the image itself, see `FaceFeatures.trunk`.
        image = features["conv2_1"][..., -IMAGE_CHANNELS:] if self.image_skip else None
        coarse = features["conv3_1"].astype(dtype)

        if flow is not None:
            # Zeros where the flow points outside, and the encoded noise everywhere.
            keys = (None, None) if key is None else tuple(jax.random.split(key))
            warped = warp(coarse, flow)
            coarse = warped + NoiseEncoding(dtype, name="noise_coarse")(coarse, keys[0])
            warped = warp(fine, flow)
            fine = warped + NoiseEncoding(dtype, name="noise_fine")(fine, keys[1])

        def layer(x: jax.Array, name: str, channels: int) -> jax.Array:
            y = conv(
                x,
                features=scaled(channels, self.width),
                kernel=3,
                name=name,
                dtype=dtype,
                init="default",
            )
            return nn.relu(y)

        # A quarter of the side.
        x = layer(coarse, "reduce", 256)
        for index in range(8):
            x = ResidualBlock("default", dtype, name=f"residual{index + 1}")(x)

        # Half of the side, where the finer maps join.
        half = scaled(128, self.width)
        x = nn.relu(UpConv(half, dtype, name="up1")(x))
        x = layer(x, "conv1", 128)
        x = jnp.concatenate([fine, x], axis=-1)

        # The whole side.
        x = nn.relu(UpConv(half, dtype, name="up2")(x))
        x = layer(x, "conv2", 128)
        x = conv(x, features=3, kernel=3, name="to_rgb", dtype=dtype, init="default")
        x = x.astype(jnp.float32)
        if image is None:
            return x

        # The image itself, warped as the loss warps images.
        image = depth_to_space(image.astype(jnp.float32), factor=2)
        return x + (image if flow is None else warp(image, flow, clamp=True))
