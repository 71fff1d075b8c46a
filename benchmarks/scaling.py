"""Cost of sharding, and growth of a step's cost with the image size.

Command: python -m benchmarks.scaling; see --help.

The devices are fake: one CPU that JAX divides. Their number changes the program (its
collectives and its copies), not what the machine can do. So a mesh of n devices is held
against one device with the same batch, which is the same work on the same cores: the
ratio is the overhead of sharding. It says nothing about how fast n real devices would
be. Exit status 0, or 2 for a wrong argument, in one sentence.
"""

import argparse
import functools
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import ours, timing
from benchmarks.options import check_least, check_width, split
from facecycle_jax import methods, training
from facecycle_jax.devices import make_mesh
from facecycle_jax.errors import UserError

PARTS = ("weak", "size")
DEVICES = (1, 2, 4, 8)
SIZES = ("64", "128", "256")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="Times the training loop's own step on meshes of 1, 2, 4 and 8 "
        "fake CPU devices with the same number of pairs per device (weak scaling), "
        "alongside one device with the same batch, and for several image sizes. Prints "
        "tables of medians and ratios.",
    )
    parser.add_argument("--parts", default="weak,size", help=", ".join(PARTS))
    parser.add_argument(
        "--method", choices=sorted(methods.METHODS), default="motion_cycle"
    )
    parser.add_argument(
        "--per-device",
        type=int,
        default=2,
        help="pairs per device (default: %(default)s)",
    )
    parser.add_argument(
        "--width",
        type=float,
        default=0.125,
        help="of the networks (default: %(default)s)",
    )
    parser.add_argument(
        "--sizes", default="64,128", help="of 'size', pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="timed calls of each (default: %(default)s)",
    )
    parser.add_argument(
        "--fsdp", action="store_true", help="shard parameters and optimiser state too"
    )
    parser.add_argument("--json", help="file for the figures; must not exist")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
      arguments: command line without the program's name; None takes that of the
        process.

    Returns:
      The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        parts = split(options.parts, PARTS, "--parts")
        sizes = [int(part) for part in split(options.sizes, SIZES, "--sizes")]
        check_least({"--per-device": options.per_device, "--repeats": options.repeats})
        check_width(options.width)
        if options.json:
            timing.check_json_path(pathlib.Path(options.json))
        _make_devices(max(DEVICES) if "weak" in parts else 1)
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    make = functools.partial(
        ScaledStep, options.method, width=options.width, fsdp=options.fsdp
    )
    rows: list[timing.Row] = []
    for part in parts:
        if part == "weak":
            rows += _weak(make, options)
        else:
            named: dict[str, timing.Program | str] = {
                f"{n} pixels": make(batch=options.per_device, size=n) for n in sizes
            }
            settings = _settings(options) | {"batch": options.per_device}
            rows += timing.measure(
                "image size", named, settings=settings, repeats=options.repeats
            )
    machine = {
        "device": "cpu, divided into fake devices",
        "cores": str(os.cpu_count()),
        "jax": jax.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    print(timing.table(rows).replace("times ours", "times the first"))
    if options.json:
        timing.write_json(rows, machine, pathlib.Path(options.json))
    return 0


class ScaledStep:
    """The training loop's step on a mesh of some devices.

    One call is one finished update.
    """

    def __init__(
        self,
        method: str,
        *,
        batch: int,
        width: float,
        size: int = 64,
        devices: int = 1,
        fsdp: bool = False,
    ) -> None:
        """Draws the state and the batch; the first call compiles.

        Args:
          method: 'motion_cycle' or 'identity_cycle'.
          batch: pairs of images over all devices.
          width: of the networks.
          size: side of the images in pixels.
          devices: how many.
          fsdp: whether to shard parameters and optimiser state.
        """
        mesh = make_mesh(jax.devices("cpu")[:devices])
        model = {
            "width": width,
            "image_size": size,
            "code_dim": 256,
            "trunk": "learned",
            "dtype": "float32",
        }
        made = methods.make(
            {
                "method": method,
                "model": model,
                "loss": {"vgg": "random", "perceptual": "none"},
            }
        )
        self._step, init = ours.build_step(method, made, mesh, fsdp=fsdp)
        self._state = init(jax.random.key(0))
        self._batch = training.put_batch(
            {"images": ours.random_images(batch, size=size)}, mesh
        )

    def __call__(self) -> None:
        """Makes one update."""
        self._state, averages = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, averages))


def _weak(make: Any, options: argparse.Namespace) -> list[timing.Row]:
    """Measures each mesh alongside one device with the same batch."""
    rows = []
    for devices in DEVICES:
        batch = options.per_device * devices
        programs: dict[str, timing.Program | str] = {"1 device": make(batch=batch)}
        if devices > 1:
            programs[f"{devices} devices"] = make(batch=batch, devices=devices)
        settings = _settings(options) | {"batch": batch}
        rows += timing.measure(
            "weak scaling", programs, settings=settings, repeats=options.repeats
        )
    return rows


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"method": options.method, "width": options.width} | (
        {"fsdp": True} if options.fsdp else {}
    )


def _make_devices(count: int) -> None:
    """Divides the CPU; only possible before anything uses JAX."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.local_device_count("cpu") < count:
            raise UserError(
                f"JAX is in use already, with fewer than {count} CPU devices."
            ) from None


if __name__ == "__main__":
    sys.exit(main())
