"""The normaliser, which removes identity from a neutral face or restores it.

Images are [N, H, W, 3], normalised, without a final activation. Trunk maps conv3_1 are
[N, H/4, W/4, C].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.blocks import Dtype, ResidualBlock, UpConv, conv, scaled

# Factor from the parameters of the learned image to its pixels. Adam moves a parameter
# by about the learning rate in a step, whatever its gradient, but a pixel has to move
# by 1 or 2 in all. The factor makes it move four times as fast.
IMAGE_SCALE = 4.0


class Modulation(nn.Module):
    """Instance normalisation, scaled and shifted by a code.

    The result is gamma(code) * (x - mean) / std + beta(code).

    Attributes:
      dtype: computation dtype. Statistics are computed in float32, the variance with
        the biased estimate.

    References:
      Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance
      normalization", ICCV 2017; Park et al., "Semantic image synthesis with
      spatially-adaptive normalization", CVPR 2019.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        """Modulates [N or 1, H, W, C] by codes [N, D]; one map serves all codes."""
        # Statistics of each channel of each map, [N or 1, 1, 1, C].
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(x32, axis=(1, 2), keepdims=True)
        variance = jnp.var(x32, axis=(1, 2), keepdims=True)
        normal = ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(self.dtype)

        # Scale and shift [N, 1, 1, C], by dense layers written as 1x1 convolutions.
        code = code.astype(self.dtype)[:, None, None, :]

        def dense(name: str) -> jax.Array:
            return conv(
                code,
                features=x.shape[-1],
                kernel=1,
                name=name,
                dtype=self.dtype,
                init="default",
            )

        gamma = dense("gamma")
        beta = dense("beta")
        return normal * gamma + beta


class Normaliser(nn.Module):
    """Draws the mean face of a neutral face, or the neutral face of a mean face.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (9.46 M
        parameters).
      dtype: computation dtype.
      image_skip: whether faces are a learned image plus what the decoder makes. The
        mean face then has no long way through the decoder. Not in the paper.

    References:
      FaceCycle (ICCV 2021), section 3.2.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32
    image_skip: bool = False

    def setup(self) -> None:
        """Builds the layers; all but the two modulations are shared."""
        self.remove_identity = Modulation(self.dtype)
        self.restore_identity = Modulation(self.dtype)
        self.decoder = NormaliserDecoder(self.width, self.dtype, self.image_skip)

    def __call__(
        self, features: jax.Array, code: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Applies both directions to the same maps, to initialise all parameters."""
        return self.remove(features, code), self.restore(features, code)

    def remove(self, features: jax.Array, code: jax.Array) -> jax.Array:
        """Removes identity.

        Args:
          features: conv3_1 maps [N, H/4, W/4, C] of neutral faces.
          code: identity codes [N, D].

        Returns:
          Mean faces float32 [N, H, W, 3].
        """
        return self.decoder(self.remove_identity(features, code))

    def restore(self, features: jax.Array, code: jax.Array) -> jax.Array:
        """Puts identity back.

        Args:
          features: conv3_1 maps [N or 1, H/4, W/4, C] of mean faces.
          code: identity codes [N, D].

        Returns:
          Neutral faces float32 [N, H, W, 3].
        """
        return self.decoder(self.restore_identity(features, code))


class NormaliserDecoder(nn.Module):
    """Decoder of both directions: seven residual blocks and two doublings.

    Attributes:
      width: multiplier on all channel counts.
      dtype: computation dtype.
      image_skip: whether a learned image is added.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32
    image_skip: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H/4, W/4, C] to images float32 [N, H, W, 3]."""
        features = scaled(256, self.width)
        if x.shape[-1] != features:
            # A VGG trunk of fixed width meets a narrower decoder. This never happens at
            # the paper's width.
            x = conv(
                x,
                features=features,
                kernel=1,
                name="reduce",
                dtype=self.dtype,
                init="default",
            )

        for index in range(7):
            x = ResidualBlock("default", self.dtype, name=f"residual{index + 1}")(x)

        # Half of the side.
        half = scaled(128, self.width)
        x = nn.relu(UpConv(half, self.dtype, name="up1")(x))
        x = conv(
            x, features=half, kernel=3, name="conv1", dtype=self.dtype, init="default"
        )
        x = nn.relu(x)

        # The whole side.
        x = nn.relu(UpConv(half, self.dtype, name="up2")(x))
        x = conv(
            x, features=3, kernel=1, name="to_rgb", dtype=self.dtype, init="default"
        )
        x = x.astype(jnp.float32)
        if not self.image_skip:
            return x

        image = self.param("image", nn.initializers.zeros, x.shape[1:])
        return x + IMAGE_SCALE * image
