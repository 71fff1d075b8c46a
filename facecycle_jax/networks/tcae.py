"""The networks of TCAE: an encoder with two branches, and a decoder for each.

Images [N, S, S, 3] in 0..1, without mean and standard deviation; codes [N, D],
unbounded.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.batch_norm import BatchNorm
from facecycle_jax.networks.blocks import Dtype, scaled, strided_conv
from facecycle_jax.networks.fab_net import check_peer_size, check_side
from facecycle_jax.networks.up_decoder import UpDecoder, decoder_channels

# Channels of the strided convolutions that both branches share; the branches have 256.
_SHARED = (32, 64, 128, 256, 256)
_BRANCH_LAYERS = 3


class TcaeEncoder(nn.Module):
    """Encodes faces into a code of pose and one of expression.

    All convolutions but the last of a branch are followed by batch normalisation and a
    leaky ReLU of slope 0.2.

    Attributes:
      width: multiplier on all channel counts; 1 is the published network (8.04 M
        parameters).
      image_size: side of the images, 256 as published. Each halving of it leaves out
        one shared convolution.
      code_dim: length of each code; not scaled by `width`.
      dtype: computation dtype.

    References:
      Li et al., "Self-supervised representation learning from videos for facial action
      unit detection", CVPR 2019.
    """

    width: float = 1.0
    image_size: int = 256
    code_dim: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, maps: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes images.

        Args:
          images: [N, image_size, image_size, 3] in 0..1; of any size for maps.
          train: whether batch statistics are used and the running ones moved.
          maps: whether to return the maps below the last convolutions instead.

        Returns:
          Codes of pose and of expression, each [N, code_dim], or maps [N, h, w, C],
          which are 2 x 2 for an image of `image_size`.

        Raises:
          UserError: if the image size is not supported, or is not that of the images.
        """
        check_peer_size(self.image_size)
        if not maps:
            check_side(images, self.image_size)

        def layer(x: jax.Array, channels: int, name: str) -> jax.Array:
            features = scaled(channels, self.width)
            x = strided_conv(x, features, name=f"{name}_conv", dtype=self.dtype)
            x = BatchNorm(self.dtype, name=f"{name}_norm")(x, train=train)
            return nn.leaky_relu(x, negative_slope=0.2)

        # Every convolution halves the side; the branches bring it from 8 to 1.
        shared = round(math.log2(self.image_size)) - _BRANCH_LAYERS
        x = images.astype(self.dtype)
        for number in range(1, shared + 1):
            x = layer(x, _SHARED[number - 1], f"shared{number}")

        def branch(name: str) -> jax.Array:
            y = layer(x, 256, f"{name}1")
            y = layer(y, 256, f"{name}2")
            if maps:
                return y
            y = strided_conv(y, self.code_dim, name=f"{name}3_conv", dtype=self.dtype)
            return y[:, 0, 0, :]

        return branch("pose"), branch("expression")


class Tcae(NamedTuple):
    """Linen modules of TCAE, without parameters.

    Attributes:
      encoder: images to codes of pose and expression.
      pose_decoder: the pose codes of source and target to a flow (channels 0 and 1) and
        a mask logit (channel 2).
      expression_decoder: the same for expression codes.
    """

    encoder: TcaeEncoder
    pose_decoder: UpDecoder
    expression_decoder: UpDecoder


def build_tcae(
    *,
    width: float = 1.0,
    image_size: int = 256,
    code_dim: int = 256,
    align_corners: bool = False,
    dtype: Dtype = jnp.float32,
) -> Tcae:
    """Builds the modules.

    Args:
      width: multiplier on channel counts, above 0.
      image_size: side of the images.
      code_dim: length of each code.
      align_corners: whether the decoders' bilinear doubling aligns corners. PyTorch
        0.4.1, which TCAE names, does not.
      dtype: computation dtype.

    Returns:
      The networks.

    Raises:
      UserError: if the image size is not supported.
    """
    check_peer_size(image_size)

    channels = decoder_channels(image_size=image_size, width=width, outputs=3)
    decoder = UpDecoder(channels, align_corners, dtype)
    return Tcae(
        encoder=TcaeEncoder(width, image_size, code_dim, dtype),
        pose_decoder=decoder,
        expression_decoder=decoder,
    )
