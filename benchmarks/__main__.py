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
from facecycle_jax.devices import split_cpu
from facecycle_jax.errors import UserError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times this program and, where torch is installed, a plain "
        "PyTorch implementation of the same method, interleaved in one run. Prints a "
        "table of medians and ratios.",
    )
    parser.add_argument(
        "--cases",
        default="train-motion,train-identity,inference",
        help=", ".join(cases.CASES),
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
        "--precision", choices=sorted(ours.PRECISIONS), default="float32"
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
        default="eager,channels_last",
        help="eager, channels_last, compile; '' leaves torch out",
    )
    parser.add_argument(
        "--budget", type=float, default=440.0, help="seconds that --suite gpu may take"
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
        chosen = _split(options.cases, cases.CASES, "--cases")
        modes = cases.torch_modes(_split(options.torch, cases.MODES, "--torch"))
        if options.batch < 1 or options.repeats < 1 or not options.width > 0:
            raise UserError(
                "--batch and --repeats must be at least 1 and --width above 0."
            )
        json = pathlib.Path(options.json) if options.json else None
        if json:
            timing.check_json_path(json)
        _split_cpu(options.batch)
        device = options.device or jax.default_backend()
        setting = ours.Setting(
            options.batch,
            options.width,
            options.precision,
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
    except ValueError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    _run(
        plan,
        setting,
        json,
        budget=options.budget if options.suite == "gpu" else float("inf"),
        ahead=options.suite == "gpu",
    )
    return 0


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


def _split(text: str, known: Sequence[str], option: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen:
        if part not in known:
            raise UserError(f"{option} takes {', '.join(known)}, got {part!r}.")
    return chosen


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
