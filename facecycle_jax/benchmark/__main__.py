"""The benchmark's command line; see --help. Exit status 0, or 2 for a wrong argument, in one sentence."""

import argparse
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from facecycle_jax.benchmark import ours, starting, timing

CASES = ("train-motion", "train-identity", "inference", "grid-sample", "start")
SAMPLED = {"16x16": (16, 16, 16, 256), "32x32": (16, 32, 32, 128), "64x64": (16, 64, 64, 3)}
IMPLEMENTATIONS = ("auto", "gather", "matmul", "autodiff")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facecycle_jax.benchmark",
        description="Times this program, and a plain PyTorch rendering of the same method where torch is "
        "installed, in turn in one run; prints a table of medians and ratios.",
    )
    parser.add_argument("--cases", default="train-motion,train-identity,inference", help=", ".join(CASES))
    parser.add_argument("--batch", type=int, default=16, help="pairs of pictures (default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="of the networks; 1 is the paper's")
    parser.add_argument("--precision", choices=sorted(ours.PRECISIONS), default="float32")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default=jax.default_backend())
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of each (default: %(default)s)")
    parser.add_argument(
        "--torch", default="eager,channels_last", help="eager, channels_last, compile; '' leaves torch out"
    )
    parser.add_argument("--json", help="file for the figures; must not exist")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
      arguments: command line without the program's name; None takes that of the process.

    Returns:
      The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        cases, modes = _split(options.cases, CASES, "--cases"), _modes(options.torch)
        if options.batch < 1 or options.repeats < 1 or not options.width > 0:
            raise ValueError("--batch and --repeats must be at least 1 and --width above 0.")
        if options.json:
            timing.check_json_path(pathlib.Path(options.json))
        setting = ours.Setting(options.batch, options.width, options.precision, options.device)
        ours.device_of(options.device)
    except ValueError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    rows: list[timing.Row] = []
    for case in cases:
        rows += _measure(case, setting, modes, options.repeats)
    machine = _machine(setting)
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    print(timing.table(rows))
    if options.json:
        timing.write_json(rows, machine, pathlib.Path(options.json))
    return 0


def _split(text: str, known: Sequence[str], option: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen:
        if part not in known:
            raise ValueError(f"{option} takes {', '.join(known)}, got {part!r}.")
    return chosen


def _modes(text: str) -> list[str]:
    modes = _split(text, ("eager", "channels_last", "compile"), "--torch")
    try:
        import torch  # noqa: F401
    except ImportError:
        return []
    return modes


def _measure(case: str, setting: ours.Setting, modes: list[str], repeats: int) -> list[timing.Row]:
    """Measures one case."""
    if case == "grid-sample":
        return _grid_sample(setting, modes, repeats)
    settings = setting._asdict()
    if case == "start":
        return _start(setting, modes, settings, repeats)
    programs: dict[str, timing.Program | str] = {}
    if case == "inference":
        mine: Any = ours.Inference(setting)
        settings["pictures"] = 2 * setting.batch
    else:
        stage = {"train-motion": "motion_cycle", "train-identity": "identity_cycle"}[case]
        mine = ours.TrainStep(stage, setting)
    programs["ours"] = mine
    for mode in modes:
        from facecycle_jax.benchmark import torch_programs

        pictures = ours.pictures(setting.batch)
        try:
            if case == "inference":
                other: Any = torch_programs.TorchInference(setting, mine.trees, pictures, mode=mode)
            else:
                other = torch_programs.TorchTrainStep(stage, setting, mine.trees, pictures, mode=mode)
                _check_same(mine.total(), other.total(), setting)
            programs[f"torch {mode}"] = other
        except ValueError as error:
            programs[f"torch {mode}"] = str(error)
    return timing.measure(case, programs, settings=settings, repeats=repeats)


def _check_same(mine: float, other: float, setting: ours.Setting) -> None:
    """Raises RuntimeError if the sides compute different losses: then their times mean nothing."""
    tolerance = 1e-3 if setting.precision == "float32" else 5e-2
    if abs(mine - other) > tolerance * abs(other):
        raise RuntimeError(f"the two programs differ: loss {mine} here, {other} in PyTorch.")


def _grid_sample(setting: ours.Setting, modes: list[str], repeats: int) -> list[timing.Row]:
    """Measures sampling, each implementation, forward and with gradients."""
    rows = []
    for name, shape in SAMPLED.items():
        image, grid = ours.sampling_arrays((2 * setting.batch, *shape[1:]))
        for backward in (False, True):
            programs: dict[str, timing.Program | str] = {
                implementation: ours.grid_sample_program(
                    image, grid, implementation=implementation, backward=backward, setting=setting
                )
                for implementation in IMPLEMENTATIONS
            }
            if modes:
                from facecycle_jax.benchmark import torch_programs

                try:
                    programs["torch"] = torch_programs.grid_sample_program(
                        image, grid, backward=backward, setting=setting
                    )
                except ValueError as error:
                    programs["torch"] = str(error)
            case = f"grid-sample {name}x{shape[3]}" + (" with gradients" if backward else "")
            settings = {"maps": 2 * setting.batch, "precision": setting.precision, "device": setting.device}
            rows += timing.measure(case, programs, settings=settings, repeats=repeats)
    return rows


def _start(
    setting: ours.Setting, modes: list[str], settings: dict[str, Any], repeats: int
) -> list[timing.Row]:
    """Measures fresh processes."""
    _, trees = ours.initial_trees("motion_cycle", setting)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        programs: dict[str, timing.Program | str] = {"ours": starting.our_start(path, trees, setting)}
        if modes:
            programs["torch eager"] = starting.torch_start(path, trees, setting)
        return timing.measure("start", programs, settings=settings, repeats=repeats)


def _machine(setting: ours.Setting) -> dict[str, str]:
    """Describes what was measured on."""
    device = ours.device_of(setting.device)
    described = {
        "device": f"{device.platform} {device.device_kind}",
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    torch = sys.modules.get("torch")
    return described | ({"torch": torch.__version__} if torch else {})


if __name__ == "__main__":
    sys.exit(main())
