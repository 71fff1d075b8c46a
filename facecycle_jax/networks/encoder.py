"""The code encoder, one for motion and one for identity.

Images are [N, H, W, 3], normalised. Codes are [N, code_dim] in (-1, 1).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError, shorten
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
# Side of the linear protocol's images, in pixels.
FEATURE_SIZE = 100
# Side of the last layer's map of such an image.
FEATURE_SIDE = 7


def check_image_size(image_size: int) -> None:
    """Raises UserError unless the networks are defined for this image size."""
    if image_size not in IMAGE_SIZES:
        raise UserError(
            f"image_size must be one of {IMAGE_SIZES} pixels, got {image_size}."
        )


def check_layer(layer: str) -> None:
    """Checks the name of a layer, or several separated by commas.

    Raises:
      UserError: If one is unknown, or named twice, or they are not one text.
    """
    if not isinstance(layer, str):
        raise UserError(
            "layer must be a name, or several names in one text, separated by commas, "
            f"got {shorten(layer)}."
        )

    names = layer.split(",")
    for name in names:
        if name not in LAYERS:
            raise UserError(f"layer must be one of {', '.join(LAYERS)}, got {name!r}.")
        if names.count(name) > 1:
            raise UserError(f"layer names {name} twice: {layer!r}.")


def _layer(
    x: jax.Array,
    name: str,
    channels: int,
    *,
    width: float,
    dtype: Dtype,
    kernel: int = 3,
    stride: int = 1,
) -> jax.Array:
    """Applies a convolution and a leaky ReLU inside a compact module."""
    y = conv(
        x,
        features=scaled(channels, width),
        kernel=kernel,
        stride=stride,
        name=name,
        dtype=dtype,
    )
    return leaky_relu(y)


def first_layers(
    x: jax.Array, *, width: float, dtype: Dtype, stride2: int = 1
) -> dict[str, jax.Array]:
    """Applies the layers up to conv5_1 inside a compact module.

    PCL's trunk has them too.

    Args:
      x: images [N, H, W, 3] of any size.
      width: multiplier on all channel counts.
      dtype: computation dtype.
      stride2: stride of conv2_1.

    Returns:
      Maps by layer: those of `LAYERS` up to 'conv5_1', and 'conv5_1'.
    """
    layer = functools.partial(_layer, width=width, dtype=dtype)
    maps = {}

    # Half of the side.
    x = x.astype(dtype)
    x = layer(x, "conv1_1", 64, kernel=7, stride=2)
    x = maps["conv1_2"] = layer(x, "conv1_2", 64)

    x = layer(x, "conv2_1", 64, stride=stride2)
    x = ChannelAttention(dtype, name="attention2")(x)
    x = maps["conv2_2"] = layer(x, "conv2_2", 64)

    # A quarter of the side.
    x = layer(x, "conv3_1", 128, stride=2)
    x = ChannelAttention(dtype, name="attention3")(x)
    x = maps["conv3_2"] = layer(x, "conv3_2", 128)

    x = ResidualBlock(dtype=dtype, name="residual1")(x)
    x = maps["residual2"] = ResidualBlock(dtype=dtype, name="residual2")(x)

    # An eighth of the side, then a sixteenth.
    x = layer(x, "conv4_1", 128, stride=2)
    x = maps["conv4_2"] = layer(x, "conv4_2", 128)
    maps["conv5_1"] = layer(x, "conv5_1", 256, stride=2)
    return maps


class EncoderFeatures(nn.Module):
    """The fully convolutional part of the encoder.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network.
      image_size: 64, 128 or 256, the image size at which the map is 4x4. 128 adds a
        stride to the last group, and 256 one more to the second pair of convolutions.
      dtype: computation dtype.
    """

    width: float = 1.0
    image_size: int = 64
    dtype: Dtype = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [N, H, W, 3] to the map of the last layer.

        Args:
          x: images of any size.

        Returns:
          [N, H/16, W/16, 128 width], rounded up, at image_size 64.

        Raises:
          UserError: if the image size is unknown.
        """
        return self.maps(x)[LAYERS[-1]]

    @nn.compact
    def maps(self, x: jax.Array) -> dict[str, jax.Array]:
        """Maps images [N, H, W, 3] to the maps of all layers in one pass.

        Args:
          x: images of any size.

        Returns:
          [N, h, w, C] by layer, those of `LAYERS` among them; an earlier one is larger.
          Unused ones cost nothing under jit.

        Raises:
          UserError: if the image size is unknown.
        """
        check_image_size(self.image_size)
        layer = functools.partial(_layer, width=self.width, dtype=self.dtype)

        # The strides that depend on the image size are conv2_1's and that of the last
        # group.
        maps = first_layers(
            x,
            width=self.width,
            dtype=self.dtype,
            stride2=2 if self.image_size == 256 else 1,
        )
        x = maps["conv5_2"] = layer(maps["conv5_1"], "conv5_2", 256)

        x = layer(x, "conv6_1", 256, stride=2 if self.image_size >= 128 else 1)
        maps["conv6_2"] = layer(x, "conv6_2", 128)
        return maps


