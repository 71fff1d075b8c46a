"""The configuration and the data of a run, which its workdir keeps.

They are compared when the run is resumed.
"""

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

import flax.traverse_util
import jax
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import read_json, write_json
from facecycle_jax.training.processes import wait_for_all

log = logging.getLogger(__name__)

FILE_NAME = "config.json"
# Numbers and digests of the data, see `data.Loader.fingerprint`.
DATA_NAME = "fingerprint.json"
# Fields that may change between starts. They move the end of a run, its logs and
# evaluations, or the path of its data, but do not change the updates; `check_config`
# knows the exceptions.
FREE = frozenset(
    {
        "num_epochs", "num_steps", "max_minutes", "log_every", "eval_every",
        "eval_batches", "panel_every", "panel_rows", "checkpoint_every", "keep_last",
        "max_nonfinite", "tensorboard", "init_from", "init_widen", "fsdp", "remat",
        "data.path", "data.backend", "data.memory_gb", "probe.task", "probe.path",
        "probe.limit",
        "profile_steps",
    }
)  # fmt: skip

# Paths, which may differ between the machines of a job. Their content must not.
_PATHS = ("init_from", "loss.vgg", "loss.resnet", "data.path", "probe.path")


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested dicts to {'a.b': value}; tuples become lists, as in JSON.

    Args:
      config: nested dicts with names as keys.

    Returns:
      Values by dotted name.
    """
    flat = flax.traverse_util.flatten_dict(dict(config), sep=".")
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flat.items()
    }


def shared_fields(config: Mapping[str, Any]) -> dict[str, str]:
    """Lists what all processes of a job must have in common.

    Args:
      config: a configuration, also one with `stages`.

    Returns:
      Values as JSON by 'config.' and the field, without the paths.
    """
    shared = {}
    for name, value in flatten(config).items():
        # The fields of stages have the stage's name before theirs.
        is_path = any(f".{name}".endswith(f".{path}") for path in _PATHS)
        if not is_path:
            shared[f"config.{name}"] = json.dumps(value)
    return shared


def check_config(
    config: Mapping[str, Any],
    workdir: epath.Path,
    *,
    resuming: bool,
    follows_evaluations: bool = False,
) -> None:
    """Compares a configuration with the one the run was started with.

    Args:
      config: the configuration of this start.
      workdir: directory of the run.
      resuming: whether there is a checkpoint to continue from; if not, anything may
        change.
      follows_evaluations: whether evaluations change the updates of the method.

    Raises:
      UserError: If fields have changed, naming each of them with both values.
    """
    path = workdir / FILE_NAME
    if resuming and path.exists():
        now = flatten(config)
        free = FREE - _lengths_that_count(now)
        if follows_evaluations:
            free -= {"eval_every", "eval_batches"}
        _compare(_read_flat(path), now, workdir, free=free)


def check_data(
    described: Mapping[str, str], workdir: epath.Path, *, resuming: bool
) -> None:
    """Compares the data with those the run was started with.

    With other data, people who were held out could be trained on.

    Args:
      described: what describes the data, by name.
      workdir: directory of the run.
      resuming: whether there is a checkpoint to continue from; if not, anything may
        change.

    Raises:
      UserError: If the data have changed, naming what is different.
    """
    path = workdir / DATA_NAME
    if resuming and path.exists():
        before = read_json(path)
        changed = [
            f"{name} were {before[name]} and are {described[name]}"
            for name in changed_names(before, described)
        ]
        if changed:
            raise UserError(
                f"{workdir} holds a run on other data: {'; '.join(changed)}. Bring "
                "the data back to continue it, or train on in another workdir with "
                f"--set init_from={workdir}."
            )


def keep_run(
    config: Mapping[str, Any], described: Mapping[str, str], workdir: epath.Path
) -> None:
    """Writes what later starts are compared with, once this one was compared.

    Args:
      config: the configuration of this start.
      described: what describes its data, by name.
      workdir: directory of the run.
    """
    # All processes compare before one of them replaces the files.
    wait_for_all("run_compared")
    if jax.process_index():
        return

    write_json(workdir / FILE_NAME, dict(sorted(flatten(config).items())))
    write_json(workdir / DATA_NAME, dict(sorted(described.items())))


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists what has another value, of the names that both mappings have, sorted."""
    both = set(before) & set(now)
    return sorted(name for name in both if before[name] != now[name])


def _lengths_that_count(flat: Mapping[str, Any]) -> set[str]:
    """Returns the fields of a run's length that stretch its schedule."""
    lengths = ("schedule_length_epochs", "schedule_length_steps")
    stretched = any(flat.get(f"optimiser.{name}") for name in lengths)
    return {"num_epochs", "num_steps"} if stretched else set()


def _compare(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    workdir: epath.Path,
    *,
    free: Collection[str],
) -> None:
    """Raises UserError if fields have changed that are not free to."""
    # A field that is new, or was removed, has nothing to be compared with.
    unknown = sorted(set(now) ^ set(before))
    if unknown:
        log.warning(
            "config.json and this config do not both have: %s.", ", ".join(unknown)
        )

    changed = [
        f"config.{name} was {before[name]!r} and is {now[name]!r}"
        for name in changed_names(before, now)
        if name not in free
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}. "
            "Use the old values to continue it, or another workdir to start anew."
        )


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
    """Reads the configuration that a run was last started with.

    Args:
      workdir: directory of the run.

    Returns:
      Nested dicts.

    Raises:
      FileNotFoundError: If the directory holds no config.json.
      UserError: If that is not a JSON object.
    """
    path = epath.Path(workdir) / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"no {FILE_NAME} in {workdir}: it is not the workdir of a run."
        )

    # Not flax's `unflatten_dict`, which does not name a field that is broken.
    nested: dict[str, Any] = {}
    for name, value in _read_flat(path).items():
        *parents, leaf = name.split(".")
        target = nested
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(
                    f"{path} is broken: {parent} is both a value and a block of fields."
                )
        target[leaf] = value

    return nested


def _read_flat(path: epath.Path) -> dict[str, Any]:
    """Reads the fields of a config.json by their dotted names."""
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is broken ({error}).") from error
