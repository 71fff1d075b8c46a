"""Compiles the training step for a TPU slice, or for GPUs, that you do not have.

Reports whether the step fits in memory and what it costs.
"""

from launch.compile_check.batch_search import largest_batch
from launch.compile_check.chips import CHIPS, Chip, chip_of
from launch.compile_check.collectives import (
    Collective,
    count_between_slices,
    count_collectives,
)
from launch.compile_check.compiling import check, xla_estimate
from launch.compile_check.gpu_kernels import Kernels, count_kernels
from launch.compile_check.report import Report, describe
from launch.compile_check.topology import Topology, abstract_devices, parse_topology
from launch.compile_check.tpu_costs import estimated_cycles, memory_bytes

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Kernels",
    "Report",
    "Topology",
    "abstract_devices",
    "check",
    "chip_of",
    "count_between_slices",
    "count_collectives",
    "count_kernels",
    "describe",
    "estimated_cycles",
    "largest_batch",
    "memory_bytes",
    "parse_topology",
    "xla_estimate",
]
