"""Times reading against PyTorch's DataLoader.

Command: python -m benchmarks.input_pipeline; see --help. Linux only. Exit status 0, or
2 for a wrong argument, in one sentence.
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
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.input_programs import MIN_FRAMES, OURS, TORCH, Setting
from benchmarks.options import INSTALL_TORCH, check_least, has_torch, split
from benchmarks.timing import check_json_path
from facecycle_jax.data import scan_folder
from facecycle_jax.errors import UserError
from facecycle_jax.files import write_json

# Figures of a program by name, see `input_programs.measure`.
Figures = Mapping[str, Any]


class Target(NamedTuple):
    """A host that trains.

    Attributes:
      name: of the host.
      cores: number of cores that read.
      steps_per_s: rate of its train step without waiting for data.
      images: number of images that are read for one step.
    """

    name: str
    cores: int
    steps_per_s: float
    images: int


# Rates are stated targets, not measurements. The cores are those with which such hosts
# are rented.
TARGETS = ("one H200:16:40:32", "v5e host, 8 chips:112:20:256")


def _parser() -> argparse.ArgumentParser:
    """Builds the parser."""
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
        "--programs",
        default="",
        help=f"some of {'; '.join([*OURS, *TORCH])} (default: all that can run)",
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
        _check_options(options)
        names = _program_names(options)
        targets = _targets(options.targets)
        if options.json:
            check_json_path(pathlib.Path(options.json))
        rounds = _run_all(names, options)
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


def _check_options(options: argparse.Namespace) -> None:
    """Checks numbers and folders."""
    counts = ("batch", "size", "images", "repeats")
    check_least({f"--{name}": getattr(options, name) for name in counts})
    check_least({"--workers": options.workers}, least=0)

    for name in ("data", "records"):
        path = getattr(options, name)
        if path and not os.path.isdir(path):
            raise UserError(f"--{name}: there is no folder {path}.")


def _program_names(options: argparse.Namespace) -> list[str]:
    """Returns the chosen programs, or all that can run here."""
    known = [*OURS, *TORCH]
    chosen = split(
        options.programs, known, "--programs", separator=";", may_be_empty=True
    )

    names = []
    for name in chosen or known:
        reason = ""
        if name.startswith("records") and not options.records:
            reason = "it needs --records FOLDER"
        elif name in TORCH and not has_torch():
            reason = INSTALL_TORCH

        # A program that was not named is left out without a word.
        if reason and chosen:
            raise UserError(f"--programs {name!r} cannot run: {reason}.")
        if not reason:
            names.append(name)
    return names


def _targets(text: str) -> list[Target]:
    """Reads hosts from 'name:cores:steps/s:images; ...'."""
    found = []
    for part in text.split(";"):
        part = part.strip()
        if not part:
            continue
        try:
            name, cores, steps, images = part.split(":")
            target = Target(name, int(cores), float(steps), int(images))
        except ValueError:
            raise UserError(
                f"--targets takes name:cores:steps/s:images, got {part!r}."
            ) from None
        if min(target[1:]) <= 0:
            raise UserError(f"--targets takes numbers above 0, got {part!r}.")
        found.append(target)
    return found


def _run_all(
    names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Runs the programs interleaved; returns the figures of every round by program."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        tracks = ""
        if any(name in TORCH for name in names):
            found = torch_tracks(options.data, batch=options.batch)
            tracks = os.path.join(folder, "tracks.json")
            pathlib.Path(tracks).write_text(json.dumps(found))

        for _ in range(options.repeats):
            for name in names:
                setting = Setting(
                    program=name,
                    folder=options.data,
                    records=options.records,
                    tracks=tracks,
                    batch=options.batch,
                    size=options.size,
                    images=options.images,
                    workers=options.workers,
                )
                rounds[name].append(_run(setting))
    return rounds


def torch_tracks(folder: str, *, batch: int) -> list[list[str]]:
    """Finds the tracks that PyTorch's loader reads, the same as ours.

    Args:
      folder: folder of images.
      batch: pairs of a batch.

    Returns:
      The image files of each track.

    Raises:
      UserError: If there are fewer tracks than a batch has pairs, or no images.
    """
    tracks = scan_folder(folder, min_frames=MIN_FRAMES).frames
    # Without one whole batch, the loader would begin epoch after epoch for ever.
    if len(tracks) < batch:
        raise UserError(
            f"{folder} has {len(tracks)} tracks of at least {MIN_FRAMES} images and "
            f"--batch {batch} needs {batch} of them; choose a smaller --batch."
        )
    return [[str(frame) for frame in frames] for frames in tracks]


def _run(setting: Setting) -> dict[str, Any]:
    """Measures a program in a new process."""
    fields = json.dumps(dataclasses.asdict(setting))
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.input_programs", fields],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if result.returncode == 2:
        lines = result.stderr.strip().splitlines()
        raise UserError(f"the program {setting.program!r} failed: {lines[-1]}")
    if result.returncode:
        raise RuntimeError(f"{setting.program!r} failed:\n{result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Computes the median of each figure over the rounds."""
    median: dict[str, Any] = {}
    for name, value in results[0].items():
        values = [result[name] for result in results]
        median[name] = (
            _median(values) if isinstance(value, dict) else statistics.median(values)
        )
    return median


