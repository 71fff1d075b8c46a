"""Frames resident on the devices, where jitted code draws and gathers the batches.

The frames are split over the devices in equal shares; each of several slices holds all
of them. A batch is split over the devices by items. This backend does not need
tensorflow.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from facecycle_jax.data.batches.sampling import Items, Table, draw_items, draw_pairs
from facecycle_jax.devices import cpu_compiler_options
from facecycle_jax.devices.mesh import batch_axes

Batch = dict[str, jax.Array]


def place_frames(frames: np.ndarray, mesh: Mesh) -> jax.Array:
    """Splits frames over the devices of each slice.

    Args:
      frames: uint8 [F, S, S, 3], the same in every process.
      mesh: of `make_mesh`.

    Returns:
      uint8 [G, S, S, 3], split along its first axis. G is F rounded up to a multiple of
      the devices of a slice; the rows added are zero.
    """
    # Rounded up: the share of every device.
    parts = mesh.shape["data"]
    share = -(-len(frames) // parts)
    shape = (share * parts, *frames.shape[1:])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        chosen = frames[index[0] if index else slice(None)]
        missing = [(0, share - len(chosen))] + [(0, 0)] * (frames.ndim - 1)
        return np.pad(chosen, missing)

    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_callback(shape, sharding, part)


def resident_batches(
    mesh: Mesh, *, batch_size: int, pairing: str, seed: int, items: Items | None = None
) -> Callable[[jax.Array, Table, jax.Array], tuple[jax.Array, Batch]]:
    """Builds the compiled function that makes batches of frames on the devices.

    Every device draws the pairs of the whole batch, which costs microseconds, and looks
    up those frames that it holds. The devices of a slice then exchange them, so that
    each ends with the frames of its own items.

    Args:
      mesh: of `make_mesh`.
      batch_size: items over all devices, a multiple of their number.
      pairing: 'same' or 'different'.
      seed: seed of the draws.
      items: what an item is, where it is not a pair.

    Returns:
      `next_batch(step, table, frames) -> (step + 1, batch)`, with the step, uint32, on
      the devices, the table of all tracks, and the frames of `place_frames`. The batch
      equals that of the other backends bit for bit and is split over the devices.
      Nothing moves between host and device.
    """
    part = batch_size // mesh.size
    part_of_slice = part * mesh.shape["data"]

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

        # The items of this slice, [b, ...].
        if "slice" in mesh.axis_names:
            first = jax.lax.axis_index("slice") * part_of_slice
            drawn = {
                name: jax.lax.dynamic_slice_in_dim(value, first, part_of_slice)
                for name, value in drawn.items()
            }

        # Rows in this device's share, [b, 2]; those of other shares are masked.
        device = jax.lax.axis_index("data")
        row = drawn.pop("frame") - device * len(frames)
        held = (row >= 0) & (row < len(frames))
        mask = held[..., None, None, None].astype(frames.dtype)
        found = frames[jnp.where(held, row, 0)] * mask

        # One device holds a frame and the others add zeros, so the sum is the frame.
        mine = jax.lax.psum_scatter(found, "data", scatter_dimension=0, tiled=True)
        others = {
            name: jax.lax.dynamic_slice_in_dim(value, device * part, part)
            for name, value in drawn.items()
        }

        return step + 1, {"frames": mine, **others}

    whole = PartitionSpec()
    shares = PartitionSpec("data")
    split = PartitionSpec(batch_axes(mesh))
    placed = jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, whole, shares), out_specs=(whole, split)
    )

    # On a CPU it is as fast at level 1 as at 2, and compiles in two thirds of the time;
    # at level 0 it is slower by 2 ms.
    platform = mesh.devices.flat[0].platform
    return jax.jit(placed, compiler_options=cpu_compiler_options(platform, level=1))
