"""Layers that the networks share. Layout NHWC; activations of any range.

Parameters are float32. `dtype` is the computation dtype, float32 or bfloat16.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax import ops

Dtype = Any
Initialiser = Callable[..., jax.Array]


def scaled(channels: int, width: float) -> int:
    """Scales a channel count by the width multiplier, to at least 4 channels."""
    return max(4, round(channels * width))


def leaky_relu(x: jax.Array) -> jax.Array:
    """Applies a leaky rectifier with FaceCycle's slope of 0.1."""
    return nn.leaky_relu(x, negative_slope=0.1)


def _uniform(bound: float) -> Initialiser:
    """Returns the initialiser that is uniform in [-bound, bound]."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def kernel_and_bias_init(
    init: str | float, *, taps: int, fan_in: int, features: int
) -> tuple[Initialiser, Initialiser]:
    """Returns the initialisers of kernel and bias by name.

    - 'fan_out': normal with standard deviation sqrt(2 / (taps * features)), zero bias.
    - 'default': uniform within 1 / sqrt(fan_in) for both (PyTorch's default).
    - a number: normal with that standard deviation, zero bias.
    """
    if init == "default":
        bound = 1.0 / math.sqrt(fan_in)
        return _uniform(bound), _uniform(bound)

    std = math.sqrt(2.0 / (taps * features)) if init == "fan_out" else float(init)
    return nn.initializers.normal(std), nn.initializers.zeros


def conv(
    x: jax.Array,
    *,
    features: int,
    kernel: int,
    name: str,
    dtype: Dtype,
    stride: int = 1,
    use_bias: bool = True,
    init: str | float = "fan_out",
) -> jax.Array:
    """Applies a convolution inside a compact module.

    The input is padded by (kernel - 1) // 2 on every side.

    Args:
      x: [N, H, W, C].
      features: output channels.
      kernel: width of the square kernel. It is odd, or 4 with a stride of 2.
      name: parameter name within the calling module.
      dtype: computation dtype.
      stride: step in both directions.
      use_bias: whether a bias is added.
      init: 'fan_out', 'default' or a standard deviation.

    Returns:
      [N, H / stride, W / stride, features], rounded up for odd kernels and down for a
      kernel of 4.
    """
    module = _Conv(
        features=features,
        width=kernel,
        stride=stride,
        use_bias=use_bias,
        kernel_init=init,
        dtype=dtype,
        name=name,
    )
    return module(x)


def strided_conv(x: jax.Array, features: int, *, name: str, dtype: Dtype) -> jax.Array:
    """Halves height and width inside a compact module.

    Kernel 4, stride 2, padding 1, and PyTorch's default initialisation.
    """
    return conv(
        x, features=features, kernel=4, stride=2, name=name, dtype=dtype, init="default"
    )


class _Conv(nn.Module):
    """The module behind `conv`, with the parameters of `nn.Conv`.

    It replaces `nn.Conv` because `ops.conv` has gradients that are fast on CPUs.
    """

    features: int
    width: int
    stride: int
    use_bias: bool
    kernel_init: str | float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        taps = self.width * self.width
        channels = x.shape[-1]
        kernel_init, bias_init = kernel_and_bias_init(
            self.kernel_init, taps=taps, fan_in=taps * channels, features=self.features
        )
        kernel = self.param(
            "kernel", kernel_init, (self.width, self.width, channels, self.features)
        )

        # "SAME" would pad one side only at stride 2.
        pad = (self.width - 1) // 2
        y = ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=((pad, pad), (pad, pad)),
        )
        if not self.use_bias:
            return y

        bias = self.param("bias", bias_init, (self.features,))
        return y + bias.astype(self.dtype)


class UpConv(nn.Module):
    """Transposed convolution that doubles height and width.

    Kernel 4, stride 2, padding 1, with bias.

    Attributes:
      features: output channels.
      dtype: computation dtype.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, 2 H, 2 W, features]."""
        # PyTorch takes the fan in of a transposed kernel from its output side.
        kernel_init, bias_init = kernel_and_bias_init(
            "default", taps=16, fan_in=16 * self.features, features=self.features
        )
        kernel = self.param("kernel", kernel_init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", bias_init, (self.features,))

        y = ops.transposed_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: LReLU(x + conv(LReLU(conv(x)))).

    Attributes:
      kernel_init: initialiser, see `conv`.
      dtype: computation dtype.
    """

    kernel_init: str | float = "fan_out"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""

        def convolve(y: jax.Array, name: str) -> jax.Array:
            return conv(
                y,
                features=x.shape[-1],
                kernel=3,
                name=name,
                dtype=self.dtype,
                init=self.kernel_init,
            )

        y = leaky_relu(convolve(x, "conv1"))
        y = convolve(y, "conv2")
        return leaky_relu(x + y)


class ChannelAttention(nn.Module):
    """Attention between channels: LReLU(x + S g) with S = phi theta^T.

    The softmax of theta is over pixels, that of g over channels.

    Attributes:
      dtype: computation dtype; softmaxes are in float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        n, height, width, features = x.shape

        def project(name: str) -> jax.Array:
            y = conv(x, features=features, kernel=1, name=name, dtype=self.dtype)
            return y.reshape(n, height * width, features)

        # [N, pixels, C] each.
        g = project("g")
        theta = project("theta")
        phi = project("phi")
        theta = nn.softmax(theta.astype(jnp.float32), axis=1).astype(self.dtype)
        g = nn.softmax(g.astype(jnp.float32), axis=2).astype(self.dtype)

        # Relations between channels [N, C, C], applied to g.
        relation = jnp.einsum("npc,npd->ncd", phi, theta)
        out = jnp.einsum("ncd,npd->npc", relation, g)
        return leaky_relu(x + out.reshape(x.shape))
