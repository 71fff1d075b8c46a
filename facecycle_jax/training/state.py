"""The state of a training run, which holds arrays only.

So it can be donated, sharded and saved as it is.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from facecycle_jax.methods import Method
from facecycle_jax.networks import Tree


@flax.struct.dataclass
class TrainState:
    """Everything that changes, or is needed, from step to step.

    Attributes:
      step: int32 scalar, updates attempted so far.
      params: trained networks by name.
      frozen: networks that are only used, by name, and what losses carry (see
        `methods.base.CARRIED`). With `params` it is the whole model.
      opt_state: the optimiser's state.
      ema: moving average of `params`, or None where none is kept.
      nonfinite_total: int32 scalar, updates skipped so far.
      nonfinite_in_row: int32 scalar, updates skipped since the last one made.
    """

    step: jax.Array
    params: Tree
    frozen: Tree
    opt_state: optax.OptState
    ema: Tree | None
    nonfinite_total: jax.Array
    nonfinite_in_row: jax.Array

    @property
    def eval_params(self) -> Tree:
        """The parameters to evaluate and to export, averaged ones if they are kept."""
        return self.params if self.ema is None else self.ema


def init_state(
    key: jax.Array,
    method: Method,
    optimiser: optax.GradientTransformation,
    *,
    average: bool = False,
) -> TrainState:
    """Draws a fresh state; pure, so usable under `jax.eval_shape` and `jax.jit`.

    Args:
      key: random key of the initial parameters.
      method: what is trained.
      optimiser: the optimiser.
      average: whether to keep a moving average of the parameters.

    Returns:
      The state at step 0.
    """
    params, frozen = method.init(key)
    params, frozen = jax.tree.map(jnp.asarray, (params, frozen))

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        opt_state=optimiser.init(params),
        # A copy: two donated arguments must not share one buffer.
        ema=jax.tree.map(jnp.copy, params) if average else None,
        nonfinite_total=jnp.zeros((), jnp.int32),
        nonfinite_in_row=jnp.zeros((), jnp.int32),
    )
