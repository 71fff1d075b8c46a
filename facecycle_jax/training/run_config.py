"""The configuration a run was started with, kept beside its checkpoints and compared on resume."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.training.processes import wait_for_all

log = logging.getLogger(__name__)

FILE_NAME = "config.json"
# What may change between starts: it moves the end, the watching or the place, not the
# training.
FREE = frozenset(
    {
        "num_epochs", "num_steps", "log_every", "eval_every", "eval_batches", "panel_every",
        "panel_rows", "checkpoint_every", "keep_last", "max_nonfinite", "tensorboard", "init_from",
        "fsdp", "remat", "data.path", "data.backend", "data.memory_gb",
        "probe.task", "probe.path", "probe.limit",
    }
)  # fmt: skip
# Where things are may differ between the machines of a job; what is there must not.
_PLACES = ("init_from", "loss.vgg", "data.path", "probe.path")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to {'a.b': value}.

    Tuples become lists, as JSON has it.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def shared_fields(config: Mapping[str, Any]) -> dict[str, str]:
    """Lists what all processes of a job must have in common.

    Args:
      config: a configuration, also one with `stages`.

    Returns:
      Values as JSON by 'config.' and the field, without the paths.
    """
    return {
        f"config.{name}": json.dumps(value)
        for name, value in flatten(config).items()
        if not any(f".{name}".endswith(f".{place}") for place in _PLACES)
    }


def check_config(
    config: Mapping[str, Any], workdir: epath.Path, *, resuming: bool
) -> None:
    """Compares a configuration with the one the run was started with, then stores it.

    Args:
      config: the configuration of this start.
      workdir: directory of the run.
      resuming: whether there is a checkpoint to continue from; if not, anything may
        change.

    Raises:
      ValueError: naming every changed field with both values.
    """
    path = workdir / FILE_NAME
    now = flatten(config)
    if resuming and path.exists():
        before = _read_flat(path)
        # A field one of the versions does not know cannot be compared.
        unknown = sorted(set(now) ^ set(before))
        if unknown:
            log.warning(
                "config.json and this config do not both have: %s.", ", ".join(unknown)
            )
        changed = [
            f"config.{name} was {before[name]!r} and is {now[name]!r}"
            for name in sorted(set(now) & set(before))
            if name not in FREE and now[name] != before[name]
        ]
        if changed:
            raise UserError(
                f"{workdir} holds a run with another configuration: {'; '.join(changed)}. Use the "
                "old values to continue it, or another workdir to start anew."
            )
    # Every process compares with what was there before one replaces it.
    wait_for_all("config_compared")
    if jax.process_index() == 0:
        write_whole(path, (json.dumps(now, indent=1, sort_keys=True) + "\n").encode())


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
    """Reads the configuration a run was last started with.

    Args:
      workdir: directory of the run.

    Returns:
      Nested dicts.

    Raises:
      FileNotFoundError: if the directory holds no config.json.
      ValueError: if that is no JSON object.
    """
    path = epath.Path(workdir) / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"no {FILE_NAME} in {workdir}: it is not the workdir of a run."
        )
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
