"""Frames resident on the devices.

A step's pairs are drawn and gathered there, inside jit.

The frames are split over the devices, each holding an equal share of them; a batch is
split over the devices by items. Needs no tensorflow.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from facecycle_jax.data.batches.sampling import Items, Table, draw_items, draw_pairs
from facecycle_jax.devices.mesh import batch_sharding

Batch = dict[str, jax.Array]


def place_frames(frames: np.ndarray, mesh: Mesh) -> jax.Array:
    """Splits frames over the devices of a mesh.

    Args:
      frames: uint8 [F, S, S, 3], the same in every process.
      mesh: with the one axis 'data'.

    Returns:
      uint8 [G, S, S, 3], split along its first axis; G is F made a multiple of the
      devices by zeros.
    """
    share = -(-len(frames) // mesh.size)
    shape = (share * mesh.size, *frames.shape[1:])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        chosen = frames[index[0] if index else slice(None)]
        missing = [(0, share - len(chosen))] + [(0, 0)] * (frames.ndim - 1)
        return np.pad(chosen, missing)

    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def resident_batches(
    mesh: Mesh, *, batch_size: int, pairing: str, seed: int, items: Items | None = None
) -> Callable[[jax.Array, Table, jax.Array], tuple[jax.Array, Batch]]:
    """Builds the compiled function that makes a step's batch out of frames on the devices.

    Every device draws the pairs of the whole batch, which costs microseconds, looks up
    those frames that it holds, and the devices then exchange them, so that each ends
    with the frames of its own items.

    Args:
      mesh: with the one axis 'data'.
      batch_size: items over all devices, a multiple of them.
      pairing: 'same' or 'different'.
      seed: of the draws.
      items: what an item is, where it is not a pair.

    Returns:
      `next_batch(step, table, frames) -> (step + 1, batch)` with step uint32 on the
      devices, the table of all tracks and frames of `place_frames`. The batch is, bit
      for bit, that of the other backends, split over the devices. Nothing moves between
      host and device.
    """
    part = batch_size // mesh.size

    def on_device(
        step: jax.Array, table: Table, frames: jax.Array
    ) -> tuple[jax.Array, Batch]:
        if items is None:
            drawn = draw_pairs(
                step, table, batch_size=batch_size, pairing=pairing, seed=seed
            )
        else:
            drawn = draw_items(
                step, table, batch_size=batch_size, items=items, seed=seed
            )
        device = jax.lax.axis_index("data")
        place = drawn.pop("frame") - device * len(frames)
        held = (place >= 0) & (place < len(frames))
        found = frames[jnp.where(held, place, 0)] * held[..., None, None, None].astype(
            frames.dtype
        )
        # One device holds a frame, the others add zeros.
        mine = jax.lax.psum_scatter(found, "data", scatter_dimension=0, tiled=True)
        others = {
            k: jax.lax.dynamic_slice_in_dim(v, device * part, part)
            for k, v in drawn.items()
        }
        return step + 1, {"frames": mine, **others}

    whole, split = PartitionSpec(), PartitionSpec("data")
    placed = jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, whole, split), out_specs=(whole, split)
    )
    return jax.jit(placed)
