"""The placement of a run's arrays on the mesh.

Batches are split over the devices; the state is replicated or sharded. A batch is a
dict of arrays whose first axis is the (global) batch.
"""

import collections
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from facecycle_jax.devices.mesh import batch_sharding, replicated
from facecycle_jax.errors import UserError
from facecycle_jax.training.processes import host_names

# Smaller arrays are replicated, because a gather costs more than the memory saved.
_MIN_SHARDED = 2**14
# Number of host names in the start-up table, which must stay readable on a pod.
_MAX_HOSTS = 8


def state_shardings(mesh: Mesh, state: Any, *, fsdp: bool = False) -> Any:
    """Chooses a sharding for every array of a state.

    Args:
      mesh: the mesh.
      state: a tree of arrays or of `jax.ShapeDtypeStruct`.
      fsdp: whether to split large arrays, along the longest axis that the number of
        devices divides. Each of several slices holds all parts.

    Returns:
      A tree of the same structure with a NamedSharding for every array.
    """
    parts = mesh.shape["data"]

    def one(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if not fsdp or not divisible or np.prod(leaf.shape) < _MIN_SHARDED:
            return replicated(mesh)

        longest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map(one, state)


def check_batch(batch_size: int, *, accumulate: int, mesh: Mesh) -> None:
    """Checks that a batch can be split over micro-batches, devices and processes.

    Args:
      batch_size: items in a batch, over all processes.
      accumulate: micro-batches in a batch.
      mesh: the mesh.

    Raises:
      UserError: If it cannot, naming the numbers that do not fit.
    """
    if batch_size < 1 or accumulate < 1:
        raise UserError(
            f"batch_size is {batch_size} and optimiser.accumulate {accumulate}: both "
            "must be at least 1."
        )
    if batch_size % (accumulate * mesh.size):
        raise UserError(
            f"batch_size {batch_size} must be a multiple of optimiser.accumulate "
            f"{accumulate} times the {mesh.size} devices."
        )

    counts = collections.Counter(device.process_index for device in mesh.devices.flat)
    if len(set(counts.values())) > 1:
        listed = [f"{counts[index]} (process {index})" for index in sorted(counts)]
        raise UserError(
            "every process must have as many devices as the others, and they have "
            f"{', '.join(listed)}."
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's part of a batch onto its devices.

    Args:
      batch: arrays [items of this process, ...].
      mesh: the mesh.

    Returns:
      Global arrays [items of all processes, ...], split over the devices.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def describe(mesh: Mesh, *, batch_size: int, accumulate: int = 1) -> str:
    """Formats the start-up table of processes, hosts, devices, mesh and batch.

    All processes have to call it.

    Args:
      mesh: the mesh.
      batch_size: items in a batch, over all processes.
      accumulate: micro-batches in a batch.

    Returns:
      One line per fact.
    """
    kinds = {f"{device.platform} {device.device_kind}" for device in mesh.devices.flat}
    kinds_shown = ", ".join(sorted(kinds))

    # Several processes may run on one host.
    hosts = list(dict.fromkeys(host_names()))
    hosts_shown = ", ".join(hosts[:_MAX_HOSTS])
    if len(hosts) > _MAX_HOSTS:
        hosts_shown += ", ..."

    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    per_process = batch_size // jax.process_count()
    per_device = batch_size // mesh.size

    rows = {
        "process": f"{jax.process_index()} of {jax.process_count()}",
        "hosts": f"{len(hosts)} ({hosts_shown})",
        "devices": f"{mesh.size} ({kinds_shown}), {jax.local_device_count()} here",
        "mesh": axes,
        "batch": f"{batch_size} items in all, {per_process} per process, "
        f"{per_device} per device",
        "micro-batches": f"{accumulate} of {batch_size // accumulate} items",
    }
    return "\n".join(f"  {name:<14}{value}" for name, value in rows.items())
