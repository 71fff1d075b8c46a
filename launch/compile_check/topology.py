"""From 'v5e:16x16' to the devices of a pod slice that is not there, through libtpu.

And from 'h100:2x8' to those of hosts with GPUs, through JAX's plugin for CUDA.
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from facecycle_jax.errors import UserError
from launch.compile_check.chips import CHIPS, Chip
from launch.compile_check.gpus import GPUS, Gpu

_KNOWN: dict[str, Chip] = {**CHIPS, **GPUS}

# libtpu looks for the machine it is on: it is told that there is none, and that no chip
# is opened, so another process may be using libtpu at the same time.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """A slice of a pod, several that a data-centre network joins, or hosts with GPUs.

    Attributes:
      chip: its chips.
      shape: chips of a slice along each dimension; of GPUs, hosts and GPUs of each.
      slices: number of slices.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips_per_slice(self) -> int:
        """Number of chips in a slice."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Number of chips."""
        return self.slices * self.chips_per_slice

    @property
    def slice_name(self) -> str:
        """Name of one slice, e.g. 'v5e:16x16'."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        if self.slices == 1:
            return self.slice_name
        return f"{self.slices} slices of {self.slice_name}"


def parse_topology(text: str, *, slices: int = 1) -> Topology:
    """Reads the name of a topology.

    Args:
      text: 'GENERATION:AxB' or 'GENERATION:AxBxC', e.g. 'v5e:16x16' or 'v4:4x4x4'; of
        GPUs 'GENERATION:HOSTSxGPUS', e.g. 'h100:2x8'.
      slices: number of slices of this topology.

    Returns:
      The topology.

    Raises:
      ValueError: if there is no such generation, if it has another number of
        dimensions, or if `slices` is below 1, or above 1 for GPUs.
    """
    if slices < 1:
        raise UserError(f"slices must be at least 1, got {slices}.")
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", text)
    if not match or match[1] not in _KNOWN:
        raise UserError(
            f"topology must be one of {', '.join(_KNOWN)}, a colon and the chips along "
            "each dimension, e.g. v5e:4x4, v4:2x2x4 or, of GPUs, hosts and GPUs of "
            f"each, h100:2x8; got {text!r}."
        )
    chip, shape = _KNOWN[match[1]], tuple(int(n) for n in match[2].split("x"))
    if len(shape) != chip.dimensions:
        example = f"{chip.name}:{'x'.join(['4'] * chip.dimensions)}"
        raise UserError(
            f"topology {text!r} has {len(shape)} dimensions, {chip.name} has "
            f"{chip.dimensions}: {example}."
        )
    if isinstance(chip, Gpu) and slices > 1:
        raise UserError("slices are those of TPUs: of GPUs name the hosts, h100:2x8.")
    return Topology(chip, shape, slices)


def abstract_devices(topology: Topology) -> list[Any]:
    """Makes devices to compile for; nothing can be run or stored on them.

    Args:
      topology: what to compile for.

    Returns:
      One device for each chip.

    Raises:
      ValueError: if libtpu, or for GPUs the CUDA plugin, is not installed or knows no
        such topology.
    """
    if isinstance(topology.chip, Gpu):
        return _abstract_gpus(topology, topology.chip)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for TPU needs libtpu, which runs without one: pip install "
            "'facecycle_jax[compile-check]' (Linux)."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A host holds 2x2 chips; smaller topologies are smaller hosts.
    shape = (*topology.shape, 1)[:3]
    host = tuple(
        min(ours, theirs)
        for ours, theirs in zip(shape, topology.chip.host, strict=True)
    )
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices

    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.slice_name,
            chips_per_host_bounds=host,
            **options,
        )
    except Exception as error:
        # What libtpu raises is of no one class; its first line says what it does not
        # like.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"libtpu does not compile for {topology}: {reason}") from error
    return list(description.devices)


def _abstract_gpus(topology: Topology, gpu: Gpu) -> list[Any]:
    """Makes GPUs to compile for."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if all(importlib.util.find_spec(plugin) is None for plugin in plugins):
        raise UserError(
            "compiling for GPUs needs JAX's plugin for CUDA, which compiles without a "
            "GPU: pip install 'facecycle_jax[cuda12]' (Linux)."
        )

    # One NVLink domain, its hosts, the GPUs of each.
    hosts, each = topology.shape
    description = topologies.get_topology_desc(
        platform="cuda", target_config=gpu.target, topology=f"1x{hosts}x{each}"
    )
    return list(description.devices)
