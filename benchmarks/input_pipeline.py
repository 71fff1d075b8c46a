"""Times reading against PyTorch's DataLoader.

Run `python -m benchmarks.input_pipeline --help`.

Exit status 0, or 2 for a wrong argument, in one sentence. Linux only.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.input_programs import OURS, TORCH, Setting
from benchmarks.options import INSTALL_TORCH, check_least, has_torch, split
from benchmarks.timing import check_json_path
from facecycle_jax.errors import UserError
from facecycle_jax.files import write_json


class Target(NamedTuple):
    """A host that trains.

    Attributes:
      name: of the host.
      cores: that read.
      steps_per_s: the rate of its train step without waiting for data.
      images: read for one step.
    """

    name: str
    cores: int
    steps_per_s: float
    images: int


# Rates are stated targets, not measurements; cores are those such hosts are rented
# with.
TARGETS = ("one H200:16:40:32", "v5e host, 8 chips:112:20:256")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input_pipeline",
        description="Reads the same images with this program and with PyTorch's "
        "DataLoader and Pillow, interleaved, each in its own process. Prints "
        "images per second and per core-second.",
    )
    parser.add_argument(
        "--data", required=True, help="folder of images, <person>/.../*.jpg"
    )
    parser.add_argument(
        "--records",
        default="",
        help="the same, prepared: facecycle prepare tracks --data DATA",
    )
    parser.add_argument(
        "--programs", default="", help=f"some of {', '.join([*OURS, *TORCH])!r}, with ;"
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="pairs (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=72, help="side in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=6400,
        help="timed in a round (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="of PyTorch (default: the cores)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--targets",
        default=";".join(TARGETS),
        help="name:cores:steps/s:images a step; ...",
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
        settings, targets = _settings(options), _targets(options.targets)
        if options.json:
            check_json_path(pathlib.Path(options.json))
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
        for _ in range(options.repeats):
            for name, setting in settings.items():
                rounds[name].append(_run(setting))
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    medians = {name: _median(results) for name, results in rounds.items()}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}\n"
    )
    print(table(medians))
    print("\n" + waiting_table(medians, targets))
    if options.json:
        content = {"options": vars(options), "rounds": rounds, "medians": medians}
        write_json(options.json, content)
    return 0


def _settings(options: argparse.Namespace) -> dict[str, Setting]:
    """Builds the settings of the chosen programs, or of all that can run here."""
    counts = ("batch", "size", "images", "repeats")
    check_least({f"--{name}": getattr(options, name) for name in counts})
    check_least({"--workers": options.workers}, least=0)
    for name in ("data", "records"):
        path = getattr(options, name)
        if path and not os.path.isdir(path):
            raise UserError(f"--{name}: there is no folder {path}.")
    chosen = split(
        options.programs, [*OURS, *TORCH], "--programs", by=";", may_be_empty=True
    )

    names = []
    for name in chosen or (*OURS, *TORCH):
        reason = ""
        if name.startswith("records") and not options.records:
            reason = "it needs --records FOLDER"
        elif name in TORCH and not has_torch():
            reason = INSTALL_TORCH

        # Only a program that was named is missed.
        if reason and chosen:
            raise UserError(f"--programs {name!r} cannot run: {reason}.")
        if not reason:
            names.append(name)

    fixed = (
        options.data,
        options.records,
        options.batch,
        options.size,
        options.images,
        options.workers,
    )
    return {name: Setting(name, *fixed) for name in names}


def _targets(text: str) -> list[Target]:
    """Reads name:cores:steps/s:images; ..."""
    found = []
    for part in (part.strip() for part in text.split(";") if part.strip()):
        try:
            name, cores, steps, images = part.split(":")
            found.append(Target(name, int(cores), float(steps), int(images)))
        except ValueError:
            raise UserError(
                f"--targets takes name:cores:steps/s:images, got {part!r}."
            ) from None
    return found


def _run(setting: Setting) -> dict[str, Any]:
    """Measures a program in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.input_programs"]
    result = subprocess.run(
        [*command, json.dumps(dataclasses.asdict(setting))],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    if result.returncode == 2:
        lines = result.stderr.strip().splitlines()
        raise UserError(f"the program {setting.program!r} failed: {lines[-1]}")
    if result.returncode:
        raise RuntimeError(f"{setting.program!r} failed:\n{result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Takes the median of each figure over the rounds."""
    median: dict[str, Any] = {}
    for name, value in results[0].items():
        if isinstance(value, dict):
            median[name] = _median([result[name] for result in results])
        else:
            median[name] = statistics.median(result[name] for result in results)
    return median


def table(medians: Mapping[str, Mapping[str, Any]]) -> str:
    """Lays the figures out as a Markdown table, PyTorch with Pillow being 1."""
    base = medians.get(TORCH[0], {}).get("images_per_core_s")
    lines = [
        "| program | images per core-second | times torch | images/s | first "
        "batch s | memory MB | first batch at step 0 / 1e6, ms | Python's part, us |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in medians.items():
        ratio = f"{row['images_per_core_s'] / base:.2f}" if base else ""
        resume = " / ".join(
            f"{value:.1f}" for value in row.get("resume_ms", {}).values()
        )
        own = f"{row['interpreter_us']:.0f}" if "interpreter_us" in row else ""
        lines.append(
            f"| {name} | {row['images_per_core_s']:.0f} | {ratio} | "
            f"{row['images_per_s']:.0f} | {row['first_batch_s']:.2f} | "
            f"{row['memory_mb']:.0f} | {resume} | {own} |"
        )
    return "\n".join(lines)


def highest_rate(row: Mapping[str, Any], target: Target) -> float:
    """Computes the steps a second up to which reading keeps up on a host.

    Args:
      row: figures of a program: images_per_core_s and, of ours, interpreter_us.
      target: the host.

    Returns:
      Steps a second. Cores are taken to add up, until the interpreter's lock is always
      held.
    """
    supply = row["images_per_core_s"] * target.cores
    if row.get("interpreter_us"):
        supply = min(supply, 1e6 / row["interpreter_us"])
    return supply / target.images


def waiting(row: Mapping[str, Any], target: Target) -> float:
    """Computes the fraction of a train step that waits for data.

    It is 0 where reading keeps up, and always below 1.
    """
    return max(0.0, 1 - highest_rate(row, target) / target.steps_per_s)


def waiting_table(
    medians: Mapping[str, Mapping[str, Any]], targets: Sequence[Target]
) -> str:
    """Formats the shares of waiting, computed from measured rates and the targets."""
    lines = [
        "| share of a step that waits for data (computed) | "
        + " | ".join(
            f"{t.name}: {t.cores} cores, {t.steps_per_s:g} x {t.images} images/s"
            for t in targets
        )
        + " |",
        "|---|" + "---:|" * len(targets),
    ]
    for name, row in medians.items():
        cells = [
            f"{waiting(row, t):.0%} (from {highest_rate(row, t):.0f} steps/s on)"
            for t in targets
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
