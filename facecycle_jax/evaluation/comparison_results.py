"""The evaluations of the runs of a comparison, kept in the folders of the runs."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from etils import epath

import facecycle_jax._version
from facecycle_jax.evaluation.comparison import (
    Checkpoint,
    ComparisonOptions,
    curve_of,
    evaluate_method,
    random_weights,
)
from facecycle_jax.evaluation.comparison_report import (
    UNTRAINED,
    ComparedRun,
    run_from_json,
    run_to_json,
)
from facecycle_jax.files import read_json, write_json
from facecycle_jax.inference.loading import load
from facecycle_jax.training.checkpoint_reading import FOLDER
from facecycle_jax.training.comparison_plan import Entry
from facecycle_jax.training.comparison_runs import say
from facecycle_jax.training.metrics import training_seconds

EVALUATION = "evaluation.json"


def evaluate_all(
    entries: Sequence[Entry],
    workdir: epath.Path,
    *,
    seeds: Sequence[int],
    plan: Mapping[str, Mapping[str, int]],
    options: ComparisonOptions,
    diverged: Collection[tuple[str, int]] = (),
    untrained: bool = False,
) -> list[ComparedRun]:
    """Evaluates all runs of a comparison, or reads the evaluations of an earlier start.

    Args:
      entries: the methods.
      workdir: folder of all runs.
      seeds: of the runs.
      plan: steps by stage, by name of the method.
      options: the data and the probes.
      diverged: name and seed of runs to leave out.
      untrained: whether to evaluate random weights of every method too.

    Returns:
      The runs, in the order of the methods and their seeds.

    Raises:
      UserError: If data or a checkpoint cannot be used.
      FileNotFoundError: If data are missing.
      MissingExtraError: If scikit-learn is not installed.
    """
    found = []
    for entry in entries:
        for seed in seeds:
            if (entry.name, seed) not in diverged:
                run_workdir = workdir / entry.name / str(seed)
                found.append(
                    evaluate_run(entry, seed, run_workdir, plan[entry.name], options)
                )
        if untrained:
            run_workdir = workdir / entry.name / "untrained"
            found.append(_evaluate_untrained(entry, run_workdir, options))
        # Programs of one method serve no other.
        jax.clear_caches()

    return found


def evaluate_run(
    entry: Entry,
    seed: int,
    run_workdir: epath.Path,
    steps: Mapping[str, int],
    options: ComparisonOptions,
) -> ComparedRun:
    """Evaluates a run, or reads the evaluation of an earlier start.

    Args:
      entry: the method.
      seed: of the run.
      run_workdir: workdir of the run.
      steps: by stage.
      options: the data and the probes.

    Returns:
      The run with its figures.

    Raises:
      UserError: If data or a checkpoint cannot be used.
    """
    settings = {**_settings(options), "steps": dict(steps)}
    kept = _read_evaluation(run_workdir, settings)
    if kept is not None:
        return kept

    say(f"evaluating {entry.name}, seed {seed}")
    points = []
    seen = 0
    seconds = 0.0
    for stage in entry.stages:
        folder = run_workdir / stage.name / FOLDER
        count = steps[stage.name]
        kept_steps = sorted(
            int(path.name) for path in folder.iterdir() if path.name.isdigit()
        )
        points += [
            Checkpoint(folder / str(step), seen + step * stage.images)
            for step in kept_steps
        ]
        seen += count * stage.images
        seconds += training_seconds(run_workdir / stage.name)

    last = entry.stages[-1].name
    model = load(run_workdir / last / FOLDER / str(steps[last]))
    compared = ComparedRun(
        name=entry.name,
        seed=seed,
        images=seen,
        seconds=seconds,
        result=evaluate_method(model, options),
        curve=curve_of(points, options),
    )
    _write_evaluation(run_workdir, settings, compared)
    return compared


def _evaluate_untrained(
    entry: Entry, run_workdir: epath.Path, options: ComparisonOptions
) -> ComparedRun:
    """Evaluates random weights, or reads the evaluation of an earlier start."""
    settings = _settings(options)
    kept = _read_evaluation(run_workdir, settings)
    if kept is not None:
        return kept

    say(f"evaluating random weights of {entry.name}")
    model = random_weights(entry.stages[-1].config, seed=0)
    compared = ComparedRun(
        name=f"{entry.name}{UNTRAINED}",
        seed=None,
        images=0,
        seconds=0.0,
        result=evaluate_method(model, options),
    )
    _write_evaluation(run_workdir, settings, compared)
    return compared


def _settings(options: ComparisonOptions) -> dict[str, Any]:
    """Returns what figures depend on, as JSON values.

    The version is among it, so that one table does not mix the figures of two.
    """
    return {"version": facecycle_jax._version.__version__, **options.settings()}


def _read_evaluation(
    run_workdir: epath.Path, settings: Mapping[str, Any]
) -> ComparedRun | None:
    """Reads the evaluation in a run's folder if it has the same settings."""
    path = run_workdir / EVALUATION
    if not path.exists():
        return None
    content = read_json(path)
    if content.get("settings") != json.loads(json.dumps(dict(settings))):
        return None
    return run_from_json(content["run"])


def _write_evaluation(
    run_workdir: epath.Path, settings: Mapping[str, Any], compared: ComparedRun
) -> None:
    """Writes an evaluation into a run's folder."""
    content = {"settings": dict(settings), "run": run_to_json(compared)}
    write_json(run_workdir / EVALUATION, content)
