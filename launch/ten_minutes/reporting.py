"""Counts the operations of training steps and writes the tables of a run."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from benchmarks import hardware, timing
from facecycle_jax import training
from facecycle_jax.files import write_json, write_text
from launch.compile_check.compiling import lower_train_step
from launch.ten_minutes.running import STAGES

# File in the folder of the run with the operations of a step, by stage.
COUNTS = "operations.json"

# Columns of the table of stages.
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
# Those of `training.goodput.CATEGORIES` that have a column.
_TIMES = ("start", "compilation", "steps", "evaluation", "checkpoint")


def count_operations(work: pathlib.Path) -> dict[str, float]:
    """Counts the operations of a step of each stage, without compiling it.

    They are XLA's count of the step as written, before optimisation. They are written
    to the file COUNTS in `work`.

    Args:
      work: folder of the run.

    Returns:
      Floating-point operations of a step, by stage, for the stages that have begun.
    """
    counts: dict[str, float] = {}
    for stage in STAGES:
        folder = work / "run" / stage
        if not (folder / "config.json").exists():
            continue

        config = training.read_config(folder)
        lowered = lower_train_step(config, jax.devices("cpu")[:1])
        cost = lowered.cost_analysis()
        counts[stage] = float(cost["flops"]) if cost else 0.0

        # Written now, because the clock may end the next count.
        write_json(work / COUNTS, counts)
    return counts


def stage_row(
    folder: pathlib.Path, *, flops: float | None, peak: float | None
) -> dict[str, str]:
    """Describes what a stage has done.

    Args:
      folder: its workdir.
      flops: operations of a step; None if not known.
      peak: operations a second of the device; None if not known.

    Returns:
      The stage's row of `table`: cells by column.
    """
    config = training.read_config(folder)
    metrics = training.read_metrics(folder)
    goodput = json.loads((folder / "goodput.json").read_text())["seconds"]

    pairs = config["batch_size"]
    losses = _values(metrics, "eval/total")
    row = {
        "stage": folder.name,
        "pairs": str(pairs),
        "steps": str(max((line["step"] for line in metrics), default=0)),
        "held-out loss": f"{losses[-1]:.3f}" if losses else "",
    }
    for name in _TIMES:
        row[f"{name}, s"] = f"{goodput[name]:.1f}"

    speeds = _values(metrics, "steps_per_second")
    if not speeds:
        return row

    # The median leaves out delays that happen once. A pair is two images.
    steps_per_second = statistics.median(speeds)
    row["step, ms"] = f"{1e3 / steps_per_second:.2f}"
    row["images/s"] = f"{2 * pairs * steps_per_second:.4g}"

    if flops:
        flops_per_second = flops * steps_per_second
        row["GFLOP a step"] = f"{flops / 1e9:.4g}"
        row["TFLOP/s"] = f"{flops_per_second / 1e12:.3g}"
        if peak:
            row["MFU, %"] = f"{100 * flops_per_second / peak:.1f}"
    return row


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Formats rows as a Markdown table.

    Args:
      rows: cells by column; those that a row lacks are empty.

    Returns:
      The table.
    """
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        cells = [row.get(column, "") for column in _COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(work: pathlib.Path, out: pathlib.Path) -> str:
    """Writes the tables of a run to OUT/report.md.

    Args:
      work: folder of the run.
      out: folder for the files that come back, perhaps with gpu.json.

    Returns:
      The text.
    """
    counts: dict[str, float] = _read_json(work / COUNTS, default={})
    figures = _read_json(out / "gpu.json", default={"machine": {}, "rows": []})
    machine = figures["machine"]

    # The device is a platform and a kind: 'gpu NVIDIA H100 80GB HBM3'.
    _, _, kind = machine.get("device", "").partition(" ")
    rows = []
    for stage in STAGES:
        folder = work / "run" / stage
        # A stage that was stopped before its first step has nothing to report.
        files = ("config.json", "metrics.jsonl", "goodput.json")
        if not all((folder / name).exists() for name in files):
            continue

        # The data sheet's peak for the precision that the stage computes in.
        dtype = training.read_config(folder)["model"]["dtype"]
        sheet = hardware.sheet(kind, dtype) if kind else None
        peak = sheet.flops if sheet else None
        rows.append(stage_row(folder, flops=counts.get(stage), peak=peak))

    machine_shown = ", ".join(f"{name} {value}" for name, value in machine.items())
    measured = timing.table([timing.Row(**row) for row in figures["rows"]])
    text = (
        f"# Ten minutes of one device\n\n{machine_shown}\n\n"
        f"## Training\n\n{table(rows)}\n\nMFU is of the data sheet's peak.\n\n"
        f"## Measurements\n\n{measured}\n"
    )
    write_text(out / "report.md", text)
    return text


def _values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Returns the values of a metric, in the order of steps.

    Those that are not finite, null in JSON, are left out.
    """
    return [line[name] for line in metrics if line.get(name) is not None]


def _read_json(path: pathlib.Path, *, default: dict[str, Any]) -> dict[str, Any]:
    """Reads a file of JSON; returns the default if there is none."""
    return json.loads(path.read_text()) if path.exists() else default
