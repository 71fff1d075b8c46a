"""Specifications of GPUs, from which XLA compiles for a GPU that is not there."""

import dataclasses

from launch.compile_check.chips import Chip

# Limits that all of these GPUs have in common, by XLA's names.
_COMMON = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 48 * 2**10,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
}
# Versions of cuDNN and CUDA to compile for, (major, minor). XLA's choice of operations
# depends on them.
_CUDNN = (9, 10)
_CUDA = (12, 9)


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """One GPU.

    It has the attributes of a Chip. The two dimensions of its topology are the number
    of hosts and the GPUs of each, its `link_bandwidth` is that of NVLink.

    Attributes:
      major: its compute capability is `major`.0.
      cores: number of streaming multiprocessors.
      units: float32 units of a multiprocessor.
      shared_memory: bytes of shared memory of a multiprocessor.
      cache: bytes of the second-level cache.
    """

    major: int = 0
    cores: int = 0
    units: int = 0
    shared_memory: int = 0
    cache: int = 0

    @property
    def target(self) -> str:
        """XLA's description of the GPU, a protocol buffer as text."""
        info = {
            **_COMMON,
            "core_count": self.cores,
            "fpus_per_core": self.units,
            "shared_memory_per_core": self.shared_memory,
            # The driver keeps 1 KiB of it; a block may have the rest.
            "shared_memory_per_block_optin": self.shared_memory - 2**10,
            "memory_bandwidth": round(self.bandwidth),
            "l2_cache_size": self.cache,
            "clock_rate_ghz": self.clock / 1e9,
            "device_memory_size": self.memory,
        }
        fields = " ".join(f"{name}: {value}" for name, value in info.items())

        return (
            f"gpu_device_info {{ {fields} "
            f"cuda_compute_capability {{ major: {self.major} }} }} "
            'platform_name: "CUDA" '
            f"dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }} "
            f"runtime_version {{ major: {_CUDA[0]} minor: {_CUDA[1]} }} "
            f'device_description_str: "{self.kind}"'
        )


# Memory is what the driver reports, not the round number of the data sheet.
_A100 = Gpu(
    name="a100",
    kind="NVIDIA A100-SXM4-80GB",
    memory=85_100_068_864,
    flops=312e12,
    bandwidth=2039e9,
    clock=1.41e9,
    link_bandwidth=300e9,
    dimensions=2,
    major=8,
    cores=108,
    units=64,
    shared_memory=164 * 2**10,
    cache=40 * 2**20,
)
_H100 = Gpu(
    name="h100",
    kind="NVIDIA H100 80GB HBM3",
    memory=84_942_979_072,
    flops=989e12,
    bandwidth=3352e9,
    clock=1.98e9,
    link_bandwidth=450e9,
    dimensions=2,
    major=9,
    cores=132,
    units=128,
    shared_memory=228 * 2**10,
    cache=50 * 2**20,
)

# The H100's processor with more and faster memory.
_H200 = dataclasses.replace(
    _H100, name="h200", kind="NVIDIA H200", memory=150_754_820_096, bandwidth=4800e9
)

GPUS = {gpu.name: gpu for gpu in (_A100, _H100, _H200)}
