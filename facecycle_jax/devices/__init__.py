"""The mesh over the devices, and the splitting of a CPU into one device per core."""

from facecycle_jax.devices.cpu import (
    cpu_compiler_options,
    cpu_devices_for,
    split_cpu,
)
from facecycle_jax.devices.mesh import (
    batch_axes,
    batch_sharding,
    make_mesh,
    replicated,
)
from facecycle_jax.devices.platforms import check_platforms

__all__ = [
    "batch_axes",
    "batch_sharding",
    "check_platforms",
    "cpu_compiler_options",
    "cpu_devices_for",
    "make_mesh",
    "replicated",
    "split_cpu",
]
