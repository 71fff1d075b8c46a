"""Counts the operations of training steps and writes the tables of a run."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from benchmarks import hardware, timing
from facecycle_jax import training
from facecycle_jax.files import write_json, write_whole
from launch.compile_check.compiling import lower_train_step
from launch.ten_minutes.running import STAGES

COUNTS = "operations.json"


def count_operations(work: pathlib.Path) -> dict[str, float]:
    """Counts the operations of a step of each stage, without compiling it.

    They are XLA's count of the step as written, and written to a file in `work`.

    Args:
      work: folder of the run.

    Returns:
      Operations by stage, of the stages that have begun.
    """
    counts = {}
    for stage in STAGES:
        folder = work / "run" / stage
        if not (folder / "config.json").exists():
            continue
        lowered = lower_train_step(training.read_config(folder), jax.devices("cpu")[:1])
        cost = lowered.cost_analysis()
        counts[stage] = float(cost["flops"]) if cost else 0.0

        # Each is written as soon as it is known.
        write_json(work / COUNTS, counts)
    return counts


def stage_row(
    folder: pathlib.Path, *, flops: float | None, peak: float | None
) -> dict[str, str]:
    """Describes what a stage has done.

    Args:
      folder: its workdir.
      flops: operations of a step, None where they are not known.
      peak: operations a second of the device, None where they are not known.

    Returns:
      Cells by column, of the last row of its table.
    """
    config = training.read_config(folder)
    metrics = training.read_metrics(folder)
    goodput = json.loads((folder / "goodput.json").read_text())["seconds"]
    pairs = config["batch_size"]

    speeds = _values(metrics, "steps_per_second")
    losses = _values(metrics, "eval/total")
    row = {
        "stage": folder.name,
        "pairs": str(pairs),
        "steps": str(max((line["step"] for line in metrics), default=0)),
        "held-out loss": f"{losses[-1]:.3f}" if losses else "",
    }
    for name in ("start", "compilation", "steps", "evaluation", "checkpoint"):
        row[f"{name}, s"] = f"{goodput[name]:.1f}"
    if not speeds:
        return row

    # The median leaves out what happens once.
    steps_per_second = statistics.median(speeds)
    row["step, ms"] = f"{1e3 / steps_per_second:.2f}"
    row["images/s"] = f"{2 * pairs * steps_per_second:.4g}"
    if flops:
        row["GFLOP a step"] = f"{flops / 1e9:.4g}"
        row["TFLOP/s"] = f"{flops * steps_per_second / 1e12:.3g}"
    if flops and peak:
        row["MFU, %"] = f"{100 * flops * steps_per_second / peak:.1f}"
    return row


def _values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Returns a figure's values, in the order of steps."""
    return [line[name] for line in metrics if name in line]


_COLUMNS = (
    "stage",
    "pairs",
    "steps",
    "step, ms",
    "images/s",
    "GFLOP a step",
    "TFLOP/s",
    "MFU, %",
    "held-out loss",
    "start, s",
    "compilation, s",
    "steps, s",
    "evaluation, s",
    "checkpoint, s",
)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Lays rows out as a Markdown table; cells that a row lacks are empty."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        cells = [row.get(column, "") for column in _COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(work: pathlib.Path, out: pathlib.Path) -> str:
    """Writes the tables of a run to OUT/report.md.

    Args:
      work: folder of the run.
      out: folder for what comes back.

    Returns:
      The text.
    """
    counts = {}
    if (work / COUNTS).exists():
        counts = json.loads((work / COUNTS).read_text())
    figures: dict[str, Any] = {"machine": {}, "rows": []}
    if (out / "gpu.json").exists():
        figures = json.loads((out / "gpu.json").read_text())

    # The data sheet's peak, of the precision that the stages compute in.
    _, _, kind = figures["machine"].get("device", "").partition(" ")
    rows = []
    for stage in STAGES:
        folder = work / "run" / stage
        # A stage that was stopped before its first step has nothing to report.
        files = ("config.json", "metrics.jsonl", "goodput.json")
        if not all((folder / name).exists() for name in files):
            continue
        dtype = training.read_config(folder)["model"]["dtype"]
        sheet = hardware.sheet(kind, dtype) if kind else None
        rows.append(
            stage_row(
                folder,
                flops=counts.get(stage),
                peak=sheet.flops if sheet else None,
            )
        )

    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    measured = [timing.Row(**row) for row in figures["rows"]]
    text = (
        f"# Ten minutes of one device\n\n{machine}\n\n## Training\n\n{table(rows)}\n\n"
        f"MFU is of the data sheet's peak.\n\n## Measurements\n\n"
        f"{timing.table(measured)}\n"
    )
    write_whole(out / "report.md", text.encode())
    return text
