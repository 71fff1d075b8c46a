"""Estimates by XLA's TPU compiler of our programs, without a TPU.

Command: python -m benchmarks.abstract_tpu. Needs libtpu (`pip install
'facecycle_jax[compile-check]'`); nothing runs. XLA's estimate is the sum of what it
takes for each operation from operations and bytes; of custom kernels and loops it has
no figure, and they count as nothing in it.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cases, hardware, ours
from facecycle_jax.devices import make_mesh
from facecycle_jax.errors import UserError
from launch import compile_check


class Estimate(NamedTuple):
    """What the compiler says of one program on one chip.

    Attributes:
      seconds: its estimate, or None where it has none.
      left_out: operations that it has no figure for.
      generated: seconds by the code generator's estimate of cycles, see
        `compile_check.estimated_cycles`.
      flops: floating-point operations.
      bytes: bytes to and from memory, see `compile_check.memory_bytes`.
      temporary: bytes of memory in addition to arguments and results.
      roofline: seconds at least, from operations and bytes and the data sheet.
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
      topology: as 'v5e:2x2'.

    Returns:
      A device that can be compiled for.

    Raises:
      ValueError: if libtpu is not installed or does not know the topology.
    """
    return compile_check.abstract_devices(compile_check.parse_topology(topology))[0]


def estimate(
    lowered: jax.stages.Lowered, device: jax.Device, precision: str
) -> Estimate:
    """Compiles a lowered program and reads what the compiler says of it.

    Args:
      lowered: for the device.
      device: from `chip`.
      precision: gives the data sheet's peak.

    Returns:
      The estimate.

    Raises:
      ValueError: if the chip is not in the table of data sheets.
    """
    sheet, tpu = (
        hardware.sheet(device.device_kind, precision),
        compile_check.chip_of(device.device_kind),
    )
    if sheet is None or tpu is None:
        raise UserError(
            f"no data sheet of {device.device_kind} in compile_check/chips.py."
        )
    compiled: Any = lowered.compile()
    cost = compiled.cost_analysis()
    text = compiled.as_text()
    flops, moved = cost["flops"], compile_check.memory_bytes(text)
    # XLA takes every product for one pass of bfloat16.
    least = flops / tpu.flops
    seconds, left_out = compile_check.xla_estimate(cost, least=least) or (None, 0)
    roofline = max(flops / sheet.flops, moved / sheet.memory)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    generated = compile_check.estimated_cycles(text) / tpu.clock
    return Estimate(seconds, left_out, generated, flops, moved, temporary, roofline)


def train_step(stage: str, setting: ours.Setting, device: jax.Device) -> Estimate:
    """Estimates the training loop's own step.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is compiled; its device is not looked at.
      device: from `chip`.

    Returns:
      The estimate.
    """
    lowered = ours.lower_step(stage, setting, make_mesh([device]))
    return estimate(lowered, device, setting.precision)


def sampling(
    side: int,
    channels: int,
    *,
    maps: int,
    implementation: str,
    backward: bool,
    precision: str,
    device: jax.Device,
) -> Estimate:
    """Estimates grid sampling of square maps, forward or with both gradients."""
    place = jax.sharding.SingleDeviceSharding(device)
    dtype, products = ours.PRECISIONS[precision]
    program = ours.sampling_function(implementation, backward=backward)
    with jax.default_matmul_precision(products):
        lowered = jax.jit(
            program, in_shardings=(place, place), out_shardings=place
        ).lower(
            jax.ShapeDtypeStruct((maps, side, side, channels), jnp.dtype(dtype)),
            jax.ShapeDtypeStruct((maps, side, side, 2), jnp.float32),
        )
    return estimate(lowered, device, precision)


def _row(name: str, found: Estimate) -> str:
    estimated = "none" if found.seconds is None else f"{1e3 * found.seconds:.3f}"
    if found.left_out:
        estimated += f" without {found.left_out} operations"
    return (
        f"| {name} | {estimated} | {1e3 * found.generated:.3f} | "
        f"{1e3 * found.roofline:.3f} | {found.flops / 1e9:.1f} | "
        f"{found.bytes / 1e9:.3f} | {found.temporary / 1e9:.2f} |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abstract_tpu")
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
    """Prints a table of estimates; exit status 0, or 2 for a wrong argument."""
    options = _parser().parse_args(arguments)
    try:
        device = chip(options.topology)
        print(
            f"one chip of {options.topology} ({device.device_kind}), nothing run, jax "
            f"{jax.__version__}\n"
        )
        columns = (
            "XLA's estimate, ms",
            "code generator's, ms",
            "roofline, ms",
            "GFLOP",
            "GB moved",
            "GB temporary",
        )
        print(f"| program | {' | '.join(columns)} |")
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
        if options.what in cases.STAGES:
            setting = ours.Setting(
                options.batch,
                options.width,
                options.precision,
                "tpu",
                options.size,
                options.remat,
            )
            found = train_step(cases.STAGES[options.what], setting, device)
            print(
                _row(
                    f"{options.what}, batch {options.batch}, {options.precision}", found
                )
            )
            return 0
        for name, (side, channels) in cases.SAMPLED.items():
            for backward in (False, True):
                for implementation in ("gather", "dense", "separable"):
                    found = sampling(
                        side,
                        channels,
                        maps=2 * options.batch,
                        implementation=implementation,
                        backward=backward,
                        precision=options.precision,
                        device=device,
                    )
                    gradients = " with gradients" if backward else ""
                    what = f"{name}x{channels}{gradients}, {implementation}"
                    print(_row(what, found), flush=True)
    except ValueError as error:
        print(f"abstract_tpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
