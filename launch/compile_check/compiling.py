"""Compiles the training step of a config for a topology and reports what it needs."""

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
from launch.compile_check.collectives import (
    Collective,
    count_between_slices,
    count_collectives,
)
from launch.compile_check.gpu_kernels import count_kernels
from launch.compile_check.gpus import Gpu
from launch.compile_check.report import Report
from launch.compile_check.topology import Topology, abstract_devices
from launch.compile_check.tpu_costs import memory_bytes

# Options of the compiler. XLA's effort is between -1 and 1. With -1 it compiles several
# times as fast, and the program is somewhat slower.
EFFORTS: dict[str, dict[str, Any]] = {
    "full": {},
    "quick": {"exec_time_optimization_effort": -1.0},
}
# It sets when the learning rate changes, not what is compiled.
_STEPS_PER_EPOCH = 1000


def lower_train_step(
    config: Mapping[str, Any], devices: list[Any]
) -> jax.stages.Lowered:
    """Traces the training step for any devices, without data or weights.

    Args:
      config: the config of a run as nested dicts.
      devices: abstract devices, or those of this machine.

    Returns:
      The step, ready to be compiled.

    Raises:
      UserError: If a value is out of range, or the devices do not divide the batch.
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
    """Picks the fields of a config that a report states, and adds the effort."""
    model = config["model"]
    return {
        "method": config["method"],
        "width": model["width"],
        "dtype": model["dtype"],
        "image_size": model["image_size"],
        "batch_size": config["batch_size"],
        "accumulate": config["optimiser"]["accumulate"],
        "fsdp": config["fsdp"],
        "effort": effort,
    }


def check(
    config: Mapping[str, Any], topology: Topology, *, effort: str = "full"
) -> Report:
    """Compiles the training step of a config for a topology.

    Args:
      config: the config of a run as nested dicts. Of a config with several stages, one
        stage.
      topology: what to compile for.
      effort: 'full', as a run compiles, or 'quick'.

    Returns:
      The report, also if XLA refuses the program because it lacks memory.

    Raises:
      UserError: If a value is out of range, the chips do not divide the batch, or
        libtpu or the CUDA plugin is missing.
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
            topology=topology,
            settings=settings,
            compile_seconds=time.monotonic() - start,
            refused=_out_of_memory(str(error)),
        )
    seconds = time.monotonic() - start

    # XLA counts no operations in the library calls of a GPU. Before these are chosen,
    # the step has the same arithmetic, also for one CPU.
    flops: float | None = None
    if isinstance(topology.chip, Gpu):
        whole = lower_train_step(config, jax.devices("cpu")[:1]).cost_analysis()
        flops = whole["flops"] / topology.size if whole else 0.0

    return read_compiled(compiled, topology, settings, seconds=seconds, flops=flops)


def read_compiled(
    compiled: jax.stages.Compiled,
    topology: Topology,
    settings: dict[str, Any],
    *,
    seconds: float,
    flops: float | None = None,
) -> Report:
    """Makes the report of a compiled training step.

    Args:
      compiled: the step.
      topology: what it was compiled for.
      settings: those of the report, see `settings_of`.
      seconds: wall time of the compilation.
      flops: operations of one device, with the body of the loop over micro-batches
        counted once. None takes XLA's count.

    Returns:
      The report.

    Raises:
      UserError: If XLA reports no memory or cost of the program.
    """
    is_gpu = isinstance(topology.chip, Gpu)
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis()
    text = compiled.as_text()
    # The compiler for GPUs may report no cost.
    if memory is None or text is None or (cost is None and not is_gpu):
        raise UserError(
            "this version of XLA reports no memory or cost of programs compiled for "
            f"{topology}."
        )

    # XLA counts the body of the loop over micro-batches once, and nearly all work is in
    # it.
    micro_batches = settings["accumulate"]
    if flops is None:
        flops = (cost or {}).get("flops", 0.0)

    between_slices: list[Collective] = []
    if topology.slices > 1:
        between_slices = count_between_slices(text, per_slice=topology.chips_per_slice)

    # `memory_bytes` leaves out library calls, which move most bytes on a GPU.
    kernels = count_kernels(text) if is_gpu else None
    moved = memory_bytes(text) if kernels is None else kernels.bytes

    report = Report(
        topology=topology,
        settings=settings,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops * micro_batches,
        bytes=moved,
        kernels=kernels,
        collectives=tuple(count_collectives(text)),
        between_slices=tuple(between_slices),
        compile_seconds=seconds,
    )

    estimate = xla_estimate(cost or {}, least=report.bounds["compute"] / micro_batches)
    if estimate is None:
        return report
    estimated_seconds, left_out = estimate
    return dataclasses.replace(
        report, xla_seconds=estimated_seconds * micro_batches, xla_left_out=left_out
    )


def xla_estimate(
    cost: Mapping[str, float], *, least: float
) -> tuple[float, int] | None:
    """Reads XLA's estimate of a program's time.

    The estimate is the sum over the program's operations.

    Args:
      cost: `compiled.cost_analysis()`.
      least: seconds that the program takes at least, by peak arithmetic. The estimate
        cannot be much smaller.

    Returns:
      (seconds, number of operations without an estimate), where these operations count
      as 0 s; None if this version of XLA estimates no times.
    """
    if "optimal_seconds" not in cost:
        return None

    # An operation without an estimate adds -1 s to the sum. The time itself is not far
    # below `least`, so the whole seconds that the sum lacks are their number.
    estimated = cost["optimal_seconds"]
    left_out = max(0, math.ceil(0.8 * least - estimated))
    return estimated + left_out, left_out


def _out_of_memory(message: str) -> str:
    """Shortens XLA's long report of a lack of memory to the sentence with numbers."""
    match = re.search(
        r"Used [\d.]+\w of [\d.]+\w \w+\.(?: Exceeded \w+ capacity by [\d.]+\w)?",
        message,
    )
    return f"XLA: {match[0]}" if match else f"XLA: {message.strip().splitlines()[0]}"
