"""The flow decoder.

It maps codes [N, code_dim] to dense flows [N, size/4, size/4, 2] in (-1, 1).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.blocks import (
    ChannelAttention,
    Dtype,
    ResidualBlock,
    conv,
    leaky_relu,
    scaled,
)
from facecycle_jax.networks.encoder import check_image_size
from facecycle_jax.ops import pixel_shuffle, resize_bilinear


def _double(x: jax.Array) -> jax.Array:
    """Doubles height and width bilinearly, corners aligned."""
    return resize_bilinear(x, height=2 * x.shape[1], width=2 * x.shape[2])


class FlowDecoder(nn.Module):
    """Decodes a motion code into the flow that takes the face to its neutral state.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (3.00 M
        parameters).
      image_size: 64, 128 or 256 pixels. The flow's side is a quarter of it. Each step
        above 64 adds a doubling before the last.
      dtype: computation dtype.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """

    width: float = 1.0
    image_size: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        """Decodes codes.

        Args:
          code: [N, code_dim] in (-1, 1).

        Returns:
          Flow float32 [N, image_size / 4, image_size / 4, 2] in (-1, 1), (x, y) in
          units where 2 is the whole image.
        """
        check_image_size(self.image_size)
        dtype = self.dtype

        def layer(
            x: jax.Array, name: str, channels: int, init: str | float = "fan_out"
        ) -> jax.Array:
            features = scaled(channels, self.width)
            y = conv(x, features=features, kernel=3, name=name, dtype=dtype, init=init)
            return leaky_relu(y)

        # The code is one pixel, whose channels become a map of 4 x 4.
        seed_features = 16 * scaled(256, self.width)
        x = code.astype(dtype)[:, None, None, :]
        x = conv(x, features=seed_features, kernel=1, name="seed", dtype=dtype)
        x = leaky_relu(pixel_shuffle(x, factor=4))

        x = ChannelAttention(dtype, name="attention1")(x)
        x = layer(x, "conv1", 256)

        # 8 x 8.
        x = layer(_double(x), "conv2_1", 128)
        x = ChannelAttention(dtype, name="attention2")(x)
        x = layer(x, "conv2_2", 128)
        x = ResidualBlock(dtype=dtype, name="residual1")(x)
        x = ResidualBlock(dtype=dtype, name="residual2")(x)

        # Up to a quarter of the image's side; the last doubling is at every size.
        for index in range(round(math.log2(self.image_size / 64))):
            x = layer(_double(x), f"conv_enlarge{index + 1}", 128)
        x = layer(_double(x), "conv3", 64, init=0.05)

        flow = conv(
            x, features=2, kernel=1, use_bias=False, name="flow", dtype=dtype, init=0.05
        )
        return jnp.tanh(flow.astype(jnp.float32))
