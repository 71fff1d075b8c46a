"""An evaluation as a folder: results.json, results.md with published rows beside one's own, and plots."""

import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.probes.classification import Classification
from facecycle_jax.probes.published import PUBLISHED
from facecycle_jax.probes.verification import Verification


class Evaluation(NamedTuple):
    """What one task gave.

    Attributes:
      task: 'lfw', 'cplfw', 'fer2013' or 'raf-db'.
      protocol: how it was judged, in words, for the reader of the table.
      rows: figures by name of the features.
      details: of each row, what was chosen and how (penalties, thresholds); JSON values.
      classes: names of the classes; empty for verification.
      counts: pictures or pairs of each split.
      warnings: what the reader must know before comparing, such as counts that are not the official ones.
    """

    task: str
    protocol: str
    rows: Mapping[str, Verification | Classification]
    details: Mapping[str, Any]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]


def check_new(folder: str | os.PathLike[str]) -> None:
    """Raises FileExistsError, before anything is computed, if the report's folder exists."""
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already; choose another --out or remove it.")


def markdown(evaluation: Evaluation) -> str:
    """Lays out the table, the published rows beside ours.

    Args:
      evaluation: the figures.

    Returns:
      Markdown.
    """
    counts = ", ".join(f"{name} {count:,}" for name, count in evaluation.counts.items())
    lines = [f"# {evaluation.task}", "", f"{evaluation.protocol} Counts: {counts}.", ""]
    lines += [f"**Note:** {warning}" for warning in evaluation.warnings]
    if evaluation.warnings:
        lines.append("")
    if evaluation.classes:
        lines += [
            "| features | accuracy % | mean per class % | macro F1 % | origin |",
            "|---|---:|---:|---:|---|",
        ]
    else:
        lines += [
            "| features | accuracy % | AUC | EER % | TAR at FAR 0.01 % | origin |",
            "|---|---:|---:|---:|---:|---|",
        ]
    for name, row in evaluation.rows.items():
        if isinstance(row, Classification):
            values = (
                f"{_percent(row.accuracy)} | {_percent(row.mean_class_accuracy)} | {_percent(row.macro_f1)}"
            )
        else:
            accuracy = f"{_percent(row.accuracy)} ± {_percent(row.standard_error)}"
            tar = row.tar_at_far[0.01]
            values = f"{accuracy} | {row.auc:.4f} | {_percent(row.eer)} | {_percent(tar)}"
        lines.append(f"| {name} | {values} | this run |")
    blank = " | " * (2 if evaluation.classes else 3)
    lines += [
        f"| {name} | {value:.2f} |{blank} | published |"
        for name, value in PUBLISHED.get(evaluation.task, {}).items()
    ]
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> None:
    """Writes the report's folder; it appears whole or not at all.

    Args:
      evaluation: the figures.
      folder: to make.

    Raises:
      FileExistsError: if it exists.
      ImportError: if matplotlib is not installed.
    """
    check_new(folder)
    path = pathlib.Path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir()
        rows = {
            name: row.figures() | {"details": evaluation.details.get(name, {})}
            for name, row in evaluation.rows.items()
        }
        content = {**evaluation._asdict(), "rows": rows, "published": PUBLISHED.get(evaluation.task, {})}
        del content["details"]
        (part / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (part / "results.md").write_text(markdown(evaluation), encoding="utf-8")
        _plot(evaluation, part)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _plot(evaluation: Evaluation, folder: pathlib.Path) -> None:
    """Draws the ROC curves of all rows, or a confusion matrix for each."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Reports need matplotlib: pip install 'facecycle_jax[eval]'.") from error
    if not evaluation.classes:
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        for name, row in evaluation.rows.items():
            if isinstance(row, Verification):
                axes.plot(row.false_accept, row.true_accept, label=f"{name} (AUC {row.auc:.3f})")
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.set(xlabel="false accept rate", ylabel="true accept rate", title=f"{evaluation.task}: ROC")
        axes.legend(loc="lower right")
        figure.savefig(folder / "roc.png", dpi=120)
        return
    for name, row in evaluation.rows.items():
        if isinstance(row, Classification):
            figure = _confusion(row, evaluation.classes, f"{evaluation.task}: {name}")
            figure.savefig(folder / f"confusion_{name.replace(' ', '_')}.png", dpi=120)


def _confusion(row: Classification, classes: tuple[str, ...], title: str) -> Any:
    """Draws a confusion matrix in percent of the true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot()
    share = 100 * row.confusion / np.maximum(row.confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for y, x in np.ndindex(share.shape):
        colour = "white" if share[y, x] > 55 else "black"
        axes.text(x, y, f"{share[y, x]:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}, % of the true class")
    return figure
