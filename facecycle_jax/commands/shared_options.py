"""Options that several commands have in the same words."""

import argparse

from facecycle_jax.evaluation.probes.linear import LinearOptions


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
