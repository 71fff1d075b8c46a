"""The mesh over the devices, and the shardings of arrays on it.

It has one axis, 'data'. Slices of TPUs that are joined by a data-centre network add an
outer axis, 'slice'. A batch is split over both. What is split over 'data' alone never
crosses that network, which is far slower than the links within a slice.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from facecycle_jax.errors import UserError


def slice_of(device: jax.Device) -> int:
    """Returns the number of a device's slice; 0 where there are no slices."""
    # Hosts of GPUs may have such numbers too. They stay one axis, so that `fsdp` splits
    # over all of them.
    if device.platform != "tpu":
        return 0
    return getattr(device, "slice_index", None) or 0


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh.

    `jax.experimental.mesh_utils.create_hybrid_device_mesh` has the same slices in the
    same order, but orders the devices of a slice by their links. Here those of a
    process are neighbours, so a process's part of the batch is contiguous. An item's
    place in the batch then does not depend on how devices are numbered.

    Args:
      devices: the devices, or None for all devices of all processes.

    Returns:
      A mesh with the axis 'data', or with the axes 'slice' and 'data' if the devices
      are of several slices.

    Raises:
      UserError: If the slices have different numbers of devices, or if processes are
        not numbered slice by slice.
    """
    found = jax.devices() if devices is None else devices

    def position(device: jax.Device) -> tuple[int, int, int]:
        return slice_of(device), device.process_index, device.id

    found = sorted(found, key=position)
    slices = [slice_of(device) for device in found]
    sizes = {number: slices.count(number) for number in slices}
    if len(sizes) <= 1:
        return Mesh(np.asarray(found), ("data",), axis_types=(AxisType.Auto,))

    if len(set(sizes.values())) > 1:
        listed = [f"{size} (slice {number})" for number, size in sizes.items()]
        raise UserError(
            "every slice must have as many devices as the others, and they have "
            f"{', '.join(listed)}."
        )
    processes = [device.process_index for device in found]
    if processes != sorted(processes):
        raise UserError(
            "the processes must be numbered slice by slice: those of slice 0 first, "
            "then those of slice 1, and so on."
        )

    # [devices] to [slices, devices of a slice].
    grid = np.asarray(found).reshape(len(sizes), -1)
    return Mesh(grid, ("slice", "data"), axis_types=(AxisType.Auto,) * 2)


def batch_axes(mesh: Mesh) -> str | tuple[str, ...]:
    """Returns the axes that a batch is split over, as in a PartitionSpec."""
    return mesh.axis_names if len(mesh.axis_names) > 1 else "data"


def replicated(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of a batch, whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))
