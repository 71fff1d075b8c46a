"""Results in a model folder: the figures of evaluation reports that a card shows."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from facecycle_jax.errors import UserError, shorten

# Of each task on a published data set, the set's name and the figures that a card
# shows: their field of a row in results.json, and the Hub's name of the metric.
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
      (texts) and value (rates as fractions, errors in degrees). The protocol states a
      limit of images and people left out.

    Raises:
      FileNotFoundError: If there is no report.
      UserError: If it is damaged or of an earlier version, has no figures of the model
        on a published data set, or reports another model.
    """
    path = epath.Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a report of `facecycle evaluate`: it has no {path.name}."
        )

    # A report is a file of the user's, so any field may be missing or of another type.
    try:
        with path.open("rb") as file:
            report = json.loads(file.read(_MAX_REPORT))
        task = report["task"]
        evaluated = report["settings"]["model"]
        found = evaluated["info"]["source"] if evaluated else "no model"
        protocol = _protocol(report)
        rows = _rows_of_model(report)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a report of this version ({shorten(str(error))}); evaluate "
            "again."
        ) from None

    if found != source:
        raise UserError(
            f"{folder} evaluates {shorten(found, 200)}, and the model is {source}."
        )
    if type(task) is not str or task not in _FIGURES:
        raise UserError(
            f"{folder} reports the task {shorten(task)}; cards show the tasks "
            f"{', '.join(_FIGURES)}."
        )

    dataset, figures = _FIGURES[task]
    results = []
    for features, row in rows.items():
        for field, metric in figures.items():
            for name, value in _values(row.get(field), metric):
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
    if not results:
        raise UserError(f"{folder} has no figures of the model that a card shows.")

    try:
        check_results(results)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return results


def _protocol(report: Mapping[str, Any]) -> str:
    """Describes what figures depend on; any exception means a damaged report."""
    text = report["protocol"]
    limit = report["settings"]["limit"]
    left_out = report["settings"]["people_left_out"]
    if (type(text), type(limit), type(left_out)) != (str, int, int):
        raise TypeError("protocol, limit or people_left_out has another type")

    if limit:
        text += f" Limited to {limit} images or pairs of each split."
    if left_out:
        text += f" Without pairs that show one of {left_out} people trained on."
    return text


def _rows_of_model(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Finds the rows of the model; any exception means a damaged report."""
    if "model_rows" not in report:
        raise ValueError("it does not name the rows of the model")

    rows = {}
    for name in report["model_rows"]:
        rows[name] = report["rows"][name]
        if type(rows[name]) is not dict:
            raise TypeError(f"row {name} holds no figures by name")
    return rows


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
      UserError: If it is not a list of records, or a record has a wrong field.
    """
    if type(results) is not list:
        raise UserError("results is not a list.")

    for record in results:
        if type(record) is not dict or set(record) != {*_TEXTS, "value"}:
            raise UserError(f"a result's fields are not {', '.join(_TEXTS)} and value.")

        # Whole numbers may be too large for a float. NaN is not below any bound.
        value = record["value"]
        is_number = type(value) in (int, float)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise UserError(f"a result's value is {shorten(value)}, not a number.")
        for name in _TEXTS:
            if type(record[name]) is not str:
                raise UserError(f"a result's {name} is {shorten(record[name])}.")


def check_distinct(results: list[dict[str, Any]]) -> None:
    """Checks that no two records differ in nothing but their value.

    Args:
      results: records of a model folder.

    Raises:
      UserError: If two do, so that a reader could not tell them apart.
    """
    seen = set()
    for record in results:
        key = tuple(record[name] for name in _TEXTS)
        if key in seen:
            raise UserError(
                f"the results have two figures {record['metric']} of "
                f"{record['features']} on {record['dataset']} by the same protocol: "
                "leave out one of the reports."
            )
        seen.add(key)


def dataset_labels(results: list[dict[str, Any]]) -> list[str]:
    """Names the data set and, where a set has several, the protocol of each record.

    Args:
      results: records of a model folder.

    Returns:
      The set's name for each record, followed by a number if figures of the set were
      measured by several protocols: 'LFW' or 'LFW (2)'.
    """
    protocols: dict[str, list[str]] = {}
    for record in results:
        of_set = protocols.setdefault(record["dataset"], [])
        if record["protocol"] not in of_set:
            of_set.append(record["protocol"])

    labels = []
    for record in results:
        of_set = protocols[record["dataset"]]
        number = of_set.index(record["protocol"]) + 1
        suffix = f" ({number})" if len(of_set) > 1 else ""
        labels.append(f"{record['dataset']}{suffix}")
    return labels
