"""Cost of sharding, and growth of a step's cost with the image size.

Command: python -m benchmarks.scaling; see --help. Exit status 0, or 2 for a wrong
argument, in one sentence.

The devices are fake: one CPU that JAX divides. Their number changes the program (its
collectives and its copies), but not what the machine can do. So a mesh of n devices is
compared with one device and the same batch, which is the same work on the same cores.
The ratio is the overhead of sharding. It does not tell how fast n real devices would
be.
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
# Numbers of devices of the part 'weak'.
DEVICES = (1, 2, 4, 8)
# Sides of images in pixels that the part 'size' accepts.
SIZES = ("64", "128", "256")


def _parser() -> argparse.ArgumentParser:
    """Builds the parser."""
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
        sizes = [int(size) for size in split(options.sizes, SIZES, "--sizes")]
        check_least({"--per-device": options.per_device, "--repeats": options.repeats})
        check_width(options.width)
        json_path = pathlib.Path(options.json) if options.json else None
        if json_path:
            timing.check_json_path(json_path)
        _make_devices(max(DEVICES) if "weak" in parts else 1)
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2

    rows: list[timing.Row] = []
    for part in parts:
        rows += _weak(options) if part == "weak" else _sizes(options, sizes)

    machine = {
        "device": "cpu, divided into fake devices",
        "cores": str(os.cpu_count()),
        "jax": jax.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    print(timing.table(rows, reference="the first"))
    if json_path:
        timing.write_json(rows, machine, json_path)
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
          width: multiplier on all channels.
          size: side of the images in pixels.
          devices: number of devices.
          fsdp: whether to shard parameters and optimiser state.
        """
        # A learned trunk and no perceptual loss: the step needs no VGG-19.
        config = {
            "method": method,
            "model": {
                "width": width,
                "image_size": size,
                "code_dim": 256,
                "trunk": "learned",
                "dtype": "float32",
            },
            "loss": {"vgg": "random", "perceptual": "none"},
        }
        made = methods.make(config)

        mesh = make_mesh(jax.devices("cpu")[:devices])
        state = ours.plan_state(method, made, mesh, fsdp=fsdp)
        self._step = ours.build_step(made, state, mesh)
        self._state = state.draw(jax.random.key(0))
        batch_of_images = {"images": ours.random_images(batch, size=size)}
        self._batch = training.put_batch(batch_of_images, mesh)

    def __call__(self) -> None:
        """Makes one update."""
        self._state, averages = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, averages))


def _weak(options: argparse.Namespace) -> list[timing.Row]:
    """Measures each mesh alongside one device with the same batch."""
    rows = []
    for devices in DEVICES:
        batch = options.per_device * devices
        make = functools.partial(
            ScaledStep,
            options.method,
            batch=batch,
            width=options.width,
            fsdp=options.fsdp,
        )
        programs: dict[str, timing.Program | str] = {"1 device": make()}
        if devices > 1:
            programs[f"{devices} devices"] = make(devices=devices)

        rows += timing.measure(
            "weak scaling",
            programs,
            settings=_settings(options, batch=batch),
            repeats=options.repeats,
        )
    return rows


def _sizes(options: argparse.Namespace, sizes: Sequence[int]) -> list[timing.Row]:
    """Measures images of several sizes on one device."""
    batch = options.per_device
    programs: dict[str, timing.Program | str] = {}
    for size in sizes:
        programs[f"{size} pixels"] = ScaledStep(
            options.method,
            batch=batch,
            width=options.width,
            size=size,
            fsdp=options.fsdp,
        )

    return timing.measure(
        "image size",
        programs,
        settings=_settings(options, batch=batch),
        repeats=options.repeats,
    )


def _settings(options: argparse.Namespace, *, batch: int) -> dict[str, Any]:
    """Describes what all programs of a comparison share."""
    settings = {"method": options.method, "width": options.width}
    if options.fsdp:
        settings["fsdp"] = True
    settings["batch"] = batch
    return settings


def _make_devices(count: int) -> None:
    """Divides the CPU, which is only possible before anything uses JAX.

    Raises:
      UserError: If JAX is in use already, with fewer devices.
    """
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
