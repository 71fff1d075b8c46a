"""The report of a comparison of methods: a table, its numbers and curves.

A folder gets comparison.md, comparison.json and curves.png.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

import facecycle_jax._version
from facecycle_jax.evaluation.comparison import (
    AUTHORS,
    COMMON,
    COMPONENTS,
    HEAD_POSE,
)
from facecycle_jax.evaluation.published import PUBLISHED
from facecycle_jax.files import write_json, write_text
from facecycle_jax.viz.curves import curves

# Columns that published accuracies belong to, by task.
_PUBLISHED_COLUMNS = {
    "fer2013": {"accuracy %": "linear protocol %"},
    "raf-db": {"accuracy %": "linear protocol %"},
    "lfw": {"accuracy %": "cosine %"},
}


# What follows a method's name in the name of its random weights.
UNTRAINED = ", random weights"


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run and its evaluation.

    Attributes:
      name: of the method and its config; runs of one name differ in their seeds.
      seed: of the training; None for random weights.
      images: training images that it saw, counted anew whenever they are seen again.
      seconds: of updates, without compilation and evaluations; NaN if not measured.
      result: as returned by `evaluate_method`.
      curve: as returned by `curve_of`; empty for random weights.
    """

    name: str
    seed: int | None
    images: int
    seconds: float
    result: Mapping[str, Any]
    curve: Sequence[tuple[int, float]] = ()


class Statistic(NamedTuple):
    """A figure over seeds.

    Attributes:
      mean: over the seeds.
      standard_error: of the mean, their standard deviation (with n - 1) divided by
        sqrt(n); NaN for one seed.
      seeds: their number, n.
    """

    mean: float
    standard_error: float
    seeds: int

    def cell(self, digits: int = 2) -> str:
        """Formats the figure for a table."""
        if math.isnan(self.mean):
            return ""
        text = f"{self.mean:,.{digits}f}"
        if math.isnan(self.standard_error):
            return text
        return f"{text} ± {self.standard_error:,.{digits}f}"


def statistic(values: Sequence[float]) -> Statistic:
    """Computes the mean and its standard error.

    Args:
      values: one for each seed, at least one.

    Returns:
      The figure.
    """
    count = len(values)
    error = float("nan")
    if count > 1:
        error = float(np.std(values, ddof=1) / math.sqrt(count))
    return Statistic(float(np.mean(values)), error, count)


# Figures by column, by feature, by name of the runs, by task.
Summary = dict[str, dict[str, dict[str, dict[str, Statistic]]]]


def summarise(runs: Sequence[ComparedRun]) -> Summary:
    """Computes every figure over the seeds of each method.

    Args:
      runs: in the order of the table.

    Returns:
      Figures by task, name, feature and column.
    """
    # All values of a figure, in nested dicts of one order.
    collected: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
    for run in runs:
        for task, features in run.result["tasks"].items():
            rows = collected.setdefault(task, {}).setdefault(run.name, {})
            for feature, figures in features.items():
                cells = rows.setdefault(feature, {})
                for column, value in figures.items():
                    cells.setdefault(column, []).append(value)

    summary: Summary = {}
    for task, names in collected.items():
        summary[task] = {
            name: {
                feature: {column: statistic(values) for column, values in cells.items()}
                for feature, cells in features.items()
            }
            for name, features in names.items()
        }
    return summary


