"""Reports of evaluations, written as folders.

A folder holds results.json, results.md with published rows below this run's, and plots.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath
from PIL import Image

from facecycle_jax import files
from facecycle_jax.evaluation.plots import figure_class, plot
from facecycle_jax.evaluation.published import PUBLISHED


class Row(Protocol):
    """A row of the table."""

    def figures(self) -> dict[str, Any]:
        """Returns all figures, for JSON."""

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""


class Evaluation(NamedTuple):
    """The result of one task.

    Attributes:
      task: its name.
      protocol: description of the protocol for the reader of the table.
      rows: figures by name of the features, or of the measured quantity.
      details: by row, what was chosen and how (penalties, thresholds), as JSON values.
        Other names concern the whole evaluation.
      classes: names of the classes, empty if there are none.
      counts: images or pairs of each split.
      warnings: what the reader must know before comparing, such as counts that are not
        the official ones.
      settings: seed, crop and all else that the figures depend on, as JSON values.
      panels: images uint8 [H, W, 3] by file name without its ending.
      model_rows: names of the rows that are features of the model, and neither
        baselines nor references. Empty for tasks without features.
    """

    task: str
    protocol: str
    rows: Mapping[str, Row]
    details: Mapping[str, Any]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any] = {}
    panels: Mapping[str, np.ndarray] = {}
    model_rows: tuple[str, ...] = ()


def check_new(folder: epath.PathLike) -> None:
    """Checks that a report can be written, before anything is computed.

    Args:
      folder: folder of the report, local or in the cloud (gs://).

    Raises:
      FileExistsError: If the folder exists.
      MissingExtraError: If matplotlib is not installed.
    """
    figure_class()
    files.check_new(folder)


def markdown(evaluation: Evaluation) -> str:
    """Formats the report as Markdown, with published rows below this run's.

    Args:
      evaluation: the evaluation.

    Returns:
      The text of results.md.
    """
    counts = ", ".join(f"{name} {count:,}" for name, count in evaluation.counts.items())
    lines = [f"# {evaluation.task}", "", f"{evaluation.protocol} Counts: {counts}.", ""]

    for warning in evaluation.warnings:
        lines += [f"**Note:** {warning}", ""]
    if evaluation.rows:
        lines += [*_table(evaluation), ""]
    for name in evaluation.panels:
        lines += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(evaluation: Evaluation) -> list[str]:
    """Formats the rows of this run and the published ones as lines."""
    ours = {name: row.cells() for name, row in evaluation.rows.items()}
    published = {
        name: {column: f"{value:.2f}" for column, value in figures.items()}
        for name, figures in PUBLISHED.get(evaluation.task, {}).items()
    }

    # Columns in the order of their first row. Published columns are among them.
    columns: dict[str, None] = {}
    for cells in ours.values():
        columns |= dict.fromkeys(cells)

    # The origin of a row is stated only where there are published rows.
    header = [" ", *columns]
    alignment = "---|" + "---:|" * len(columns)
    if published:
        header.append("origin")
        alignment += "---|"
    lines = [f"| {' | '.join(header)} |", f"|{alignment}"]

    for origin, rows in (("this run", ours), ("published", published)):
        for name, cells in rows.items():
            values = [name, *(cells.get(column, "") for column in columns)]
            if published:
                values.append(origin)
            lines.append(f"| {' | '.join(values)} |")
    return lines


def write_report(evaluation: Evaluation, folder: epath.PathLike) -> None:
    """Writes the folder of a report, which appears complete or not at all.

    Args:
      evaluation: the evaluation.
      folder: folder to create, local or in the cloud (gs://).

    Raises:
      FileExistsError: If the folder exists.
      MissingExtraError: If matplotlib is not installed.
    """
    check_new(folder)

    rows = {
        name: row.figures() | {"details": evaluation.details.get(name, {})}
        for name, row in evaluation.rows.items()
    }
    content = {
        **evaluation._asdict(),
        "rows": rows,
        "published": PUBLISHED.get(evaluation.task, {}),
    }
    content["panels"] = [f"{name}.png" for name in evaluation.panels]
    # Details of a row stand in the row. Those of the whole run remain here.
    content["details"] = {
        name: value for name, value in evaluation.details.items() if name not in rows
    }

    with files.new_folder(folder, last="results.json") as partial:
        text = json.dumps(content, indent=1) + "\n"
        (partial / "results.json").write_text(text, encoding="utf-8")
        files.write_text(partial / "results.md", markdown(evaluation))
        plot(evaluation.task, evaluation.rows, evaluation.classes, partial)
        for name, panel in evaluation.panels.items():
            Image.fromarray(panel).save(partial / f"{name}.png")
