"""An evaluation as a folder.

Results.json, results.md with published rows beside one's own, and plots.
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
    """What one row of a table can do."""

    def figures(self) -> dict[str, Any]:
        """Returns all figures, for JSON."""

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""


class Evaluation(NamedTuple):
    """What one task gave.

    Attributes:
      task: its name.
      protocol: how it was judged, in words, for the reader of the table.
      rows: figures by name of the features, or of what was measured.
      details: of each row, what was chosen and how (penalties, thresholds); JSON
        values.
      classes: names of the classes; empty where there are none.
      counts: pictures or pairs of each split.
      warnings: what the reader must know before comparing, such as counts that are not
        the official ones.
      settings: seed, crop and whatever else the figures depend on; JSON values.
      panels: pictures by file name without its ending, uint8 [H, W, 3].
    """

    task: str
    protocol: str
    rows: Mapping[str, Any]
    details: Mapping[str, Any]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any] = {}
    panels: Mapping[str, np.ndarray] = {}


def check_new(folder: epath.PathLike) -> None:
    """Checks, before anything is computed, that a report can be written.

    Args:
      folder: the report's, local or in the cloud (gs://).

    Raises:
      FileExistsError: if it exists.
      MissingExtraError: if matplotlib is not installed.
    """
    figure_class()
    files.check_new(folder)


def markdown(evaluation: Evaluation) -> str:
    """Lays out the table, the published rows beside ours.

    Args:
      evaluation: the figures.

    Returns:
      Markdown.
    """
    counts = ", ".join(f"{name} {count:,}" for name, count in evaluation.counts.items())
    lines = [f"# {evaluation.task}", "", f"{evaluation.protocol} Counts: {counts}.", ""]
    for warning in evaluation.warnings:
        lines += [f"**Note:** {warning}", ""]
    lines += [*_table(evaluation), ""] if evaluation.rows else []
    for name in evaluation.panels:
        lines += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(evaluation: Evaluation) -> list[str]:
    """Lays out the rows, this run's and the published ones."""
    ours = {name: row.cells() for name, row in evaluation.rows.items()}
    published = {
        name: {column: f"{value:.2f}" for column, value in figures.items()}
        for name, figures in PUBLISHED.get(evaluation.task, {}).items()
    }
    columns = list(dict.fromkeys(column for cells in ours.values() for column in cells))
    origin = ["origin"] if published else []
    lines = [
        f"| {' | '.join([' ', *columns, *origin])} |",
        f"|---|{''.join('---:|' for _ in columns)}{'---|' * len(origin)}",
    ]
    for origin_text, rows in (("this run", ours), ("published", published)):
        for name, cells in rows.items():
            values = [
                name,
                *(cells.get(column, "") for column in columns),
                *([origin_text] if origin else []),
            ]
            lines.append(f"| {' | '.join(values)} |")
    return lines


def write_report(evaluation: Evaluation, folder: epath.PathLike) -> None:
    """Writes the report's folder; it appears whole or not at all.

    Args:
      evaluation: the figures.
      folder: to make, local or in the cloud (gs://).

    Raises:
      FileExistsError: if it exists.
      MissingExtraError: if matplotlib is not installed.
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
    # Details of the whole run have no row.
    content["details"] = {k: v for k, v in evaluation.details.items() if k not in rows}

    with files.new_folder(folder, last="results.json") as partial:
        text = json.dumps(content, indent=1) + "\n"
        (partial / "results.json").write_text(text, encoding="utf-8")
        (partial / "results.md").write_text(markdown(evaluation), encoding="utf-8")
        plot(evaluation.task, evaluation.rows, evaluation.classes, partial)
        for name, picture in evaluation.panels.items():
            Image.fromarray(picture).save(partial / f"{name}.png")
