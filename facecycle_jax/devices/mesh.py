"""One mesh axis, 'data', over the devices, and the two places an array has on it.

Split over it, or whole.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the one-axis mesh.

    Args:
      devices: the devices, or None for all of all processes.

    Returns:
      A mesh with the axis 'data', the devices of a process side by side, so that a
      process's part of the batch is one piece and an item's place in the batch does not
      depend on how devices are numbered.
    """
    found = jax.devices() if devices is None else devices
    found = sorted(found, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(found), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Builds the sharding of a batch: the first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))
