"""The code encoder, one for motion and one for identity.

Pictures [N, H, W, 3], normalised; codes [N, code_dim] in (-1, 1).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks.blocks import (
    ChannelAttention,
    Dtype,
    ResidualBlock,
    conv,
    leaky_relu,
    scaled,
)
from facecycle_jax.ops import adaptive_average_pool

IMAGE_SIZES = (64, 128, 256)
# Layers whose maps can be read, in order; the last is the feature of the linear
# protocol.
LAYERS = ("conv1_2", "conv2_2", "conv3_2", "residual2", "conv4_2", "conv5_2", "conv6_2")
# Sides of the linear protocol's pictures, in pixels, and of the map that the last layer
# makes of them.
FEATURE_SIZE, FEATURE_SIDE = 100, 7


def check_image_size(image_size: int) -> None:
    """Raises ValueError unless the networks are defined for this picture size in pixels."""
    if image_size not in IMAGE_SIZES:
        raise UserError(
            f"image_size must be one of {IMAGE_SIZES} pixels, got {image_size}."
        )


def check_layer(layer: str) -> None:
    """Raises ValueError unless the encoder has this layer to read."""
    if layer not in LAYERS:
        raise UserError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}.")


class EncoderFeatures(nn.Module):
    """The fully convolutional part of the encoder.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network.
      image_size: 64, 128 or 256: the picture size at which the map is 4x4. 128 puts a
        stride into the last group, 256 one more into the second convolution pair.
      dtype: computation dtype.
    """

    width: float = 1.0
    image_size: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, last: str = LAYERS[-1]) -> jax.Array:
        """Maps pictures [N, H, W, 3] to [N, H/16, W/16, 128 width] (at image_size 64.

        Rounded up).

        `last`, one of `LAYERS`, is the layer to end with: an earlier one has a larger
        map.
        """
        check_image_size(self.image_size)
        check_layer(last)
        dtype = self.dtype

        def layer(
            x: jax.Array, name: str, channels: int, kernel: int = 3, stride: int = 1
        ) -> jax.Array:
            features = scaled(channels, self.width)
            y = conv(
                x,
                features=features,
                kernel=kernel,
                stride=stride,
                name=name,
                dtype=dtype,
            )
            return leaky_relu(y)

        maps = {}
        x = x.astype(dtype)
        x = layer(x, "conv1_1", 64, kernel=7, stride=2)
        x = maps["conv1_2"] = layer(x, "conv1_2", 64)
        x = layer(x, "conv2_1", 64, stride=2 if self.image_size == 256 else 1)
        x = ChannelAttention(dtype, name="attention2")(x)
        x = maps["conv2_2"] = layer(x, "conv2_2", 64)
        x = layer(x, "conv3_1", 128, stride=2)
        x = ChannelAttention(dtype, name="attention3")(x)
        x = maps["conv3_2"] = layer(x, "conv3_2", 128)
        x = ResidualBlock(dtype=dtype, name="residual1")(x)
        x = maps["residual2"] = ResidualBlock(dtype=dtype, name="residual2")(x)
        x = layer(x, "conv4_1", 128, stride=2)
        x = maps["conv4_2"] = layer(x, "conv4_2", 128)
        x = layer(x, "conv5_1", 256, stride=2)
        x = maps["conv5_2"] = layer(x, "conv5_2", 256)
        x = layer(x, "conv6_1", 256, stride=2 if self.image_size >= 128 else 1)
        maps["conv6_2"] = layer(x, "conv6_2", 128)
        return maps[last]


class CodeEncoder(nn.Module):
    """Encodes a face into a code: convolutions to a 4x4 map, two dense layers, tanh.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (4.24 M
        parameters).
      image_size: 64, 128 or 256 pixels, see `EncoderFeatures`.
      code_dim: length of the code; not scaled by `width`.
      dtype: computation dtype.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """

    width: float = 1.0
    image_size: int = 64
    code_dim: int = 256
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Builds the layers."""
        init = nn.initializers.normal(0.01)
        self.features = EncoderFeatures(self.width, self.image_size, self.dtype)
        self.hidden = nn.Dense(
            scaled(512, self.width), dtype=self.dtype, kernel_init=init
        )
        self.code = nn.Dense(self.code_dim, dtype=self.dtype, kernel_init=init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes pictures.

        Args:
          x: [N, image_size, image_size, 3], normalised.

        Returns:
          Codes float32 [N, code_dim] in (-1, 1).

        Raises:
          ValueError: if the pictures have another size.
        """
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"the encoder was built for {self.image_size}x{self.image_size} pictures, got "
                f"{x.shape[1]}x{x.shape[2]}; resize them, or use feature_map, which takes any size."
            )
        y = self.features(x)
        y = leaky_relu(self.hidden(y.reshape(y.shape[0], -1)))
        return jnp.tanh(self.code(y).astype(jnp.float32))

    def feature_map(
        self, x: jax.Array, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes the map below the dense layers, the feature of the linear protocol, or an earlier one.

        Args:
          x: [N, H, W, 3], normalised, any size; 100x100 gives the 7x7x128 = 6272 of the
            paper.
          layer: one of `LAYERS`; 'residual2' at 100x100 gives 25x25x128.
          side: above 0, the map is averaged over side x side areas.

        Returns:
          float32 [N, h, w, c], c 128 width of the last layer.

        Raises:
          ValueError: for a layer there is none of, or a side below 0.
        """
        maps = self.features(x, last=layer).astype(jnp.float32)
        return adaptive_average_pool(maps, side=side) if side else maps
