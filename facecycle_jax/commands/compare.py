"""`facecycle compare`: methods trained on equal budgets and evaluated by one protocol.

Every (config, seed) is a run of `facecycle_jax.main` in WORKDIR/CONFIG/SEED, in a
process of its own. The same command continues what was stopped.
"""

import argparse
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from etils import epath

from facecycle_jax import training
from facecycle_jax.commands import inputs
from facecycle_jax.commands.train import launcher_arguments
from facecycle_jax.data import batch_shapes
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.evaluation.comparison import (
    DATA_SETS,
    Checkpoint,
    ComparisonOptions,
    curve_of,
    evaluate_method,
    random_weights,
)
from facecycle_jax.evaluation.comparison_report import (
    ComparedRun,
    run_from_json,
    run_to_json,
    write_comparison,
)
from facecycle_jax.evaluation.options import PROBES
from facecycle_jax.evaluation.plots import figure_class
from facecycle_jax.evaluation.probes.linear import LinearOptions
from facecycle_jax.evaluation.synthetic import PEOPLE
from facecycle_jax.files import write_whole
from facecycle_jax.inference.face_cycle import load
from facecycle_jax.training.network_loading import FOLDER
from facecycle_jax.training.run_config import FREE

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger(__name__)

PLAN = "plan.json"
EVALUATION = "evaluation.json"
# Fields that follow from the budget and the seeds.
_OWN_FIELDS = ("num_steps", "num_epochs", "seed", "stages", "method", "keep_last")
# Steps of each stage by which the speed of a method is measured.
_MEASURED_STEPS = 24
# Program that trains.
_PROGRAM = [sys.executable, "-m", "facecycle_jax.main"]

# Runs a command and returns its exit status.
Start = Callable[[Sequence[str]], int]


class Stage(NamedTuple):
    """A stage of a run.

    Attributes:
      name: its name; '' for a run without stages.
      config: its configuration.
      images: training images in an update.
      share: of the images that the run sees, a fraction.
    """

    name: str
    config: Mapping[str, Any]
    images: int
    share: float


class Entry(NamedTuple):
    """A method of the comparison.

    Attributes:
      name: of its folder and its rows.
      config: as in the command line.
      fields: changed fields, 'field=value' each.
      stages: in their order.
    """

    name: str
    config: str
    fields: tuple[str, ...]
    stages: tuple[Stage, ...]


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
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field in all stages of all configs; may be repeated",
    )
    command.add_argument(
        "--data", metavar="PATH", help="training images for all: a folder of tracks"
    )

    # What they are evaluated on.
    command.add_argument("--fer2013", default="", metavar="DIR", help="FER-2013")
    command.add_argument(
        "--raf-db", "--raf_db", default="", metavar="DIR", help="RAF-DB"
    )
    command.add_argument("--lfw", default="", metavar="DIR", help="LFW")
    command.add_argument(
        "--pose", default="", metavar="DIR", help="300W-LP and AFLW2000-3D"
    )
    command.add_argument(
        "--probes",
        default=",".join(PROBES),
        metavar="A,B",
        help="of emotion (%(default)s)",
    )
    command.add_argument(
        "--epochs",
        type=int,
        default=LinearOptions().epochs,
        help="of the linear protocol; the paper's are %(default)s",
    )
    command.add_argument(
        "--test-split",
        choices=("PublicTest", "PrivateTest"),
        default="PublicTest",
        help="test split of FER-2013 (%(default)s)",
    )
    command.add_argument(
        "--without", metavar="FILE", help="names, one a line: people left out of LFW"
    )
    command.add_argument(
        "--limit",
        type=int,
        default=0,
        help="largest number of images or pairs of each split; 0: all",
    )
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
    options = _options(arguments)
    seeds = _seeds(arguments.seeds)
    budget = _budget(arguments)
    entries = [
        make_entry(config, arguments.set, data=arguments.data)
        for config in arguments.configs
    ]
    _check_names(entries)
    if arguments.checkpoints < 1:
        raise UserError(
            f"--checkpoints must be at least 1, got {arguments.checkpoints}."
        )

    workdir = epath.Path(arguments.workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"--workdir={workdir} is a file, or lies below one: name a folder."
        ) from None

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
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "A comparison needs scikit-learn: pip install 'facecycle_jax[eval]'."
        ) from error

    for field in DATA_SETS:
        path = getattr(arguments, field)
        if path and not os.path.exists(path):
            option = field.replace("_", "-")
            raise FileNotFoundError(f"--{option}: there is no {path}.")

    return ComparisonOptions(
        fer2013=arguments.fer2013,
        raf_db=arguments.raf_db,
        lfw=arguments.lfw,
        pose=arguments.pose,
        probes=tuple(part for part in arguments.probes.split(",") if part),
        epochs=arguments.epochs,
        test_split=arguments.test_split,
        without=inputs.read_names(arguments.without),
        limit=arguments.limit,
        people=arguments.people,
    )


