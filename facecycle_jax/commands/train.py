"""`facecycle train`: a config, by name or path, with fields set as options."""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.traverse_util

from facecycle_jax import configs
from facecycle_jax.errors import UserError

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

_FOLDER = pathlib.Path(configs.__file__).parent
# Modules that configs share, and that describe no run by themselves.
_SHARED = ("__init__", "base", "peer_base")


def config_names() -> list[str]:
    """Returns the names of the bundled configs, sorted."""
    stems = [path.stem for path in _FOLDER.glob("*.py")]
    return sorted(stem for stem in stems if stem not in _SHARED)


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "train", help="train what a config describes, or continue a run"
    )
    config = command.add_argument(
        "config",
        metavar="CONFIG",
        help=f"name of a config ({', '.join(config_names())}) or path of a config file",
    )
    # argcomplete, where it is installed, looks for this attribute.
    config.completer = _complete  # type: ignore[attr-defined]

    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the config, such as data.path=FRAMES, in all its stages; "
        "STAGE.FIELD=VALUE sets it in one; may be repeated",
    )
    command.add_argument(
        "--workdir", metavar="DIR", help="directory of the run, local or gs://"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and stop"
    )
    command.add_argument("--start-anew", action="store_true", help="see docs/train.md")
    command.add_argument(
        "--distributed", action="store_true", help="one of several processes"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains.

    Args:
      arguments: those of `add`.

    Returns:
      An exit status of `python -m facecycle_jax.main` (docs/multi_process.md).

    Raises:
      UserError: If the config, a field or --workdir is wrong or missing.
    """
    if arguments.workdir is None and not arguments.dry_run:
        raise UserError(
            "--workdir is missing: name the folder of the run, which will be made."
        )

    # The launchers' entry defines absl flags when it is imported, which no other
    # command should have.
    from facecycle_jax import main

    default = main.resolve(
        ["facecycle train", f"--config={find_config(arguments.config)}"]
    )
    command_line = launcher_arguments(
        arguments.config,
        for_all_stages(arguments.set, default),
        workdir=arguments.workdir or "unused",
        start_anew=arguments.start_anew,
        distributed=arguments.distributed,
    )

    # The library of configs reads changed fields from sys.argv, whatever is parsed.
    own = sys.argv
    sys.argv = command_line
    try:
        rest = main.parse(command_line)
    finally:
        sys.argv = own
    if arguments.dry_run:
        print(main.resolved_config())
        return 0
    return main.main(rest)


def launcher_arguments(
    config: str,
    fields: Sequence[str],
    *,
    workdir: str,
    start_anew: bool = False,
    distributed: bool = False,
) -> list[str]:
    """Translates the command into that of `python -m facecycle_jax.main`.

    Args:
      config: name of a config or path of a config file, perhaps followed by ':' and its
        argument.
      fields: 'field=value' each.
      workdir: directory of the run.
      start_anew: the flag of that name.
      distributed: the flag of that name.

    Returns:
      The command line, with the program's name first.

    Raises:
      UserError: If there is no such config, or a field has no value.
    """
    command_line = [
        "facecycle train",
        f"--config={find_config(config)}",
        f"--workdir={workdir}",
    ]

    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise UserError(
                f"--set {field}: write it as FIELD=VALUE, such as "
                "--set data.path=FRAMES."
            )
        command_line.append(f"--config.{name}={value}")

    if start_anew:
        command_line.append("--start_anew")
    if distributed:
        command_line.append("--distributed")
    return command_line


def for_all_stages(fields: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Sets fields of no stage in every stage that has them.

    Args:
      fields: 'field=value' each, such as 'data.path=FRAMES'.
      config: the config as nested dicts; `stages` names its stages, if it has any.

    Returns:
      'field=value' each, such as 'motion.data.path=FRAMES' and
      'identity.data.path=FRAMES'. A field that the config itself has, or that nothing
      has, stays as it is.
    """
    result = []
    for field in fields:
        name = field.partition("=")[0]
        stages = [
            stage
            for stage in config.get("stages", ())
            if name in flax.traverse_util.flatten_dict(config[stage], sep=".")
        ]

        if name.partition(".")[0] in config or not stages:
            result.append(field)
        else:
            result += [f"{stage}.{field}" for stage in stages]
    return result


def find_config(name: str) -> str:
    """Finds a config by its name, or by its path, which wins where both exist.

    Args:
      name: 'motion_cycle' or 'my/config.py', perhaps followed by ':' and the config's
        argument.

    Returns:
      The path, with the argument.

    Raises:
      UserError: If there is neither.
    """
    path, colon, argument = name.partition(":")

    if pathlib.Path(path).is_file():
        return name
    if path in config_names():
        return f"{_FOLDER / path}.py{colon}{argument}"

    known = ", ".join(config_names())
    raise UserError(f"there is no config {path!r}: name a file, or one of {known}.")


def _complete(prefix: str, **_: Any) -> list[str]:
    """Completes names of configs and, after a slash, paths."""
    folder = pathlib.Path(prefix).parent
    files = [str(path) for path in folder.glob("*.py")] if folder.is_dir() else []
    return [name for name in [*config_names(), *files] if name.startswith(prefix)]