def comparison_markdown(
    runs: Sequence[ComparedRun], *, budget: str, notes: Sequence[str] = ()
) -> str:
    """Formats the comparison as Markdown, with published rows below this one's.

    Args:
      runs: in the order of the table.
      budget: what every run was given, a sentence.
      notes: further sentences for the reader.

    Returns:
      The text of comparison.md.
    """
    summary = summarise(runs)
    lines = ["# Comparison of methods", "", f"{budget} {_PROTOCOL}", ""]
    lines += [*_runs_table(runs), ""]

    for task, names in summary.items():
        lines += [f"## {task}", "", *_task_table(task, names, runs), ""]

    if any(run.curve for run in runs):
        lines += ["![Head pose against images seen](curves.png)", "", _CURVES, ""]
    all_notes = [*notes, *_notes(runs)]
    if all_notes:
        lines += ["## Notes", "", *(f"- {note}" for note in all_notes), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


_PROTOCOL = (
    "Figures are means over training seeds with their standard errors; a single seed "
    "has none. Each run is evaluated at its last step: no step was chosen. The feature "
    f"`{AUTHORS}` is the one that the authors of the method use. The feature "
    f"`{COMMON}` is the last convolutional map averaged to 2 x 2 areas. Logistic and "
    "ridge regression (errors of angles) run to convergence, with penalties chosen on "
    f"training images. Columns of `PCA {COMPONENTS}` use features reduced to "
    f"{COMPONENTS} numbers by a PCA fitted on training images, which also centres "
    "them. Published rows are the paper's, of other training data, sizes and lengths "
    "of training."
)
_CURVES = (
    "curves.png: mean absolute error of yaw, pitch and roll on synthetic people not "
    f"trained on, by ridge regression on the feature `{AUTHORS}`, at the checkpoints "
    "of each run, averaged over its seeds, from random weights on where they were "
    "evaluated. Held-out losses of different methods cannot "
    "be compared. No checkpoint was chosen by this curve."
)


def _by_name(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Groups runs by name, in their order."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def _runs_table(runs: Sequence[ComparedRun]) -> list[str]:
    """Formats what was trained as the lines of a table."""
    header = (
        "method",
        "seeds",
        "images seen",
        "seconds of training",
        "parameters",
        "of the encoder",
    )
    rows = []
    for name, group in _by_name(runs).items():
        seeds = [str(run.seed) for run in group if run.seed is not None]
        parameters = group[0].result["parameters"]
        rows.append(
            [
                name,
                " ".join(seeds),
                f"{group[0].images:,}",
                statistic([run.seconds for run in group]).cell(digits=0),
                f"{parameters['all']:,}",
                f"{parameters['encoder']:,}",
            ]
        )
    return _table(header, rows, text_columns=2)


def _task_table(
    task: str,
    names: Mapping[str, Mapping[str, Mapping[str, Statistic]]],
    runs: Sequence[ComparedRun],
) -> list[str]:
    """Formats the figures of a task and the published ones as the lines of a table."""
    groups = _by_name(runs)

    # A published row has a cell in the column of its protocol.
    new_names = _PUBLISHED_COLUMNS.get(task, {})
    published = {
        method: {
            new_names.get(column, column): value for column, value in cells.items()
        }
        for method, cells in PUBLISHED.get(task, {}).items()
    }

    columns: dict[str, None] = {}
    for features in names.values():
        for cells in features.values():
            columns |= dict.fromkeys(cells)
    for published_cells in published.values():
        columns |= dict.fromkeys(published_cells)

    rows = []
    for name, features in names.items():
        numbers = groups[name][0].result["numbers"][task]
        for feature, cells in features.items():
            values = [_cell(cells.get(column), len(groups[name])) for column in columns]
            rows.append(
                [name, feature, "this comparison", f"{numbers[feature]:,}", *values]
            )
    for method, published_cells in published.items():
        values = [
            f"{published_cells[column]:.2f}" if column in published_cells else ""
            for column in columns
        ]
        rows.append([method, "", "published", "", *values])

    header = ("method", "feature", "origin", "numbers", *columns)
    return _table(header, rows, text_columns=3)


def _cell(found: Statistic | None, runs: int) -> str:
    """Formats a figure, with the number of seeds where some have none."""
    if found is None:
        return ""
    if found.seeds < runs:
        return f"{found.cell()} ({found.seeds} of {runs} seeds)"
    return found.cell()


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int
) -> list[str]:
    """Formats a table whose first columns are text and whose others are numbers."""
    alignment = "---|" * text_columns + "---:|" * (len(header) - text_columns)
    lines = [f"| {' | '.join(header)} |", f"|{alignment}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Lists the notes of the evaluations; those that all runs have stand alone."""
    found: dict[str, list[str]] = {}
    for run in runs:
        who = run.name if run.seed is None else f"{run.name} of seed {run.seed}"
        for note in run.result["notes"]:
            found.setdefault(note, []).append(who)

    return [
        note if len(who) == len(runs) else f"{', '.join(who)}: {note}"
        for note, who in found.items()
    ]


def _draw_curves(path: epath.Path, runs: Sequence[ComparedRun]) -> None:
    """Draws the mean curve over the seeds of each name.

    It begins with random weights where they were evaluated.
    """
    groups = _by_name(runs)
    series = {}
    for name, group in groups.items():
        values: dict[int, list[float]] = {}
        untrained = groups.get(f"{name}{UNTRAINED}", ())
        if untrained:
            values[0] = [_head_pose(untrained[0])] * len(group)
        for run in group:
            for images, degrees in run.curve:
                values.setdefault(images, []).append(degrees)

        # Points that all seeds have.
        common = sorted(x for x, found in values.items() if len(found) == len(group))
        if common:
            series[name] = (common, [float(np.mean(values[x])) for x in common])

    if series:
        curves(
            path,
            series,
            title="synthetic faces: head pose in the authors' features",
            x_label="images seen",
            y_label="mean absolute error, degrees",
        )


def _head_pose(run: ComparedRun) -> float:
    """Reads the error that the curves show, in degrees, out of an evaluation."""
    return float(run.result["tasks"]["synthetic"][AUTHORS][HEAD_POSE])


def write_comparison(
    folder: epath.PathLike,
    runs: Sequence[ComparedRun],
    *,
    budget: str,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """Writes comparison.md, comparison.json and curves.png, each whole or not at all.

    Files of an earlier comparison in the folder are replaced.

    Args:
      folder: local or in the cloud (gs://).
      runs: in the order of the table.
      budget: what every run was given, a sentence.
      settings: all else that the figures depend on, as JSON values.
      notes: further sentences for the reader.

    Returns:
      The text of comparison.md.

    Raises:
      MissingExtraError: If matplotlib is not installed.
    """
    folder = epath.Path(folder)
    text = comparison_markdown(runs, budget=budget, notes=notes)

    summary = {
        task: {
            name: {
                feature: {column: _json(found) for column, found in cells.items()}
                for feature, cells in features.items()
            }
            for name, features in names.items()
        }
        for task, names in summarise(runs).items()
    }
    content = {
        "version": facecycle_jax._version.__version__,
        "budget": budget,
        "settings": dict(settings),
        "runs": [run_to_json(run) for run in runs],
        "summary": summary,
        "published": {task: PUBLISHED[task] for task in summary if task in PUBLISHED},
        "notes": [*notes, *_notes(runs)],
    }

    _draw_curves(folder / "curves.png", runs)
    write_json(folder / "comparison.json", content)
    write_text(folder / "comparison.md", text)
    return text


def _json(found: Statistic) -> dict[str, Any]:
    """Returns a figure as JSON values, in which NaN is null."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in found._asdict().items()
    }


def run_to_json(run: ComparedRun) -> dict[str, Any]:
    """Returns a run as JSON values, in which NaN is null.

    Args:
      run: the run.

    Returns:
      Its fields by name.
    """
    values = dataclasses.asdict(run)
    if math.isnan(run.seconds):
        values["seconds"] = None
    return values


def run_from_json(values: Mapping[str, Any]) -> ComparedRun:
    """Reads what `run_to_json` returned.

    Args:
      values: fields by name.

    Returns:
      The run.
    """
    seconds = values["seconds"]
    return ComparedRun(
        name=values["name"],
        seed=values["seed"],
        images=values["images"],
        seconds=float("nan") if seconds is None else seconds,
        result=values["result"],
        curve=[(int(x), float(y)) for x, y in values["curve"]],
    )