def _seeds(text: str) -> list[int]:
    """Reads the list of seeds."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(
            f"--seeds must be different whole numbers from 0, such as 0,1,2, "
            f"got {text!r}."
        )
    return [int(part) for part in parts]


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


def make_entry(config: str, fields: Sequence[str], *, data: str | None) -> Entry:
    """Reads a config and what its runs need.

    Args:
      config: name of a config or path of a config file, perhaps followed by ':' and its
        argument.
      fields: 'field=value' each, for every stage of the config.
      data: folder of tracks to train on, or None for the config's own.

    Returns:
      The method of the comparison.

    Raises:
      UserError: If the config or a field cannot be used.
    """
    # The entry of launchers defines absl flags when it is imported, which no other
    # command should have.
    from facecycle_jax import main

    for field in fields:
        name = field.partition("=")[0]
        if name in _OWN_FIELDS:
            raise UserError(
                f"--set {field}: {name} follows from the configs, --seeds and the "
                "budget."
            )

    # Fields come after --data, so that data.source=records can be set.
    given = list(fields)
    if data:
        given = ["data.source=folder", f"data.path={data}", *given]

    def resolve(changed: Sequence[str]) -> dict[str, Any]:
        command_line = launcher_arguments(config, changed, workdir="unused")
        flags = [part for part in command_line if not part.startswith("--workdir=")]
        return main.resolve(flags)

    # A config with stages has the fields in each of them.
    names = [""]
    plain = resolve([])
    if "stages" in plain:
        names = list(plain["stages"])
        training.check_ranges(plain)
    changed = tuple(_of_stage(name, field) for name in names for field in given)
    resolved = resolve(changed) if changed else plain
    training.check_ranges(resolved)

    configs = {name: resolved[name] if name else resolved for name in names}
    return Entry(
        name=_folder_name(config),
        config=config,
        fields=changed,
        stages=_stages(configs),
    )


def _of_stage(stage: str, field: str) -> str:
    """Puts the name of a stage, if any, before that of a field."""
    return f"{stage}.{field}" if stage else field


def _folder_name(config: str) -> str:
    """Makes the name of a folder of that of a config, as 'fab_net_small'."""
    path, _, argument = config.partition(":")
    stem = os.path.basename(path).removesuffix(".py")
    name = f"{stem}_{argument}" if argument else stem
    return re.sub(r"[^\w.-]", "_", name)


def _stages(configs: Mapping[str, Mapping[str, Any]]) -> tuple[Stage, ...]:
    """Counts the images of an update of each stage, and their shares of all images."""
    images = {}
    weights = {}
    in_steps = all(config["num_steps"] > 0 for config in configs.values())
    for name, config in configs.items():
        # [items, frames of an item, S, S, 3].
        items, frames = batch_shapes(config)["frames"].shape[:2]
        images[name] = items * frames
        # An epoch has as many items as there are tracks.
        length = config["num_steps"] * items if in_steps else config["num_epochs"]
        weights[name] = length * frames

    total = sum(weights.values())
    return tuple(
        Stage(name, config, images[name], weights[name] / total)
        for name, config in configs.items()
    )


def steps_for(stages: Sequence[Stage], *, images: float) -> dict[str, int]:
    """Computes the steps in which a run sees so many images.

    Args:
      stages: of the run.
      images: training images, over all stages.

    Returns:
      Steps by stage, at least 1 each.
    """
    return {
        stage.name: max(1, round(stage.share * images / stage.images))
        for stage in stages
    }


def images_in(
    stages: Sequence[Stage], *, minutes: float, speeds: Mapping[str, float]
) -> float:
    """Computes the images that a run sees in a given time.

    Args:
      stages: of the run.
      minutes: of updates.
      speeds: steps a second, by stage.

    Returns:
      The number of images over all stages.
    """
    # Seconds in which the run sees one image, of which each stage has its share.
    seconds = sum(stage.share / (stage.images * speeds[stage.name]) for stage in stages)
    return 60 * minutes / seconds


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
    status, plan = _plan(entries, workdir, budget, start)
    if status:
        return status

    # All of the first seed first, so that a comparison can be made early.
    diverged = []
    runs = [(entry, seed) for seed in seeds for entry in entries]
    for number, (entry, seed) in enumerate(runs, start=1):
        steps = plan[entry.name]
        place = workdir / entry.name / str(seed)
        if _finished(entry, place, steps):
            continue

        counts = " + ".join(f"{count:,}" for count in steps.values())
        _say(f"{number} of {len(runs)}: {entry.name}, seed {seed}, {counts} steps")
        command = training_command(
            entry, place, seed=seed, steps=steps, checkpoints=checkpoints
        )
        status = start(command)
        if status == training.DIVERGED_EXIT:
            diverged.append((entry.name, seed))
        elif status:
            return _stopped(entry, seed, status)

    found = []
    for entry in entries:
        for seed in seeds:
            if (entry.name, seed) not in diverged:
                place = workdir / entry.name / str(seed)
                found.append(_evaluated(entry, seed, place, plan[entry.name], options))
        if untrained:
            place = workdir / entry.name / "untrained"
            found.append(_evaluated_untrained(entry, place, options))
        # Programs of one method serve no other.
        jax.clear_caches()

    if not found:
        _say("Every run diverged: there is nothing to compare.")
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
    _say(f"Wrote comparison.md, comparison.json and curves.png in {workdir}")
    return training.DIVERGED_EXIT if diverged else 0


def _say(line: str) -> None:
    """Prints a line of progress."""
    print(f"facecycle compare: {line}", file=sys.stderr, flush=True)


def _stopped(entry: Entry, seed: int | str, status: int) -> int:
    """Reports a run that ended early, and returns its status."""
    _say(
        f"training of {entry.name}, {seed}, ended with exit status {status}; the same "
        "command continues the comparison."
    )
    return status


def _describe(budget: Mapping[str, float]) -> str:
    """Describes the budget in a sentence."""
    if "images" in budget:
        return f"Every run saw about {budget['images']:,.0f} training images."
    return (
        f"Every run was given {budget['minutes']:g} minutes of updates, by its speed "
        "in a short run before."
    )


# Training.


def _plan(
    entries: Sequence[Entry],
    workdir: epath.Path,
    budget: Mapping[str, float],
    start: Start,
) -> tuple[int, dict[str, dict[str, int]]]:
    """Decides the steps of every stage once, and keeps them in the workdir.

    Returns:
      0, or the exit status of a measurement of speed that ended early; and steps by
      stage, by name of the method.
    """
    path = workdir / PLAN
    plan: dict[str, dict[str, int]] = {}
    fields: dict[str, dict[str, Any]] = {}
    if path.exists():
        kept = _read_json(path)
        if kept.get("budget") != dict(budget):
            raise UserError(
                f"{workdir} holds a comparison of another budget, "
                f"{kept.get('budget')}: use that one to continue it, or another "
                "workdir."
            )
        plan = kept["steps"]
        fields = kept["fields"]

    for entry in entries:
        own = _fixed_fields(entry)
        _check_unchanged(entry, workdir, before=fields.get(entry.name, own), now=own)

        if "images" in budget:
            steps = steps_for(entry.stages, images=budget["images"])
        elif entry.name in plan:
            # Measured before; a second measurement would find another speed.
            steps = plan[entry.name]
        else:
            status, speeds = _measure(entry, workdir / entry.name / "speed", start)
            if status:
                return status, plan
            images = images_in(entry.stages, minutes=budget["minutes"], speeds=speeds)
            steps = steps_for(entry.stages, images=images)

        if plan.get(entry.name, steps) != steps:
            raise UserError(
                f"{workdir} holds runs of {entry.name} with {plan[entry.name]} steps, "
                f"and its config now gives {steps}: use another workdir."
            )
        plan[entry.name] = steps
        fields[entry.name] = own
        content = {"budget": dict(budget), "steps": plan, "fields": fields}
        _write_json(path, content)

    return 0, plan


def _fixed_fields(entry: Entry) -> dict[str, Any]:
    """Lists the fields that may not change between starts, as JSON values by name."""
    fixed = {}
    for stage in entry.stages:
        for name, value in training.flatten(stage.config).items():
            # Lengths, intervals and places may change, as in a single run.
            if name not in FREE and name not in _OWN_FIELDS:
                fixed[_of_stage(stage.name, name)] = value
    return dict(json.loads(json.dumps(fixed)))


def _check_unchanged(
    entry: Entry,
    workdir: epath.Path,
    *,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> None:
    """Refuses a config that is not that of the runs in the workdir.

    A finished run is not started again, so nothing else would compare them.
    """
    changed = [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in sorted(set(before) & set(now))
        if before[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"{workdir} holds runs of {entry.name} with another configuration: "
            f"{'; '.join(changed)}. Use the old values, or another workdir."
        )


def _measure(
    entry: Entry, place: epath.Path, start: Start
) -> tuple[int, dict[str, float]]:
    """Measures the speed of every stage by a short run.

    Returns:
      The exit status, and steps a second by stage.
    """
    steps = {stage.name: _MEASURED_STEPS for stage in entry.stages}
    if not _finished(entry, place, steps):
        _say(f"measuring the speed of {entry.name}")
        command = training_command(entry, place, seed=0, steps=steps, checkpoints=1)
        status = start(command)
        if status:
            return _stopped(entry, "the measurement of its speed", status), {}

    speeds = {}
    for stage in entry.stages:
        seconds = training.training_seconds(place / stage.name)
        if not seconds > 0:
            raise UserError(
                f"the metrics in {place / stage.name} have no speed: remove that "
                "folder, and start again."
            )
        speeds[stage.name] = _MEASURED_STEPS / seconds
    return 0, speeds


def training_command(
    entry: Entry,
    place: epath.Path,
    *,
    seed: int,
    steps: Mapping[str, int],
    checkpoints: int,
) -> list[str]:
    """Builds the command that trains one run.

    Args:
      entry: the method.
      place: workdir of the run.
      seed: of the run.
      steps: by stage.
      checkpoints: to keep of each stage, at even distances.

    Returns:
      The command line.
    """
    fields = []
    for stage in entry.stages:
        count = steps[stage.name]
        every = -(-count // checkpoints)
        own = {
            "seed": seed,
            "num_steps": count,
            "checkpoint_every": every,
            # The last one may follow at a shorter distance.
            "keep_last": checkpoints + 1,
            "log_every": max(1, min(stage.config["log_every"], count // 3)),
            "panel_every": count,
            "tensorboard": False,
        }
        fields += [_of_stage(stage.name, f"{name}={own[name]}") for name in own]

    # Fields of the user come last, so that they win.
    arguments = launcher_arguments(
        entry.config, [*fields, *entry.fields], workdir=os.fspath(place)
    )
    return [*_PROGRAM, *arguments[1:]]


def start_process(command: Sequence[str]) -> int:
    """Runs a command to its end.

    SIGTERM is passed on, so that the run saves its state before it ends.

    Args:
      command: the command line.

    Returns:
      The exit status, 128 + N after death by signal N.
    """
    child = subprocess.Popen(list(command))

    def pass_on(number: int, frame: Any) -> None:
        del number, frame
        child.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        status = child.wait()
    except BaseException:
        # An interrupt from the keyboard has reached the child too.
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    return status if status >= 0 else 128 - status


def _newest_step(place: epath.Path) -> int:
    """Finds the step of the newest checkpoint of a stage, or -1."""
    if not (place / FOLDER).exists():
        return -1
    try:
        return int(training.find_checkpoint(place).name)
    except FileNotFoundError:
        return -1


def _finished(entry: Entry, place: epath.Path, steps: Mapping[str, int]) -> bool:
    """Whether every stage of a run has reached its last step.

    Raises UserError if one has gone beyond.
    """
    done = True
    for stage in entry.stages:
        step = _newest_step(place / stage.name)
        if step > steps[stage.name]:
            raise UserError(
                f"{place / stage.name} is at step {step}, beyond the "
                f"{steps[stage.name]} of this comparison: use another workdir."
            )
        done = done and step == steps[stage.name]
    return done


# Evaluation.


def _evaluated(
    entry: Entry,
    seed: int,
    place: epath.Path,
    steps: Mapping[str, int],
    options: ComparisonOptions,
) -> ComparedRun:
    """Evaluates a run, or reads the evaluation of an earlier start."""
    settings = {**options.settings(), "steps": dict(steps)}
    kept = _kept_evaluation(place, settings)
    if kept is not None:
        return kept

    _say(f"evaluating {entry.name}, seed {seed}")
    points = []
    seen = 0
    seconds = 0.0
    for stage in entry.stages:
        folder = place / stage.name / FOLDER
        count = steps[stage.name]
        kept_steps = sorted(
            int(path.name) for path in folder.iterdir() if path.name.isdigit()
        )
        points += [
            Checkpoint(folder / str(step), seen + step * stage.images)
            for step in kept_steps
        ]
        seen += count * stage.images
        seconds += training.training_seconds(place / stage.name)

    last = entry.stages[-1].name
    model = load(place / last / FOLDER / str(steps[last]))
    compared = ComparedRun(
        name=entry.name,
        seed=seed,
        images=seen,
        seconds=seconds,
        result=evaluate_method(model, options),
        curve=curve_of(points, options),
    )
    _keep_evaluation(place, settings, compared)
    return compared


def _evaluated_untrained(
    entry: Entry, place: epath.Path, options: ComparisonOptions
) -> ComparedRun:
    """Evaluates random weights, or reads the evaluation of an earlier start."""
    settings = options.settings()
    kept = _kept_evaluation(place, settings)
    if kept is not None:
        return kept

    _say(f"evaluating random weights of {entry.name}")
    model = random_weights(entry.stages[-1].config, seed=0)
    compared = ComparedRun(
        name=f"{entry.name}, random weights",
        seed=None,
        images=0,
        seconds=0.0,
        result=evaluate_method(model, options),
    )
    _keep_evaluation(place, settings, compared)
    return compared


def _kept_evaluation(
    place: epath.Path, settings: Mapping[str, Any]
) -> ComparedRun | None:
    """Reads the evaluation in a run's folder if it has the same settings."""
    path = place / EVALUATION
    if not path.exists():
        return None
    content = _read_json(path)
    if content.get("settings") != json.loads(json.dumps(dict(settings))):
        return None
    return run_from_json(content["run"])


def _keep_evaluation(
    place: epath.Path, settings: Mapping[str, Any], compared: ComparedRun
) -> None:
    """Writes an evaluation into a run's folder."""
    content = {"settings": dict(settings), "run": run_to_json(compared)}
    _write_json(place / EVALUATION, content)


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Reads a file that this command has written."""
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is broken ({error}): remove it.") from None


def _write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Writes JSON under another name, then renames it."""
    write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())
