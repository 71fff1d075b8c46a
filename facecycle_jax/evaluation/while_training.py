"""Evaluation of a model while it is trained, on a small data set.

The figures become curves of the training run.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.faces import FEWEST_FACES
from facecycle_jax.evaluation.judges.face_figures import FaceFigures
from facecycle_jax.evaluation.judges.networks import dlib_judge
from facecycle_jax.evaluation.options import FEATURES, TASKS, EvaluationOptions
from facecycle_jax.evaluation.probes.classification import Classification
from facecycle_jax.evaluation.probes.code_probes import FEWEST_PEOPLE
from facecycle_jax.evaluation.probes.lights import LightFigures
from facecycle_jax.evaluation.probes.pose import PoseErrors
from facecycle_jax.evaluation.probes.verification import Verification
from facecycle_jax.evaluation.quantity import Quantity
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.evaluation.synthetic import PEOPLE
from facecycle_jax.evaluation.tasks import evaluate
from facecycle_jax.inference.loading import model_from_state
from facecycle_jax.methods import PEERS


def probe_while_training(
    config: Mapping[str, Any], trees: Mapping[str, Any]
) -> dict[str, float]:
    """Runs the evaluation that a training config requests.

    Args:
      config: of the run. `probe.task`, `probe.path` and `probe.limit` select the
        evaluation, see configs/base.py. By default there is none.
      trees: networks by name.

    Returns:
      Figures by name, empty if `probe.task` is not set.

    Raises:
      UserError: See `evaluate`.
      FileNotFoundError: If data are missing.
    """
    block = config.get("probe") or {}
    if not block.get("task"):
        return {}

    loaded = model_from_state(config, trees)

    # Synthetic faces are rendered at every evaluation, so their number has a limit.
    limit = block["limit"]
    if block["task"] == "synthetic":
        limit = min(limit or PEOPLE, PEOPLE)
    result = evaluate(
        block["task"], block["path"], model=loaded, limit=limit, seed=config["seed"]
    )
    return headlines(result)


def check_probe(config: Mapping[str, Any]) -> None:
    """Checks the probe of a config before a run starts.

    Otherwise the run would end at its first evaluation.

    Args:
      config: of the run. With `stages`, the config of each stage is checked.

    Raises:
      UserError: If the task is unknown or needs networks that the stage does not have,
        or parameters are distributed over several processes.
      FileNotFoundError: If the data set is missing.
      MissingExtraError: If the task needs dlib, and it is not installed.
    """
    for stage in config.get("stages") or ():
        # Missing ones are reported by `training.check_ranges`.
        if stage in config:
            check_probe(config[stage])

    block = config.get("probe") or {}
    task = block.get("task")
    path = block.get("path")
    if not task:
        return

    known = [name for name in TASKS if name != "gallery"]
    if task not in known:
        raise UserError(
            f"probe.task must be one of {', '.join(known)}, or '' for none, "
            f"got {task!r}."
        )
    if task != "synthetic" and not os.path.exists(path or ""):
        raise FileNotFoundError(
            f"probe.path: there is no {path!r}, which probe.task={task} needs."
        )
    _check_networks(config, task)
    limit = block.get("limit", 0)
    fewest = {"synthetic": FEWEST_PEOPLE, "faces": FEWEST_FACES}.get(task, 0)
    if 0 < limit < fewest:
        raise UserError(
            f"probe.limit must be 0 or at least {fewest} people for "
            f"probe.task={task}, got {limit}."
        )
    # The options check the other values.
    EvaluationOptions(task=task, limit=limit, seed=config.get("seed", 0))
    if task == "faces":
        dlib_judge()

    if config["fsdp"] and jax.process_count() > 1:
        raise UserError(
            "probe.task needs whole parameters in each process: "
            "set fsdp or probe.task to none."
        )


def _check_networks(config: Mapping[str, Any], task: str) -> None:
    """Raises UserError if a stage does not have the networks that a task evaluates."""
    method = config.get("method")
    draws = config.get("loss", {}).get("generator", True)

    allowed = tuple(TASKS)
    if method in PEERS:
        # They make no faces.
        allowed = (*FEATURES, "synthetic")
    elif not draws:
        # The encoder of motion has features; that of identity alone is not a model.
        allowed = tuple(FEATURES) if method == "motion_cycle" else ()

    if task not in allowed:
        reason = "" if method in PEERS else " with loss.generator=False"
        raise UserError(
            f"probe.task={task} needs networks that {method}{reason} does not have: "
            f"use {'one of ' + ', '.join(allowed) if allowed else 'none'}."
        )


def headlines(evaluation: Evaluation) -> dict[str, float]:
    """Selects one or two figures of each row for curves.

    Args:
      evaluation: of any task.

    Returns:
      Figures by 'row' or 'row/figure'. Rates are fractions.
    """
    found: dict[str, float] = {}
    for name, row in evaluation.rows.items():
        key = name.replace(" ", "_")
        if isinstance(row, Classification):
            found[f"{key}/accuracy"] = row.accuracy
        elif isinstance(row, Verification):
            found |= {f"{key}/accuracy": row.accuracy, f"{key}/auc": row.auc}
        elif isinstance(row, PoseErrors):
            found[f"{key}/degrees"] = sum(row.errors) / 3
        elif isinstance(row, LightFigures):
            found[f"{key}/rank_1"] = row.rank_1
        elif isinstance(row, FaceFigures) and row.identity is not None:
            found[f"{key}/rank_1"] = row.identity.rank_1
        elif isinstance(row, Quantity) and row.model is not None:
            found[key] = row.model.value
    return found
