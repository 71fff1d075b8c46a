"""Estimates the time of our programs by XLA's TPU compiler, without a TPU.

Command: python -m benchmarks.abstract_tpu; see --help. Exit status 0, or 2 for a wrong
argument, in one sentence. It needs libtpu (`pip install
'facecycle_jax[compile-check]'`), and nothing runs.

XLA's estimate is a sum over all operations, each estimated from its arithmetic and its
bytes. XLA has no estimate for custom kernels and loops, which count as 0 in the sum.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cases, hardware, ours, sampling
from benchmarks.options import check_least, check_width
from facecycle_jax.devices import make_mesh
from facecycle_jax.errors import UserError
from launch import compile_check

_COLUMNS = (
    "program",
    "XLA's estimate, ms",
    "code generator's, ms",
    "roofline, ms",
    "GFLOP",
    "GB moved",
    "GB temporary",
)
# The implementations of grid sampling that are estimated.
_IMPLEMENTATIONS = ("gather", "dense", "separable")


class Estimate(NamedTuple):
    """What the compiler reports of one program on one chip.

    Attributes:
      seconds: XLA's estimate; None if it has none.
      left_out: number of operations without an estimate.
      generated: seconds by the code generator's estimate of cycles, see
        `compile_check.estimated_cycles`.
      flops: floating-point operations.
      bytes: bytes to and from memory, see `compile_check.memory_bytes`.
      temporary: bytes of memory in addition to arguments and results.
      roofline: least seconds, from operations, bytes and the data sheet.
    """

    seconds: float | None
    left_out: int
    generated: float
    flops: float
    bytes: float
    temporary: int
    roofline: float


def chip(topology: str) -> jax.Device:
    """Finds the first chip of an abstract topology.

    Args:
      topology: such as 'v5e:2x2'.

    Returns:
      A device that can be compiled for.

    Raises:
      UserError: If libtpu is not installed or does not know the topology.
    """
    return compile_check.abstract_devices(compile_check.parse_topology(topology))[0]


def estimate(
    lowered: jax.stages.Lowered, device: jax.Device, precision: str
) -> Estimate:
    """Compiles a lowered program and reads the compiler's estimates.

    Args:
      lowered: the program, lowered for the device.
      device: that of `chip`.
      precision: one of `PRECISIONS`, for the data sheet's peak.

    Returns:
      The estimate.

    Raises:
      UserError: If the chip is not in the table of TPUs.
    """
    sheet = hardware.sheet(device.device_kind, precision)
    tpu = compile_check.chip_of(device.device_kind)
    if sheet is None or tpu is None:
        raise UserError(
            f"{device.device_kind} is not a TPU of compile_check/chips.py; choose "
            "another --topology."
        )

    compiled: Any = lowered.compile()
    cost = compiled.cost_analysis()
    text = compiled.as_text()
    flops = cost["flops"]
    moved = compile_check.memory_bytes(text)

    # XLA estimates every product as one pass of bfloat16, in any precision.
    least = flops / tpu.flops
    estimated = compile_check.xla_estimate(cost, least=least)
    seconds, left_out = (None, 0) if estimated is None else estimated
    return Estimate(
        seconds=seconds,
        left_out=left_out,
        generated=compile_check.estimated_cycles(text) / tpu.clock,
        flops=flops,
        bytes=moved,
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        roofline=max(flops / sheet.flops, moved / sheet.memory),
    )


def estimate_train_step(
    stage: str, setting: ours.Setting, device: jax.Device
) -> Estimate:
    """Estimates the training loop's own step.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is compiled; its device is not used.
      device: that of `chip`.

    Returns:
      The estimate.

    Raises:
      UserError: If the chip is not in the table of TPUs.
    """
    lowered = ours.lower_step(stage, setting, make_mesh([device]))
    return estimate(lowered, device, setting.precision)


def estimate_sampling(
    side: int,
    channels: int,
    *,
    maps: int,
    implementation: str,
    backward: bool,
    precision: str,
    device: jax.Device,
) -> Estimate:
    """Estimates grid sampling of square maps.

    Args:
      side: rows and columns of a map.
      channels: channels of a map.
      maps: number of maps.
      implementation: one of `sampling.IMPLEMENTATIONS`.
      backward: whether the gradients of maps and grid are computed too.
      precision: one of `PRECISIONS`.
      device: that of `chip`.

    Returns:
      The estimate.

    Raises:
      UserError: If the chip is not in the table of TPUs.
    """
    dtype, products = ours.PRECISIONS[precision]
    image = jax.ShapeDtypeStruct((maps, side, side, channels), jnp.dtype(dtype))
    grid = jax.ShapeDtypeStruct((maps, side, side, 2), jnp.float32)

    function = sampling.sampling_function(implementation, backward=backward)
    here = jax.sharding.SingleDeviceSharding(device)
    program = jax.jit(function, in_shardings=(here, here), out_shardings=here)
    with jax.default_matmul_precision(products):
        lowered = program.lower(image, grid)
    return estimate(lowered, device, precision)


def _parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.abstract_tpu",
        description="Compiles grid sampling or a train step for one TPU chip, without "
        "a TPU, and prints a table of the compiler's estimates.",
    )
    parser.add_argument(
        "--topology",
        default="v5e:2x2",
        help="of which one chip is used (default: %(default)s)",
    )
    parser.add_argument(
        "--what", choices=("grid-sample", *cases.STAGES), default="grid-sample"
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="pairs of images on the chip"
    )
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, choices=(64, 128, 256), default=64)
    parser.add_argument(
        "--precision", choices=sorted(ours.PRECISIONS), default="bfloat16"
    )
    parser.add_argument("--remat", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of estimates.

    Args:
      arguments: command line without the program's name; None takes that of the
        process.

    Returns:
      The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        check_least({"--batch": options.batch})
        check_width(options.width)
        device = chip(options.topology)

        print(
            f"one chip of {options.topology} ({device.device_kind}), nothing run, jax "
            f"{jax.__version__}\n"
        )
        print(f"| {' | '.join(_COLUMNS)} |")
        print("|---|" + "---:|" * (len(_COLUMNS) - 1), flush=True)
        if options.what in cases.STAGES:
            _print_train_step(options, device)
        else:
            _print_sampling(options, device)
    except UserError as error:
        print(f"abstract_tpu: {error}", file=sys.stderr)
        return 2
    return 0


def _print_train_step(options: argparse.Namespace, device: jax.Device) -> None:
    """Prints the row of a train step."""
    setting = ours.Setting(
        batch=options.batch,
        width=options.width,
        precision=options.precision,
        device="tpu",
        size=options.size,
        remat=options.remat,
    )
    found = estimate_train_step(cases.STAGES[options.what], setting, device)
    name = f"{options.what}, batch {options.batch}, {options.precision}"
    print(_row(name, found))


def _print_sampling(options: argparse.Namespace, device: jax.Device) -> None:
    """Prints a row for every kind of map and implementation."""
    for side, channels in sampling.MAPS:
        for backward in (False, True):
            for implementation in _IMPLEMENTATIONS:
                found = estimate_sampling(
                    side,
                    channels,
                    maps=2 * options.batch,
                    implementation=implementation,
                    backward=backward,
                    precision=options.precision,
                    device=device,
                )
                name = sampling.describe(side, channels, backward=backward)
                print(_row(f"{name}, {implementation}", found), flush=True)


def _row(name: str, found: Estimate) -> str:
    """Formats an estimate as a row of the table."""
    estimated = "none" if found.seconds is None else f"{1e3 * found.seconds:.3f}"
    if found.left_out:
        estimated += f" without {found.left_out} operations"

    return (
        f"| {name} | {estimated} | {1e3 * found.generated:.3f} | "
        f"{1e3 * found.roofline:.3f} | {found.flops / 1e9:.1f} | "
        f"{found.bytes / 1e9:.3f} | {found.temporary / 1e9:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
