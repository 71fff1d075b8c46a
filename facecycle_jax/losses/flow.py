"""Losses of a flow itself."""

import jax
import jax.numpy as jnp


def folding(flow: jax.Array) -> jax.Array:
    """Computes how far a flow turns the order of neighbouring places round.

    Where it does, the warped picture shows a place twice, mirrored, and no flow can undo it: the backward
    flow, the flow carried along itself, is an inverse only of flows that do not fold. A flow that mirrors
    half of the picture makes every face symmetric, the same for all, which training can fall into.

    Args:
      flow: [..., H, W, 2], (x, y) in units where 2 is the whole picture; H and W at least 2.

    Returns:
      float32 [...]: the mean overlap of neighbours along x and along y, in distances of neighbours of the
      identity; 0 for flows that keep the order, 1 for the picture's mirror image.
    """
    return _overlap(flow[..., 0], axis=-1) + _overlap(flow[..., 1], axis=-2)


def _overlap(flow: jax.Array, axis: int) -> jax.Array:
    steps = 1 + jnp.diff(flow.astype(jnp.float32), axis=axis) * (flow.shape[axis] - 1) / 2
    return jnp.mean(jnp.maximum(-steps, 0), axis=(-2, -1))
