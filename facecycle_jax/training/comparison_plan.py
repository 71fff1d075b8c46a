"""What a comparison of methods trains: its configs, and the steps of each on a budget.

The steps are decided once and kept in the workdir, so that the same command continues
what was stopped.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from facecycle_jax import config_files
from facecycle_jax.data import batch_shapes
from facecycle_jax.errors import UserError, shorten
from facecycle_jax.files import read_json, write_json
from facecycle_jax.training.ranges import check_ranges
from facecycle_jax.training.run_config import FREE, changed_names, flatten

PLAN = "plan.json"
# Fields that follow from the budget and the seeds.
_DECIDED = (
    "num_steps",
    "num_epochs",
    "max_minutes",
    "seed",
    "stages",
    "method",
    "keep_last",
)


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


# Steps a second of a method by stage, measured in a folder.
Measure = Callable[[Entry, epath.Path], dict[str, float]]


def make_entry(config: str, fields: Sequence[str], *, data: str | None) -> Entry:
    """Reads a config and what its runs need.

    Args:
      config: name of a config or path of a config file, perhaps followed by ':' and its
        argument.
      fields: 'field=value' each, for every stage of the config that has the field.
      data: folder of tracks to train on, or None for the config's own.

    Returns:
      The method of the comparison.

    Raises:
      UserError: If the config or a field cannot be used, or only some of the stages
        have a length in steps.
    """
    # Fields come after --data, so that data.source=records can be set.
    given = list(fields)
    if data:
        given = ["data.source=folder", f"data.path={data}", *given]

    def resolve(changed: Sequence[str]) -> dict[str, Any]:
        return config_files.resolve(config_files.launcher_arguments(config, changed))

    # A config with stages gets a field in each of them that has it.
    names = [""]
    plain = resolve([])
    if "stages" in plain:
        names = list(plain["stages"])
        check_ranges(plain)

    decided = {of_stage(stage, name) for name in _DECIDED for stage in ("", *names)}
    for field in fields:
        name = field.partition("=")[0]
        if name in decided:
            raise UserError(
                f"--set {field}: {name} follows from the configs, --seeds and the "
                "budget."
            )

    changed = tuple(config_files.for_all_stages(given, plain))
    resolved = resolve(changed) if changed else plain
    check_ranges(resolved)

    configs = {name: resolved[name] if name else resolved for name in names}
    return Entry(
        name=_folder_name(config),
        config=config,
        fields=changed,
        stages=_stages(config, configs),
    )


def of_stage(stage: str, field: str) -> str:
    """Puts the name of a stage, if any, before that of a field.

    Args:
      stage: its name; '' for a run without stages.
      field: its name, perhaps with '=' and a value.

    Returns:
      The field of the run's config.
    """
    return f"{stage}.{field}" if stage else field


def _folder_name(config: str) -> str:
    """Makes the name of a folder of that of a config, as 'fab_net_small'."""
    path, _, argument = config.partition(":")
    stem = os.path.basename(path).removesuffix(".py")
    name = f"{stem}_{argument}" if argument else stem
    return re.sub(r"[^\w.-]", "_", name)


def _stages(
    config_name: str, configs: Mapping[str, Mapping[str, Any]]
) -> tuple[Stage, ...]:
    """Counts the images of an update of each stage, and their shares of all images."""
    images = {}
    weights = {}

    # Steps and epochs cannot be compared before the number of tracks is known.
    of_steps = [name for name, config in configs.items() if config["num_steps"] > 0]
    of_epochs = [name for name in configs if name not in of_steps]
    if of_steps and of_epochs:
        raise UserError(
            f"{config_name}: the length of {', '.join(of_steps)} is in num_steps and "
            f"that of {', '.join(of_epochs)} in num_epochs; to be compared, a config "
            "must have the lengths of all stages in the same field."
        )

    in_steps = bool(of_steps)
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


def plan_steps(
    entries: Sequence[Entry],
    workdir: epath.Path,
    *,
    budget: Mapping[str, float],
    measure: Measure,
) -> dict[str, dict[str, int]]:
    """Decides the steps of every stage once, and keeps them in the workdir.

    Args:
      entries: the methods.
      workdir: folder of all runs.
      budget: {'images': N} or {'minutes': M} for each run.
      measure: measures the steps a second of a method, by stage, in a short run in a
        folder; used for minutes only.

    Returns:
      Steps by stage, by name of the method.

    Raises:
      UserError: If the workdir holds a comparison of another budget, runs of another
        configuration, or a broken plan.
    """
    path = workdir / PLAN
    plan: dict[str, dict[str, int]] = {}
    fields: dict[str, dict[str, Any]] = {}
    if path.exists():
        kept = _read_plan(path)
        if kept["budget"] != dict(budget):
            raise UserError(
                f"{workdir} holds a comparison of another budget, {kept['budget']}: "
                "use that one to continue it, or another workdir."
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
            speeds = measure(entry, workdir / entry.name / "speed")
            images = images_in(entry.stages, minutes=budget["minutes"], speeds=speeds)
            steps = steps_for(entry.stages, images=images)

        if plan.get(entry.name, steps) != steps:
            raise UserError(
                f"{workdir} holds runs of {entry.name} with {plan[entry.name]} steps, "
                f"and its config now gives {steps}: use another workdir."
            )
        plan[entry.name] = steps
        fields[entry.name] = own
        write_json(path, {"budget": dict(budget), "steps": plan, "fields": fields})

    return plan


def _read_plan(path: epath.Path) -> dict[str, Any]:
    """Reads what `plan_steps` has written.

    Raises UserError if it is something else.
    """
    kept = read_json(path)

    for part in ("budget", "steps", "fields"):
        if not isinstance(kept.get(part), dict):
            raise UserError(f"{path} is broken (it has no {part!r}): remove it.")

    # Of `steps` and `fields`, every method has values by name.
    for part in ("steps", "fields"):
        for name, values in kept[part].items():
            is_sound = isinstance(values, dict)
            if part == "steps" and is_sound:
                is_sound = all(type(count) is int for count in values.values())
            if not is_sound:
                raise UserError(
                    f"{path} is broken ({part!r} of {name} is "
                    f"{shorten(values)}): remove it."
                )

    return kept


def _fixed_fields(entry: Entry) -> dict[str, Any]:
    """Lists the fields that may not change between starts, as JSON values by name."""
    fixed = {}
    for stage in entry.stages:
        for name, value in flatten(stage.config).items():
            # Lengths, intervals and paths may change, as in a single run.
            if name not in FREE and name not in _DECIDED:
                fixed[of_stage(stage.name, name)] = value
    return dict(json.loads(json.dumps(fixed)))


def _check_unchanged(
    entry: Entry,
    workdir: epath.Path,
    *,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> None:
    """Refuses a config that is not that of the runs in the workdir.

    A finished run is left alone, so nothing else would compare them.
    """
    changed = [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in changed_names(before, now)
    ]
    if changed:
        raise UserError(
            f"{workdir} holds runs of {entry.name} with another configuration: "
            f"{'; '.join(changed)}. Use the old values, or another workdir."
        )
