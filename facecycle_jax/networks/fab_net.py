"""The networks of FAb-Net: an encoder, and a decoder each for flow and mask.

Images [N, S, S, 3] in 0..1, without mean and standard deviation; embeddings [N, D],
unbounded.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks.batch_norm import BatchNorm
from facecycle_jax.networks.blocks import Dtype, scaled, strided_conv
from facecycle_jax.networks.up_decoder import UpDecoder, decoder_channels

# Channels of all strided convolutions but the last, for an encoder of 256 x 256 images.
_CHANNELS = (32, 64, 128, 256, 256, 256, 256)
_SIZES = (32, 64, 128, 256)


def check_peer_size(image_size: int) -> None:
    """Raises UserError unless the encoders are defined for this image size."""
    if image_size not in _SIZES:
        raise UserError(
            f"model.image_size must be one of {_SIZES} pixels here, got {image_size}."
        )


def check_side(images: jax.Array, image_size: int) -> None:
    """Raises UserError unless images are of the size that an encoder was built for.

    The convolutions of larger ones end in more than one pixel, of which a code would
    hold one corner.
    """
    height, width = images.shape[1:3]
    if (height, width) != (image_size, image_size):
        raise UserError(
            f"the encoder was built for {image_size}x{image_size} images, got "
            f"{height}x{width}: resize them, or read its maps."
        )


class FabNetEncoder(nn.Module):
    """Encodes faces by strided convolutions until one pixel is left.

    The first convolution has no normalisation. The last has neither normalisation nor
    activation.

    Attributes:
      width: multiplier on all channel counts; 1 is the published network (4.89 M
        parameters).
      image_size: side of the images, 256 as published. Each halving of it leaves out
        one convolution.
      code_dim: length of the embedding; not scaled by `width`.
      dtype: computation dtype.

    References:
      Wiles et al., BMVC 2018.
    """

    width: float = 1.0
    image_size: int = 256
    code_dim: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, maps: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images: [N, image_size, image_size, 3] in 0..1; of any size for maps.
          train: whether batch statistics are used and the running ones moved.
          maps: whether to return the map below the last convolution instead.

        Returns:
          Embeddings [N, code_dim], or maps [N, h, w, C], which are 2 x 2 for an image
          of `image_size`.

        Raises:
          UserError: if the image size is not supported, or is not that of the images.
        """
        check_peer_size(self.image_size)
        if not maps:
            check_side(images, self.image_size)
        # Every convolution halves the side.
        layers = round(math.log2(self.image_size))

        x = images.astype(self.dtype)
        for number in range(1, layers):
            features = scaled(_CHANNELS[number - 1], self.width)
            x = strided_conv(x, features, name=f"conv{number}", dtype=self.dtype)
            if number > 1:
                x = BatchNorm(self.dtype, name=f"norm{number}")(x, train=train)
            x = nn.leaky_relu(x, negative_slope=0.2)

        if maps:
            return x
        x = strided_conv(x, self.code_dim, name=f"conv{layers}", dtype=self.dtype)
        return x[:, 0, 0, :]


class FabNet(NamedTuple):
    """Linen modules of FAb-Net, without parameters.

    Attributes:
      encoder: images to embeddings.
      flow_decoder: concatenated source and target embeddings to a flow in (-1, 1).
      mask_decoder: the same to mask logits in (-1, 1).
    """

    encoder: FabNetEncoder
    flow_decoder: UpDecoder
    mask_decoder: UpDecoder


def build_fab_net(
    *,
    width: float = 1.0,
    image_size: int = 256,
    code_dim: int = 256,
    align_corners: bool = False,
    dtype: Dtype = jnp.float32,
) -> FabNet:
    """Builds the modules.

    Args:
      width: multiplier on channel counts, above 0.
      image_size: side of the images.
      code_dim: length of the embedding.
      align_corners: whether the decoders' bilinear doubling aligns corners. The
        published program ran on an unreleased version of PyTorch, so its choice is not
        known. PyTorch 0.4.0 does not align them.
      dtype: computation dtype.

    Returns:
      The networks.

    Raises:
      UserError: if the image size is not supported.
    """
    check_peer_size(image_size)

    def decoder(outputs: int) -> UpDecoder:
        channels = decoder_channels(image_size=image_size, width=width, outputs=outputs)
        return UpDecoder(channels, align_corners, dtype)

    return FabNet(
        encoder=FabNetEncoder(width, image_size, code_dim, dtype),
        flow_decoder=decoder(2),
        mask_decoder=decoder(1),
    )
