"""The devices of this process.

The mesh over them, and a CPU split into one device a core.
"""

from facecycle_jax.devices.cpu import cpu_devices_for, split_cpu
from facecycle_jax.devices.mesh import batch_sharding, make_mesh, replicated

__all__ = ["batch_sharding", "cpu_devices_for", "make_mesh", "replicated", "split_cpu"]
