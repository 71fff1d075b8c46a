"""Compiles the train step of a config for a topology and reports what it needs."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from facecycle_jax import data, training
from facecycle_jax.devices import batch_sharding, make_mesh
from facecycle_jax.errors import UserError
from launch.compile_check.gpu_kernels import count_kernels
from launch.compile_check.gpus import Gpu
from launch.compile_check.hlo import (
    Collective,
    count_between_slices,
    count_collectives,
    memory_bytes,
)
from launch.compile_check.report import Report
from launch.compile_check.topology import Topology, abstract_devices

# XLA's effort, -1 to 1: the least makes it several times as fast, and the program
# somewhat worse.
EFFORTS: dict[str, dict[str, Any]] = {
    "full": {},
    "quick": {"exec_time_optimization_effort": -1.0},
}
# Only where the schedule changes depends on it, not what is compiled.
_STEPS_PER_EPOCH = 1000


def lower_train_step(
    config: Mapping[str, Any], devices: list[Any]
) -> jax.stages.Lowered:
    """Traces the train step of `train` for any devices, without data or weights.

    Args:
      config: a run's configuration.
      devices: abstract ones, or this machine's.

    Returns:
      What is left to compile.

    Raises:
      ValueError: for values out of range, or a batch that the devices do not divide.
    """
    mesh = make_mesh(devices)
    program = training.build_program(
        config, mesh, steps_per_epoch=_STEPS_PER_EPOCH, weights=False
    )
    sharding = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for name, leaf in data.batch_shapes(config).items()
    }
    return program.train_step.lower(program.abstract, batch)  # type: ignore[attr-defined]


def settings_of(config: Mapping[str, Any], *, effort: str) -> dict[str, Any]:
    """Picks what a report names of a configuration."""
    return {
        "method": config["method"],
        **{name: config["model"][name] for name in ("width", "dtype", "image_size")},
        "batch_size": config["batch_size"],
        "accumulate": config["optimiser"]["accumulate"],
        "fsdp": config["fsdp"],
        "effort": effort,
    }


def read_compiled(
    compiled: jax.stages.Compiled,
    topology: Topology,
    settings: dict[str, Any],
    *,
    seconds: float,
    flops: float | None = None,
) -> Report:
    """Reads a report off a compiled train step.

    Args:
      compiled: the step.
      topology: what it was compiled for.
      settings: of the report.
      seconds: that compiling it took.
      flops: operations of a device; None: those that XLA counts in the step.

    Returns:
      The report.

    Raises:
      ValueError: if the compiler tells nothing about its programs.
    """
    is_gpu = isinstance(topology.chip, Gpu)
    memory, cost, text = (
        compiled.memory_analysis(),
        compiled.cost_analysis(),
        compiled.as_text(),
    )
    if memory is None or text is None or (cost is None and not is_gpu):
        raise UserError(f"this XLA tells nothing of programs compiled for {topology}.")
    # XLA counts the body of the loop over micro-batches once; nearly everything is in
    # it.
    times = settings["accumulate"]
    if flops is None:
        flops = (cost or {}).get("flops", 0.0)

    between: list[Collective] = []
    if topology.slices > 1:
        between = count_between_slices(text, per_slice=topology.chips_per_slice)

    kernels = count_kernels(text) if is_gpu else None
    report = Report(
        topology,
        settings,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops * times,
        # Of GPUs, most traffic is that of library calls.
        bytes=kernels.bytes if kernels else memory_bytes(text),
        kernels=kernels,
        collectives=tuple(count_collectives(text)),
        between_slices=tuple(between),
        compile_seconds=seconds,
    )
    least = report.bounds["compute"] / times
    if (estimate := xla_estimate(cost or {}, least=least)) is None:
        return report
    return dataclasses.replace(
        report, xla_seconds=estimate[0] * times, xla_left_out=estimate[1]
    )


def xla_estimate(
    cost: Mapping[str, float], *, least: float
) -> tuple[float, int] | None:
    """Reads XLA's estimate of a program's time.

    The estimate is the sum over the program's operations.

    Args:
      cost: `compiled.cost_analysis()`.
      least: seconds of peak arithmetic, or more, which the estimate cannot be far
        below.

    Returns:
      Seconds, and the number of operations that XLA has no figure for and that count as
      nothing; None where this XLA estimates no times.
    """
    if "optimal_seconds" not in cost:
        return None
    # An operation without a figure is -1 s in the sum.
    left_out = max(0, math.ceil(0.8 * least - cost["optimal_seconds"]))
    return cost["optimal_seconds"] + left_out, left_out


def check(
    config: Mapping[str, Any], topology: Topology, *, effort: str = "full"
) -> Report:
    """Compiles the train step of a configuration for a topology.

    Args:
      config: a run's configuration, not one of several stages.
      topology: what to compile for.
      effort: 'full', as a run compiles, or 'quick'.

    Returns:
      The report; that of a program XLA refuses for want of memory too.

    Raises:
      ValueError: for values out of range, a batch that the chips do not divide, or want
        of libtpu.
    """
    if effort not in EFFORTS:
        raise UserError(f"effort must be one of {sorted(EFFORTS)}, got {effort!r}.")
    settings = settings_of(config, effort=effort)
    lowered = lower_train_step(config, abstract_devices(topology))
    start = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=EFFORTS[effort])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Report(
            topology,
            settings,
            compile_seconds=time.monotonic() - start,
            refused=_out_of_memory(str(error)),
        )
    seconds = time.monotonic() - start

    # Library calls of GPUs have no operations in XLA's count. Before they are chosen,
    # the step has the same arithmetic for one CPU.
    flops: float | None = None
    if isinstance(topology.chip, Gpu):
        whole = lower_train_step(config, jax.devices("cpu")[:1]).cost_analysis()
        flops = whole["flops"] / topology.size if whole else 0.0

    return read_compiled(compiled, topology, settings, seconds=seconds, flops=flops)


def _out_of_memory(message: str) -> str:
    """Shortens XLA's report of several pages to the sentence with the numbers."""
    match = re.search(
        r"Used [\d.]+\w of [\d.]+\w \w+\.(?: Exceeded \w+ capacity by [\d.]+\w)?",
        message,
    )
    return f"XLA: {match[0]}" if match else f"XLA: {message.strip().splitlines()[0]}"
