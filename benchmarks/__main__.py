"""The benchmark's command line; see --help.

Exit status 0, or 2 for a wrong argument, in one sentence.
"""

import argparse
import concurrent.futures
import os
import pathlib
import platform
import sys
import time
from collections.abc import Sequence

import jax

from benchmarks import breakdown, cases, ours, suites, timing
from benchmarks.options import INSTALL_TORCH, check_least, check_width, has_torch, split
from facecycle_jax.devices import split_cpu
from facecycle_jax.errors import UserError

CASES = "train-motion,train-identity,inference"
MODES = "eager,channels_last"
# Options that have no effect in a mode of the benchmark. Their defaults are None, which
# tells them from a value that was given.
NO_EFFECT = {
    "--profile": ("suite", "torch", "budget", "json"),
    "--suite gpu": ("cases", "precision"),
    "--suite growth": ("cases", "torch", "budget"),
    "--cases": ("budget",),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times this program and, where torch is installed, a plain "
        "PyTorch implementation of the same method, interleaved in one run. Prints a "
        "table of medians and ratios.",
    )
    parser.add_argument(
        "--cases",
        help=f"{', '.join(cases.CASES)} (default: {CASES})",
    )
    parser.add_argument(
        "--suite",
        choices=suites.NAMES,
        help="in place of --cases: " + "; ".join(suites.NAMES.values()),
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="pairs of images (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=float, default=1.0, help="of the networks; 1 is the paper's"
    )
    parser.add_argument(
        "--size",
        type=int,
        choices=(64, 128, 256),
        default=64,
        help="of the images, pixels",
    )
    parser.add_argument(
        "--precision", choices=sorted(ours.PRECISIONS), help="default: float32"
    )
    parser.add_argument(
        "--remat",
        action="store_true",
        help="compute activations again in the backward pass",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu", "tpu"), help="what JAX finds, by default"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=10,
        help="timed calls of each (default: %(default)s)",
    )
    parser.add_argument(
        "--torch",
        help=f"{', '.join(cases.MODES)}; '' leaves torch out (default: {MODES})",
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="seconds that --suite gpu may take (default: 440)",
    )
    parser.add_argument("--json", help="file for the figures; must not exist")
    parser.add_argument(
        "--profile",
        metavar="DIR",
        help="in place of timing: a trace of the first train case, and its summary",
    )
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
        _check_together(options)
        chosen = split(
            CASES if options.cases is None else options.cases, cases.CASES, "--cases"
        )
        modes = _torch_modes(options.torch)
        check_least({"--batch": options.batch, "--repeats": options.repeats})
        check_width(options.width)
        json = pathlib.Path(options.json) if options.json else None
        if json:
            timing.check_json_path(json)
        _split_cpu(options.batch)
        device = options.device or jax.default_backend()
        setting = ours.Setting(
            options.batch,
            options.width,
            options.precision or "float32",
            device,
            options.size,
            options.remat,
        )
        ours.device_of(setting.device)
        if options.profile:
            stage = next(
                (cases.STAGES[case] for case in chosen if case in cases.STAGES), None
            )
            if stage is None:
                raise UserError(
                    "--profile takes a train step: --cases train-motion or "
                    "train-identity."
                )
            print(
                breakdown.profile(
                    stage, setting, pathlib.Path(options.profile), steps=options.repeats
                )
            )
            return 0
        plan = suites.plan(
            options.suite, setting, chosen, modes, repeats=options.repeats
        )
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2

    budget = float("inf")
    if options.suite == "gpu":
        budget = 440.0 if options.budget is None else options.budget
    _run(plan, setting, json, budget=budget, ahead=options.suite == "gpu")
    return 0


def _check_together(options: argparse.Namespace) -> None:
    """Refuses options that would have no effect alongside the others."""
    mode = "--cases"
    if options.profile is not None:
        mode = "--profile"
    elif options.suite is not None:
        mode = f"--suite {options.suite}"

    for name in NO_EFFECT[mode]:
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has no effect with {mode}; leave it out.")

    if mode == "--suite growth" and options.size == 256:
        raise UserError(
            "--suite growth doubles --size, and 256 is the largest; choose 64 or 128."
        )


def _torch_modes(text: str | None) -> list[str]:
    """Returns the ways of running PyTorch; none where it is not installed.

    A missing PyTorch is reported if it was named. It does not end the run, which still
    measures our side.
    """
    modes = split(
        MODES if text is None else text, cases.MODES, "--torch", may_be_empty=True
    )
    if not modes or has_torch():
        return modes
    if text is not None:
        print(f"--torch {text} is left out. {INSTALL_TORCH}", file=sys.stderr)
    return []


def _run(
    plan: list[suites.Entry],
    setting: ours.Setting,
    json: pathlib.Path | None,
    *,
    budget: float,
    ahead: bool,
) -> None:
    """Measures entry by entry; each is written as soon as it is there."""
    started, rows, machine = time.perf_counter(), [], _machine(setting)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    workers = (os.cpu_count() or 1) // 4
    if ahead and workers:
        # On a machine of many cores compilers side by side save most of their time; on
        # few cores they would spend all of it before anything is measured.
        def prepare(entry: suites.Entry) -> None:
            if time.perf_counter() - started < budget / 4:
                entry.prepare()

        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, workers)) as pool:
            list(pool.map(prepare, plan))
    for entry in plan:
        left = budget - (time.perf_counter() - started)
        new = (
            entry.measure()
            if left > entry.seconds
            else entry.skipped("the time was spent")
        )
        rows += new
        print("\n" + timing.table(new), flush=True)
        if json:
            timing.write_json(rows, machine, json)


def _split_cpu(batch: int) -> None:
    """Splits the CPU as training does.

    Where JAX is in use already, what it has stands.
    """
    try:
        split_cpu({"batch_size": batch})
    except RuntimeError:
        return


def _machine(setting: ours.Setting) -> dict[str, str]:
    """Describes what is measured on."""
    device = ours.device_of(setting.device)
    described = {
        "device": f"{device.platform} {device.device_kind}",
        "cores": str(os.cpu_count()),
        "devices of a train step": str(len(ours.devices_of(setting))),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    torch = sys.modules.get("torch")
    return described | ({"torch": torch.__version__} if torch else {})


if __name__ == "__main__":
    sys.exit(main())