def table(medians: Mapping[str, Figures]) -> str:
    """Formats the figures as a Markdown table.

    Args:
      medians: figures by program. Ratios are to PyTorch with Pillow, where that is one
        of them.

    Returns:
      The table.
    """
    base = medians.get(TORCH[0], {}).get("images_per_core_s")
    lines = [
        "| program | images per core-second | times torch | images/s | first "
        "batch s | memory MB | first batch at step 0 / 1e6, ms | Python's part, us |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in medians.items():
        ratio = f"{row['images_per_core_s'] / base:.2f}" if base else ""
        resume = [f"{value:.1f}" for value in row.get("resume_ms", {}).values()]
        own = f"{row['interpreter_us']:.0f}" if "interpreter_us" in row else ""
        lines.append(
            f"| {name} | {row['images_per_core_s']:.0f} | {ratio} | "
            f"{row['images_per_s']:.0f} | {row['first_batch_s']:.2f} | "
            f"{row['memory_mb']:.0f} | {' / '.join(resume)} | {own} |"
        )
    return "\n".join(lines)


def highest_rate(row: Figures, target: Target) -> float:
    """Computes the steps a second up to which reading keeps up on a host.

    Cores are assumed to add up, until the interpreter's lock is always held.

    Args:
      row: figures of a program: images_per_core_s and, of ours, interpreter_us.
      target: the host.

    Returns:
      Steps a second.
    """
    supply = row["images_per_core_s"] * target.cores
    if row.get("interpreter_us"):
        supply = min(supply, 1e6 / row["interpreter_us"])
    return supply / target.images


def waiting(row: Figures, target: Target) -> float:
    """Computes the fraction of a train step that waits for data.

    Args:
      row: as for `highest_rate`.
      target: the host.

    Returns:
      0 where reading keeps up; always below 1.
    """
    return max(0.0, 1 - highest_rate(row, target) / target.steps_per_s)


def waiting_table(medians: Mapping[str, Figures], targets: Sequence[Target]) -> str:
    """Formats the shares of waiting, computed from measured rates and the targets.

    Args:
      medians: figures by program.
      targets: the hosts.

    Returns:
      A Markdown table.
    """
    headings = ["share of a step that waits for data (computed)"]
    for target in targets:
        headings.append(
            f"{target.name}: {target.cores} cores, {target.steps_per_s:g} x "
            f"{target.images} images/s"
        )

    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * len(targets)]
    for name, row in medians.items():
        cells = [name]
        for target in targets:
            rate = highest_rate(row, target)
            cells.append(f"{waiting(row, target):.0%} (from {rate:.0f} steps/s on)")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
