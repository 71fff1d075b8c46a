"""Losses of a code itself."""

import jax
import jax.numpy as jnp

# The largest float32 below 1 is 1 - 6e-8; beyond this an arctanh is noise.
_LARGEST = 1 - 1e-6


def saturation(code: jax.Array) -> jax.Array:
    """Computes the mean square of what the tanh at a code's end was given.

    Where it is large the tanh lets next to no gradient through: the code is a row of signs that training
    cannot change any more. The cost is of its argument, so that its own gradient does not vanish there.

    Args:
      code: [..., D], in (-1, 1).

    Returns:
      float32 [...]; 0 for a code of zeros, 1.2 for one of +-0.8, 7 for one of +-0.99.
    """
    code = jnp.clip(code.astype(jnp.float32), -_LARGEST, _LARGEST)
    return jnp.mean(jnp.square(jnp.arctanh(code)), axis=-1)
