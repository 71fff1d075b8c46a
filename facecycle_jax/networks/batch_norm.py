"""Batch normalisation with explicit state, and dense layers as in PyTorch.

The running statistics live in the collection `batch_stats`. A module that is applied
with `train=True` and `mutable=["batch_stats"]` returns new ones. Nothing is changed in
place.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from facecycle_jax.networks.blocks import Dtype, kernel_and_bias_init

# PyTorch's momentum of 0.1 is the share of the new value; this is the share of the old
# one.
MOMENTUM = 0.9
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, then scales and shifts it.

    Means are taken over the whole array. Under jit on a mesh that is the global batch,
    so the result does not depend on the number of devices. (The programs in PyTorch
    normalise each device's part by itself.)

    In training, the normalisation uses the biased variance and the running variance
    moves towards the unbiased one, as in PyTorch. Two calls in one update count as two
    batches.

    Attributes:
      dtype: computation dtype; statistics are computed in float32 at least.

    References:
      Ioffe and Szegedy, "Batch normalization", ICML 2015, algorithms 1 and 2.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [..., C] to the same shape.

        Statistics are those of the batch if `train`, else the running ones.
        """
        features = x.shape[-1]
        precise = jnp.promote_types(self.dtype, jnp.float32)

        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))

        values = x.astype(precise)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(values, axis=axes)
            var = jnp.mean(jnp.square(values - mean), axis=axes)

            if not self.is_initializing():
                # Bessel's correction; of a single value there is no unbiased variance.
                count = x.size // features
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = _moved(running_mean.value, mean)
                running_var.value = _moved(running_var.value, unbiased)
        else:
            mean = running_mean.value
            var = running_var.value

        factor = scale.astype(precise) * jax.lax.rsqrt(var.astype(precise) + EPSILON)
        normalised = (values - mean) * factor + bias.astype(precise)
        return normalised.astype(self.dtype)


def _moved(old: jax.Array, new: jax.Array) -> jax.Array:
    """Moves a running statistic; no gradient passes through it."""
    new = jax.lax.stop_gradient(new)
    return (MOMENTUM * old + (1 - MOMENTUM) * new).astype(old.dtype)


class Dense(nn.Module):
    """A dense layer with PyTorch's default initialisation.

    Kernel and bias are uniform within 1 / sqrt(inputs).

    Attributes:
      features: outputs.
      dtype: computation dtype.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., features]."""
        inputs = x.shape[-1]
        kernel_init, bias_init = kernel_and_bias_init(
            "default", taps=1, fan_in=inputs, features=self.features
        )
        kernel = self.param("kernel", kernel_init, (inputs, self.features))
        bias = self.param("bias", bias_init, (self.features,))

        product = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return product + bias.astype(self.dtype)


class Projector(nn.Module):
    """Projects features for a contrastive loss.

    The layers are dense, ReLU, dense and batch normalisation.

    Attributes:
      hidden: width of the hidden layer.
      features: length of a projection.
      dtype: computation dtype.
    """

    hidden: int = 2048
    features: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [N, C] to [N, features], unbounded and not normalised in length."""
        hidden = nn.relu(Dense(self.hidden, self.dtype, name="hidden")(x))
        projected = Dense(self.features, self.dtype, name="output")(hidden)
        return BatchNorm(self.dtype, name="norm")(projected, train=train)
