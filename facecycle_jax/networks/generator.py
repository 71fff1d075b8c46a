"""The generator: trunk maps and a flow to a picture.

Pictures [N, H, W, 3], normalised, without a final activation. Trunk maps: conv2_1 [N,
H/2, W/2, C2] and conv3_1 [N, H/4, W/4, C3] of the trunk.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.blocks import Dtype, ResidualBlock, UpConv, conv, scaled
from facecycle_jax.ops import warp

# Two 3x3 convolutions see the zeros around a map from two places away: of this side,
# all but the middle does.
MEAN_SIDE = 5


class NoiseEncoding(nn.Module):
    """Fills what a warp uncovers.

    Two rectified convolutions of noise around a map's mean.

    Without noise the result is the same everywhere but at the edges, so it is computed
    on a map of a few places and spread.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [N, H, W, C] and an optional key to [N, H, W, C].

        Without a key there is no noise.
        """
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        if key is None:
            count, height, width, channels = x.shape
            y = jnp.broadcast_to(
                y, (count, min(height, MEAN_SIDE), min(width, MEAN_SIDE), channels)
            )
        else:
            y = y + jax.random.normal(key, x.shape, jnp.float32).astype(x.dtype)
        for name in ("conv1", "conv2"):
            y = nn.relu(
                conv(
                    y,
                    features=x.shape[-1],
                    kernel=3,
                    name=name,
                    dtype=self.dtype,
                    init="default",
                )
            )
        return _spread(_spread(y, 1, x.shape[1]), 2, x.shape[2])


def _spread(x: jax.Array, axis: int, length: int) -> jax.Array:
    """Repeats the middle along an axis until it has that length."""
    missing = length - x.shape[axis]
    if not missing:
        return x
    before, middle, after = jnp.split(x, (MEAN_SIDE // 2, MEAN_SIDE // 2 + 1), axis)
    return jnp.concatenate([before, jnp.repeat(middle, missing + 1, axis), after], axis)


class Generator(nn.Module):
    """Draws a face from trunk maps that are warped by a flow, or from the maps as they are.

    Attributes:
      width: multiplier on all channel counts; 1 is the paper's network (12.85 M
        parameters).
      dtype: computation dtype.

    References:
      FaceCycle (ICCV 2021), section 3.1.
    """

    width: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        flow: jax.Array | None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Draws pictures.

        Args:
          features: {'conv2_1': [N, H/2, W/2, C2], 'conv3_1': [N, H/4, W/4, C3]} of the
            trunk.
          flow: [N, h, w, 2], or None to redraw the face without motion (autoencoding).
          key: random key of the noise; None draws without noise.

        Returns:
          float32 [N, H, W, 3].
        """
        dtype = self.dtype
        fine, coarse = (features[name].astype(dtype) for name in ("conv2_1", "conv3_1"))
        if flow is not None:
            keys = (None, None) if key is None else tuple(jax.random.split(key))
            coarse = warp(coarse, flow) + NoiseEncoding(dtype, name="noise_coarse")(
                coarse, keys[0]
            )
            fine = warp(fine, flow) + NoiseEncoding(dtype, name="noise_fine")(
                fine, keys[1]
            )

        def layer(x: jax.Array, name: str, channels: int) -> jax.Array:
            features = scaled(channels, self.width)
            return nn.relu(
                conv(
                    x,
                    features=features,
                    kernel=3,
                    name=name,
                    dtype=dtype,
                    init="default",
                )
            )

        x = layer(coarse, "reduce", 256)
        for index in range(8):
            x = ResidualBlock("default", dtype, name=f"residual{index + 1}")(x)
        half = scaled(128, self.width)
        x = layer(nn.relu(UpConv(half, dtype, name="up1")(x)), "conv1", 128)
        x = jnp.concatenate([fine, x], axis=-1)
        x = layer(nn.relu(UpConv(half, dtype, name="up2")(x)), "conv2", 128)
        x = conv(x, features=3, kernel=3, name="to_rgb", dtype=dtype, init="default")
        return x.astype(jnp.float32)
