"""The benchmark's command line; see --help.

Exit status 0, or 2 for a wrong argument, in one sentence.
"""

import argparse
import concurrent.futures
import contextlib
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
# Options that have no effect in a mode of the benchmark. Their default is None, so that
# a given value can be told from it.
NO_EFFECT = {
    "--profile": ("suite", "torch", "budget", "json"),
    "--suite gpu": ("cases", "precision"),
    "--suite growth": ("cases", "torch", "budget"),
    "--cases": ("budget",),
}
# Seconds that --suite gpu may take by default.
_BUDGET = 440.0


def _parser() -> argparse.ArgumentParser:
    """Builds the parser."""
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
        help=f"seconds that --suite gpu may take (default: {_BUDGET:g})",
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
        names = CASES if options.cases is None else options.cases
        chosen = split(names, cases.CASES, "--cases")
        modes: list[str] = []
        if options.profile is None and options.suite != "growth":
            modes = _torch_modes(options.torch)
        json_path = pathlib.Path(options.json) if options.json else None
        if json_path:
            timing.check_json_path(json_path)

        setting = _setting(options)
        if options.profile is not None:
            print(_profile(options, setting, chosen))
            return 0
        plan = suites.plan(
            options.suite, setting, chosen, modes, repeats=options.repeats
        )
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2

    budget = float("inf")
    if options.suite == "gpu":
        budget = _BUDGET if options.budget is None else options.budget
    _run(plan, setting, json_path, budget=budget, ahead=options.suite == "gpu")
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
    names = MODES if text is None else text
    modes = split(names, cases.MODES, "--torch", may_be_empty=True)
    if not modes or has_torch():
        return modes

    if text is not None:
        print(f"--torch {text} is left out. {INSTALL_TORCH}", file=sys.stderr)
    return []


def _setting(options: argparse.Namespace) -> ours.Setting:
    """Reads the setting, and splits the CPU for it before JAX is first used."""
    check_least({"--batch": options.batch, "--repeats": options.repeats})
    check_width(options.width)

    _split_cpu(suites.largest_batch(options.suite, options.batch))
    setting = ours.Setting(
        batch=options.batch,
        width=options.width,
        precision=options.precision or "float32",
        device=options.device or jax.default_backend(),
        size=options.size,
        remat=options.remat,
    )

    # Fails here, in one sentence, if there is no such device.
    ours.device_of(setting.device)
    return setting


def _profile(
    options: argparse.Namespace, setting: ours.Setting, chosen: list[str]
) -> str:
    """Traces the first train step of the chosen cases and returns its summary."""
    stages = [cases.STAGES[case] for case in chosen if case in cases.STAGES]
    if not stages:
        raise UserError(
            "--profile takes a train step: --cases train-motion or train-identity."
        )
    folder = pathlib.Path(options.profile)
    return breakdown.profile(stages[0], setting, folder, steps=options.repeats)


def _run(
    plan: list[suites.Entry],
    setting: ours.Setting,
    json_path: pathlib.Path | None,
    *,
    budget: float,
    ahead: bool,
) -> None:
    """Measures entry by entry; each is printed and written as soon as it is measured.

    Args:
      plan: what to measure.
      setting: that of the command line, which tells the device.
      json_path: file for the figures, if any.
      budget: seconds that all entries together may take.
      ahead: whether to compile train steps in advance, several at once.
    """
    started = time.perf_counter()
    machine = _machine(setting)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)

    if ahead:
        _compile_ahead(plan, until=started + budget / 4)

    rows: list[timing.Row] = []
    for entry in plan:
        left = budget - (time.perf_counter() - started)
        if left > entry.seconds:
            measured = entry.measure()
        else:
            measured = entry.skipped("the time was spent")

        rows += measured
        print("\n" + timing.table(measured), flush=True)
        if json_path:
            timing.write_json(rows, machine, json_path)


def _compile_ahead(plan: list[suites.Entry], *, until: float) -> None:
    """Compiles train steps in several threads, if the machine has enough cores.

    Args:
      plan: what is to be measured.
      until: time of `time.perf_counter` after which no compilation is started.
    """
    # Compilers that run at the same time save most of their time on many cores. On few
    # cores they would spend the whole budget before anything is measured.
    workers = min(4, (os.cpu_count() or 1) // 4)
    if not workers:
        return

    def prepare(entry: suites.Entry) -> None:
        if time.perf_counter() < until:
            entry.prepare()

    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        # The list raises the exceptions of the threads.
        list(pool.map(prepare, plan))


def _split_cpu(batch: int) -> None:
    """Splits the CPU as training does, unless JAX is in use already."""
    # JAX refuses the new number once it is in use. Its devices are then measured as
    # they are.
    with contextlib.suppress(RuntimeError):
        split_cpu({"batch_size": batch})


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

    # It was imported if it is to be measured.
    torch = sys.modules.get("torch")
    if torch is not None:
        described["torch"] = torch.__version__
    return described


if __name__ == "__main__":
    sys.exit(main())
