"""The networks of PCL.

One trunk, two heads and two projectors, for face and pose, and one decoder. Images are
[N, S, S, 3] in 0..1, without mean and standard deviation.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.batch_norm import Dense, Projector
from facecycle_jax.networks.blocks import Dtype, conv, leaky_relu, scaled
from facecycle_jax.networks.encoder import first_layers
from facecycle_jax.networks.up_decoder import UpDecoder
from facecycle_jax.ops import unit_length

_DECODER_CHANNELS = (256, 256, 256, 256, 128)


class PclTrunk(nn.Module):
    """Convolutions of FaceCycle's encoder up to its last stride.

    The last layer is narrower than FaceCycle's.

    Attributes:
      width: multiplier on all channel counts; 1 is the published network (1.88 M
        parameters).
      dtype: computation dtype.

    References:
      Liu et al., "Pose-disentangled contrastive learning for self-supervised facial
      representation", CVPR 2023.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images of any size to features.

        Args:
          images: [N, H, W, 3] in 0..1.

        Returns:
          [N, H/16, W/16, 128 width], rounded up.
        """
        maps = first_layers(images, width=self.width, dtype=self.dtype)
        y = conv(
            maps["conv5_1"],
            features=scaled(128, self.width),
            kernel=3,
            name="conv5_2",
            dtype=self.dtype,
        )
        return leaky_relu(y)


class PclHead(nn.Module):
    """Two convolutions on the trunk's map.

    PCL has one head for the face and one for the pose.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, h, w, C] to the same shape."""
        features = x.shape[-1]
        for name in ("conv1", "conv2"):
            x = conv(x, features=features, kernel=3, name=name, dtype=self.dtype)
            x = leaky_relu(x)
        return x


class PclDecoder(nn.Module):
    """Decodes the sum of both heads into an image.

    Its last activation is a tanh although images are in 0..1, as in the published
    program.

    Attributes:
      width: multiplier on all channel counts; 1 is the published network (4.30 M
        parameters).
      dtype: computation dtype.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Decodes the sum of two heads' maps.

        Args:
          features: [N, 4, 4, C].
          train: whether batch statistics are used and the running ones moved.

        Returns:
          Images [N, 64, 64, 3] in (-1, 1).
        """
        flat = unit_length(features.reshape(len(features), -1))
        code = Dense(scaled(512, self.width), self.dtype, name="code")(flat)

        inner = [scaled(channels, self.width) for channels in _DECODER_CHANNELS]
        up = UpDecoder((*inner, 3), dtype=self.dtype, name="up")
        return up(code, train=train)


class Pcl(NamedTuple):
    """Linen modules of PCL, without parameters.

    Both heads have one architecture, and so have both projectors.

    Attributes:
      trunk: images to maps; their flattened maps are the features that PCL is evaluated
        with.
      head: trunk maps to maps of the face, or of the pose.
      projector: flattened head maps to projections.
      decoder: summed head maps to images.
    """

    trunk: PclTrunk
    head: PclHead
    projector: Projector
    decoder: PclDecoder


def build_pcl(*, width: float = 1.0, dtype: Dtype = jnp.float32) -> Pcl:
    """Builds the modules for images of 64 x 64 pixels.

    Args:
      width: multiplier on channel counts, above 0.
      dtype: computation dtype.

    Returns:
      The networks.
    """
    return Pcl(
        trunk=PclTrunk(width, dtype),
        head=PclHead(dtype),
        projector=Projector(scaled(2048, width), scaled(512, width), dtype),
        decoder=PclDecoder(width, dtype),
    )
