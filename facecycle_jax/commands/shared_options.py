"""Options that several commands have in the same words."""

import argparse
import os

from facecycle_jax.evaluation.probes.linear import LinearOptions
from facecycle_jax.paths import given_path


def optional_path(path: str | None, *, name: str) -> str | None:
    """Checks the local path of an option, and finds the home folder.

    See `given_path`.

    Args:
      path: the option's value; None if it was not given, and stays.
      name: the option, for messages.

    Returns:
      The path.

    Raises:
      UserError: If it is empty, an address or a bucket.
    """
    return None if path is None else os.fspath(given_path(path, name=name, local=True))


def split_list(text: str) -> list[str]:
    """Splits a list with commas, without empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def add_fields(command: argparse.ArgumentParser, *, of: str) -> None:
    """Adds --set.

    Args:
      command: the parser of a command.
      of: whose fields are set, for the help.
    """
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"set a field {of}; may be repeated",
    )


def add_epochs(command: argparse.ArgumentParser) -> None:
    """Adds --epochs."""
    command.add_argument(
        "--epochs",
        type=int,
        default=LinearOptions().epochs,
        help="of the linear probe; the paper's are %(default)s",
    )


def add_limit(command: argparse.ArgumentParser) -> None:
    """Adds --limit."""
    command.add_argument(
        "--limit",
        type=int,
        default=0,
        help="largest number of images or pairs of each split; 0: all",
    )


def add_people_left_out(command: argparse.ArgumentParser) -> None:
    """Adds --without."""
    command.add_argument(
        "--without",
        metavar="FILE",
        help="names, one a line: people left out of verification",
    )
