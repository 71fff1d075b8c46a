"""Results in a model folder: the figures of evaluation reports that a card shows."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from facecycle_jax.errors import UserError, shorten

# Of each task on a published data set, the set's name and the figures that a card
# shows: their place in results.json, and the Hub's name of the metric.
_FIGURES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "lfw": ("LFW", {"accuracy": "accuracy", "auc": "roc_auc", "eer": "eer"}),
    "cplfw": ("CPLFW", {"accuracy": "accuracy", "auc": "roc_auc", "eer": "eer"}),
    "fer2013": ("FER-2013", {"accuracy": "accuracy", "macro_f1": "f1"}),
    "raf-db": ("RAF-DB", {"accuracy": "accuracy", "macro_f1": "f1"}),
    "pose": ("AFLW2000-3D", {"errors": "mae"}),
    "lights": ("Extended Yale B", {"rank_1": "rank_1", "auc": "roc_auc"}),
}
_TEXTS = ("task", "dataset", "features", "metric", "protocol")
# Bytes; a report's results.json has some hundred kB at most.
_MAX_REPORT = 64 << 20


def read_report(folder: epath.PathLike, *, source: str) -> list[dict[str, Any]]:
    """Reads the figures of a report of `facecycle evaluate`.

    Args:
      folder: the report, local or in the cloud.
      source: where the exported weights come from, in the words of the model folder.

    Returns:
      A record for each figure of the model: task, dataset, features, metric, protocol
      (texts) and value (rates as fractions, errors in degrees).

    Raises:
      FileNotFoundError: If there is no report.
      UserError: If it is damaged, has no figures of a published data set, or is of
        another model.
    """
    path = epath.Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no report of `facecycle evaluate`: it has no {path.name}."
        )

    # A report is a file of the user's, so any field may be missing or of another type.
    try:
        with path.open("rb") as file:
            report = json.loads(file.read(_MAX_REPORT))
        task = report["task"]
        protocol = report["protocol"]
        evaluated = report["settings"]["model"]
        rows = dict(report["rows"])
        for name in report["settings"]["baselines"]:
            rows.pop(name, None)
        found = evaluated["info"]["source"] if evaluated else "no model"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no report of this version ({shorten(str(error))}); evaluate "
            "again."
        ) from None

    if found != source:
        raise UserError(
            f"{folder} evaluates {shorten(found, 200)}, and the model is {source}."
        )
    if task not in _FIGURES:
        raise UserError(
            f"{folder} is of the task {shorten(task)}; cards show the tasks "
            f"{', '.join(_FIGURES)}."
        )

    dataset, figures = _FIGURES[task]
    results = []
    for features, row in rows.items():
        for place, metric in figures.items():
            for name, value in _values(row.get(place), metric):
                results.append(
                    {
                        "task": task,
                        "dataset": dataset,
                        "features": features,
                        "metric": name,
                        "value": value,
                        "protocol": protocol,
                    }
                )

    check_results(results)
    return results


def _values(value: Any, metric: str) -> list[tuple[str, Any]]:
    """Lists one figure, or one for each angle, with the names of their metrics."""
    if isinstance(value, Mapping):
        return [(f"{metric}_{angle}", error) for angle, error in value.items()]
    return [] if value is None else [(metric, value)]


def check_results(results: Any) -> None:
    """Checks the records of a model folder.

    Args:
      results: the field `results` of config.json.

    Raises:
      UserError: If it is no list of records, or a record has a wrong field.
    """
    if type(results) is not list:
        raise UserError("results is not a list.")

    for record in results:
        if type(record) is not dict or set(record) != {*_TEXTS, "value"}:
            raise UserError(f"a result's fields are not {', '.join(_TEXTS)} and value.")
        value = record["value"]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UserError(f"a result's value is {shorten(value)}, not a number.")
        for name in _TEXTS:
            if type(record[name]) is not str:
                raise UserError(f"a result's {name} is {shorten(record[name])}.")
