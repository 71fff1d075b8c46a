"""Devices to compile for that are not there.

'v5e:16x16' stands for a TPU slice, whose devices libtpu makes. 'h100:2x8' stands for
two hosts of eight GPUs each, which JAX's plugin for CUDA makes.
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

# libtpu looks for the TPU of the machine that it runs on. With these variables it does
# not query Google's metadata server, takes the machine for a host of a small slice, and
# runs although another process may be using libtpu.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """A TPU slice, several that a data-centre network joins, or hosts with GPUs.

    Attributes:
      chip: the kind of its chips. A GPU counts as a chip here.
      shape: chips of a slice along each dimension. For GPUs, the number of hosts and
        the GPUs of each.
      slices: number of slices; 1 for GPUs.
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
        """Number of chips in all slices."""
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
      text: 'GENERATION:AxB' or 'GENERATION:AxBxC', e.g. 'v5e:16x16' or 'v4:4x4x4'. For
        GPUs 'GENERATION:HOSTSxGPUS', e.g. 'h100:2x8'.
      slices: number of slices of this topology.

    Returns:
      The topology.

    Raises:
      UserError: If the name is malformed, the generation is unknown or has another
        number of dimensions, or `slices` is below 1, or above 1 for GPUs.
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

    chip = _KNOWN[match[1]]
    shape = tuple(int(number) for number in match[2].split("x"))
    if len(shape) != chip.dimensions:
        example = f"{chip.name}:{'x'.join(['4'] * chip.dimensions)}"
        raise UserError(
            f"topology {text!r} has {len(shape)} dimensions, {chip.name} has "
            f"{chip.dimensions}: {example}."
        )
    if isinstance(chip, Gpu) and slices > 1:
        raise UserError("slices are those of TPUs: of GPUs name the hosts, h100:2x8.")

    return Topology(chip=chip, shape=shape, slices=slices)


def abstract_devices(topology: Topology) -> list[Any]:
    """Makes devices to compile for. They cannot run or store anything.

    Args:
      topology: what to compile for.

    Returns:
      One device for each chip.

    Raises:
      UserError: If libtpu, or the CUDA plugin for GPUs, is not installed, or libtpu
        refuses the topology.
    """
    if isinstance(topology.chip, Gpu):
        return _abstract_gpus(topology, topology.chip)
    return _abstract_tpus(topology)


def _abstract_tpus(topology: Topology) -> list[Any]:
    """Makes chips of TPUs to compile for."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for TPU needs libtpu, which works without a TPU: pip install "
            "'facecycle_jax[compile-check]' (Linux)."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    # A host holds 2x2 chips. A slice with fewer has a smaller host.
    shape = (*topology.shape, 1)[:3]
    host = tuple(
        min(in_slice, in_host)
        for in_slice, in_host in zip(shape, topology.chip.host, strict=True)
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
        # libtpu raises errors of several classes. The first line has the reason.
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

    # The plugin's form: NVLink domains x hosts of each x GPUs of each host.
    hosts, gpus_per_host = topology.shape
    description = topologies.get_topology_desc(
        platform="cuda",
        target_config=gpu.target,
        topology=f"1x{hosts}x{gpus_per_host}",
    )
    return list(description.devices)
