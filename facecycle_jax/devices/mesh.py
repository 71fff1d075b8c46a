"""The mesh, one axis 'data' over all devices, and the two shardings of arrays on it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the one-axis mesh.

    Args:
      devices: the devices, or None for all devices of all processes.

    Returns:
      A mesh with the axis 'data'. The devices of a process are neighbours on it, so a
      process's part of the batch is contiguous. An item's place in the batch then does
      not depend on how devices are numbered.
    """
    found = jax.devices() if devices is None else devices

    found = sorted(found, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(found), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of a batch, whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))
