"""`facecycle train`: a config, by name or path, with fields set as options."""

import argparse
import os
import pathlib
from typing import TYPE_CHECKING, Any

from facecycle_jax.commands import shared_options
from facecycle_jax.config_files import (
    as_command_line,
    config_names,
    for_all_stages,
    launcher_arguments,
    resolve,
)
from facecycle_jax.errors import UserError
from facecycle_jax.paths import given_path

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


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

    shared_options.add_fields(
        command,
        of="in all stages of the config, such as data.path=FRAMES, or in one, such as "
        "motion.num_steps=100",
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
      UserError: If --workdir is missing, empty or an address, there is no such config,
        or a field is none of it.
      SystemExit: With status 2 if the config cannot be read or refuses the value of a
        field, after the sentence that says why.
    """
    if arguments.workdir is not None:
        workdir = os.fspath(given_path(arguments.workdir, name="--workdir"))
    elif arguments.dry_run:
        # The launchers' entry needs one, and makes nothing of it.
        workdir = "unused"
    else:
        raise UserError(
            "--workdir is missing: name the folder of the run, which will be made."
        )

    # Only fields need to know what the config has.
    fields = arguments.set
    if fields:
        default = resolve(launcher_arguments(arguments.config, []))
        fields = for_all_stages(fields, default)

    command_line = launcher_arguments(
        arguments.config,
        fields,
        workdir=workdir,
        start_anew=arguments.start_anew,
        distributed=arguments.distributed,
    )

    # The launchers' entry defines absl flags when it is imported, which no other
    # command should have.
    from facecycle_jax import main

    with as_command_line(command_line):
        rest = main.parse(command_line)
    if arguments.dry_run:
        print(main.resolved_config())
        return 0
    return main.main(rest)


def _complete(prefix: str, **_: Any) -> list[str]:
    """Completes names of configs and, after a slash, paths."""
    folder = pathlib.Path(prefix).parent
    files = [str(path) for path in folder.glob("*.py")] if folder.is_dir() else []
    return [name for name in [*config_names(), *files] if name.startswith(prefix)]
