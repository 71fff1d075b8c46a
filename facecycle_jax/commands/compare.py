"""`facecycle compare`: methods trained on equal budgets and evaluated by one protocol.

Every (config, seed) is a run of `facecycle_jax.main` in WORKDIR/CONFIG/SEED, in a
process of its own. The same command continues what was stopped.
"""

import argparse
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from etils import epath

from facecycle_jax import training
from facecycle_jax.commands import inputs, outputs, shared_options
from facecycle_jax.errors import UserError, importing
from facecycle_jax.evaluation.comparison import DATA_SETS, ComparisonOptions
from facecycle_jax.evaluation.comparison_report import write_comparison
from facecycle_jax.evaluation.comparison_results import evaluate_all
from facecycle_jax.evaluation.options import PROBES
from facecycle_jax.evaluation.plots import figure_class
from facecycle_jax.evaluation.synthetic import PEOPLE
from facecycle_jax.training.comparison_plan import Entry, make_entry, plan_steps
from facecycle_jax.training.comparison_runs import (
    EndedEarlyError,
    Start,
    measure_speed,
    say,
    start_process,
    train_all,
)

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "compare",
        help="train methods on equal budgets and evaluate them by one protocol",
        description="Trains every config with every seed on an equal budget, evaluates "
        "all of them by the same probes, and writes comparison.md, comparison.json and "
        "curves.png into the workdir. The same command continues what was stopped.",
    )

    # What is trained, and for how long.
    command.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="names of configs (fab_net:small, face_cycle:small, ...) or paths",
    )
    command.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of all runs"
    )
    budget = command.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--images", type=int, metavar="N", help="training images that each run sees"
    )
    budget.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="minutes of updates of each run, by its speed in a short run before",
    )
    command.add_argument(
        "--seeds", default="0", metavar="0,1,2", help="of the runs (%(default)s)"
    )
    shared_options.add_fields(command, of="in each stage of all configs that has it")
    command.add_argument(
        "--data", metavar="PATH", help="training images for all: a folder of tracks"
    )

    # What they are evaluated on.
    command.add_argument("--fer2013", metavar="DIR", help="FER-2013")
    command.add_argument("--raf-db", "--raf_db", metavar="DIR", help="RAF-DB")
    command.add_argument("--lfw", metavar="DIR", help="LFW")
    command.add_argument("--pose", metavar="DIR", help="300W-LP and AFLW2000-3D")
    command.add_argument(
        "--probes",
        default=",".join(PROBES),
        metavar="A,B",
        help="of emotion (%(default)s)",
    )
    shared_options.add_epochs(command)
    command.add_argument(
        "--test-split",
        choices=("PublicTest", "PrivateTest"),
        default="PublicTest",
        help="test split of FER-2013 (%(default)s)",
    )
    shared_options.add_people_left_out(command)
    shared_options.add_limit(command)
    command.add_argument(
        "--people",
        type=int,
        default=PEOPLE,
        help="synthetic people of the head-pose probe (%(default)s)",
    )
    command.add_argument(
        "--checkpoints",
        type=int,
        default=5,
        help="checkpoints of each stage, the points of the curves (%(default)s)",
    )
    command.add_argument(
        "--untrained",
        action="store_true",
        help="evaluate random weights of every config too",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains, evaluates and writes the comparison.

    Args:
      arguments: those of `add`.

    Returns:
      0, or the exit status of the run that ended early (docs/multi_process.md).

    Raises:
      UserError: If an option, a config or a data set cannot be used.
      FileNotFoundError: If a data set is missing.
      MissingExtraError: If matplotlib or scikit-learn is not installed.
    """
    # Before hours of training.
    workdir = outputs.check_folder(arguments.workdir, name="--workdir")
    options = _options(arguments)
    seeds = _seeds(arguments.seeds)
    budget = _budget(arguments)
    data = shared_options.optional_path(arguments.data, name="--data")
    entries = [
        make_entry(config, arguments.set, data=data) for config in arguments.configs
    ]
    _check_names(entries)
    if arguments.checkpoints < 1:
        raise UserError(
            f"--checkpoints must be at least 1, got {arguments.checkpoints}."
        )

    workdir.mkdir(parents=True, exist_ok=True)
    return compare(
        entries,
        workdir,
        seeds=seeds,
        budget=budget,
        options=options,
        checkpoints=arguments.checkpoints,
        untrained=arguments.untrained,
    )


def _options(arguments: argparse.Namespace) -> ComparisonOptions:
    """Checks and collects the data and the probes."""
    figure_class()
    with importing("A comparison needs scikit-learn", extra="eval"):
        import sklearn  # noqa: F401

    sets: dict[str, str] = {}
    for field in DATA_SETS:
        option = f"--{field.replace('_', '-')}"
        path = shared_options.optional_path(getattr(arguments, field), name=option)
        if path is not None and not os.path.exists(path):
            raise FileNotFoundError(f"{option}: there is no {path}.")
        sets[field] = path or ""

    return ComparisonOptions(
        fer2013=sets["fer2013"],
        raf_db=sets["raf_db"],
        lfw=sets["lfw"],
        pose=sets["pose"],
        probes=tuple(shared_options.split_list(arguments.probes)),
        epochs=arguments.epochs,
        test_split=arguments.test_split,
        without=inputs.read_names(arguments.without),
        limit=arguments.limit,
        people=arguments.people,
    )


def _seeds(text: str) -> list[int]:
    """Reads the list of seeds."""
    parts = [part.strip() for part in text.split(",")]
    seeds = [int(part) for part in parts if part.isdecimal()]
    if len(set(seeds)) < len(parts):
        raise UserError(
            f"--seeds must be different whole numbers from 0, such as 0,1,2, "
            f"got {text!r}."
        )
    return seeds


def _budget(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the budget by its name, 'images' or 'minutes'."""
    name = "images" if arguments.images is not None else "minutes"
    value = getattr(arguments, name)
    if not value > 0 or not math.isfinite(value):
        raise UserError(f"--{name} must be above 0, got {value:g}.")
    return {name: value}


def _check_names(entries: Sequence[Entry]) -> None:
    """Refuses two configs that would share a folder."""
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise UserError(
                f"two configs have the name {entry.name}, that of {entry.config}: "
                "rename one of the files."
            )


def compare(
    entries: Sequence[Entry],
    workdir: epath.Path,
    *,
    seeds: Sequence[int],
    budget: Mapping[str, float],
    options: ComparisonOptions,
    checkpoints: int = 5,
    untrained: bool = False,
    start: Start | None = None,
) -> int:
    """Trains, evaluates and writes the comparison.

    Args:
      entries: the methods.
      workdir: folder of all runs.
      seeds: of the runs.
      budget: {'images': N} or {'minutes': M} for each run.
      options: what they are evaluated on.
      checkpoints: of each stage that are kept.
      untrained: whether to evaluate random weights too.
      start: runs a training command and returns its exit status; None starts a process.

    Returns:
      0; the status of the first run that ended in another way than by divergence; or
      that of a diverged run, without which the comparison is written.

    Raises:
      UserError: If the workdir holds a comparison of another budget.
    """
    start = start or start_process
    try:
        plan = plan_steps(
            entries,
            workdir,
            budget=budget,
            measure=functools.partial(measure_speed, start=start),
        )
        diverged = train_all(
            entries,
            workdir,
            seeds=seeds,
            plan=plan,
            checkpoints=checkpoints,
            start=start,
        )
    except EndedEarlyError as error:
        say(f"{error}; the same command continues the comparison.")
        return error.status

    found = evaluate_all(
        entries,
        workdir,
        seeds=seeds,
        plan=plan,
        options=options,
        diverged=diverged,
        untrained=untrained,
    )
    if not found:
        say("Every run diverged: there is nothing to compare.")
        return training.DIVERGED_EXIT

    text = write_comparison(
        workdir,
        found,
        budget=_describe(budget),
        settings={
            **options.settings(),
            "budget": dict(budget),
            "seeds": list(seeds),
            "configs": {entry.name: entry.config for entry in entries},
            "fields": {entry.name: list(entry.fields) for entry in entries},
            "steps": {entry.name: plan[entry.name] for entry in entries},
        },
        notes=[f"{name} of seed {seed} diverged." for name, seed in diverged],
    )
    print(text)
    say(f"Wrote comparison.md, comparison.json and curves.png in {workdir}")
    return training.DIVERGED_EXIT if diverged else 0


def _describe(budget: Mapping[str, float]) -> str:
    """Describes the budget in a sentence."""
    if "images" in budget:
        return f"Every run saw about {budget['images']:,.0f} training images."
    return (
        f"Every run was given {budget['minutes']:g} minutes of updates, by its speed "
        "in a short run before."
    )
