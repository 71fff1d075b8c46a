"""The decoder of FAb-Net, TCAE and PCL.

It turns a vector into a map that doubles in size with every block.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.batch_norm import BatchNorm
from facecycle_jax.networks.blocks import Dtype, conv, scaled
from facecycle_jax.ops import double_bilinear

# Channels of all blocks but the last, for a decoder to 256 x 256.
_CHANNELS = (256, 256, 256, 256, 128, 64, 32)


def decoder_channels(*, image_size: int, width: float, outputs: int) -> tuple[int, ...]:
    """Lists the channels of a decoder's blocks.

    Smaller images leave out the first ones.

    Args:
      image_size: side of the decoded map, a power of two from 8 to 256.
      width: multiplier on all channel counts but the last.
      outputs: channels of the map.

    Returns:
      One number for each doubling.
    """
    # One block for each doubling from 1 pixel; the last has `outputs` channels.
    doublings = round(math.log2(image_size))
    inner = _CHANNELS[len(_CHANNELS) - (doublings - 1) :]
    return (*(scaled(channels, width) for channels in inner), outputs)


class UpDecoder(nn.Module):
    """Decodes vectors into maps in (-1, 1).

    Each block is a ReLU, a doubling, a 3x3 convolution and batch normalisation. The
    last block has a tanh instead of the normalisation.

    Attributes:
      channels: output channels of every block.
      align_corners: whether the bilinear doubling aligns corner samples.
      dtype: computation dtype.

    References:
      Wiles et al., "Self-supervised learning of a facial attribute embedding from
      video", BMVC 2018.
    """

    channels: Sequence[int]
    align_corners: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, vector: jax.Array, *, train: bool) -> jax.Array:
        """Decodes vectors.

        Args:
          vector: [N, D].
          train: whether batch statistics are used and the running ones moved.

        Returns:
          [N, 2^k, 2^k, channels[-1]] in (-1, 1) for k blocks.
        """
        x = vector[:, None, None, :].astype(self.dtype)
        last = len(self.channels)

        for number, channels in enumerate(self.channels, start=1):
            x = double_bilinear(nn.relu(x), align_corners=self.align_corners)
            x = conv(
                x,
                features=channels,
                kernel=3,
                name=f"conv{number}",
                dtype=self.dtype,
                init="default",
            )
            if number < last:
                x = BatchNorm(self.dtype, name=f"norm{number}")(x, train=train)

        return jnp.tanh(x)
