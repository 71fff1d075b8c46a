"""Specifications of GPUs, and their form that XLA compiles for without the device."""

import dataclasses

from launch.compile_check.chips import Chip

# What all of these GPUs have in common, by XLA's names.
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
# Versions of cuDNN and CUDA that are compiled for. XLA chooses operations by them.
_CUDNN = (9, 10)
_CUDA = (12, 9)


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """One GPU.

    Attributes:
      major: first number of its compute capability, the second of which is 0.
      cores: streaming multiprocessors.
      units: float32 units of a core.
      shared_memory: bytes of shared memory of a core.
      cache: bytes of the second-level cache.
    """

    major: int = 0
    cores: int = 0
    units: int = 0
    shared_memory: int = 0
    cache: int = 0

    @property
    def target(self) -> str:
        """XLA's target configuration, a text of a protocol buffer."""
        info = {
            **_COMMON,
            "core_count": self.cores,
            "fpus_per_core": self.units,
            "shared_memory_per_core": self.shared_memory,
            # A block may have all but 1 KiB of it.
            "shared_memory_per_block_optin": self.shared_memory - 2**10,
            "memory_bandwidth": round(self.bandwidth),
            "l2_cache_size": self.cache,
            "clock_rate_ghz": self.clock / 1e9,
            "device_memory_size": self.memory,
        }
        lines = [f"{name}: {value}" for name, value in info.items()]
        return (
            f"gpu_device_info {{ {' '.join(lines)} "
            f"cuda_compute_capability {{ major: {self.major} }} }} "
            'platform_name: "CUDA" '
            f"dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }} "
            f"runtime_version {{ major: {_CUDA[0]} minor: {_CUDA[1]} }} "
            f'device_description_str: "{self.kind}"'
        )


# Memory is what the driver reports. Links are those of NVLink, within a host.
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