class CodeEncoder(nn.Module):
    """Encodes a face into a code.

    Convolutions lead to a 4x4 map, then come two dense layers and a tanh.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (4.24 M
        parameters).
      image_size: 64, 128 or 256 pixels, see `EncoderFeatures`.
      code_dim: length of the code; not scaled by `width`.
      dtype: computation dtype.
      code_init: standard deviation of the initial weights of the two dense layers. The
        paper's is 0.01, at which the codes of narrow encoders are all nearly 0.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """

    width: float = 1.0
    image_size: int = 64
    code_dim: int = 256
    dtype: Dtype = jnp.float32
    code_init: float = 0.01

    def setup(self) -> None:
        """Builds the layers."""
        init = nn.initializers.normal(self.code_init)
        self.features = EncoderFeatures(self.width, self.image_size, self.dtype)
        self.hidden = nn.Dense(
            scaled(512, self.width), dtype=self.dtype, kernel_init=init
        )
        self.code = nn.Dense(self.code_dim, dtype=self.dtype, kernel_init=init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes images.

        Args:
          x: [N, image_size, image_size, 3], normalised.

        Returns:
          Codes float32 [N, code_dim] in (-1, 1).

        Raises:
          UserError: if the images have another size.
        """
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"the encoder was built for {self.image_size}x{self.image_size} "
                f"images, got {x.shape[1]}x{x.shape[2]}; resize them, or use "
                "feature_map, which takes any size."
            )

        y = self.features(x)
        y = y.reshape(y.shape[0], -1)
        y = leaky_relu(self.hidden(y))
        return jnp.tanh(self.code(y).astype(jnp.float32))

    def feature_map(
        self, x: jax.Array, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes the map of one layer, or of several next to each other.

        The map of the last layer, below the dense ones, is the feature of the linear
        protocol.

        Args:
          x: [N, H, W, 3], normalised, any size; 100x100 gives the 7x7x128 = 6272 of the
            paper.
          layer: one of `LAYERS`; 'residual2' at 100x100 gives 25x25x128. Several,
            separated by commas, are joined: their channels follow each other.
          side: above 0, the map is averaged over side x side areas; a smaller map
            stays as it is. Several layers need it, because their maps differ in size;
            if one of them is smaller, all are averaged to its size.

        Returns:
          float32 [N, h, w, c], c 128 width of the last layer.

        Raises:
          UserError: if `layer` is unknown, or names several without `side`.
          ValueError: if `side` is negative.
        """
        check_layer(layer)
        names = layer.split(",")
        if len(names) > 1 and not side:
            raise UserError(
                f"maps of several layers have different sizes: {layer!r} needs a side "
                "above 0, to which they are averaged."
            )

        maps = self.features.maps(x)
        chosen = [maps[name].astype(jnp.float32) for name in names]
        if len(names) > 1:
            # Small images have late maps of less than `side` places.
            side = min(side, *(min(found.shape[1:3]) for found in chosen))
        if side:
            chosen = [adaptive_average_pool(found, side=side) for found in chosen]
        return jnp.concatenate(chosen, axis=-1)
