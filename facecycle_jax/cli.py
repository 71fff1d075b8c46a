# PYTHON_ARGCOMPLETE_OK
"""The `facecycle` command.

Exit status:
  0: done.
  1: done except for some images, each named.
  2: a wrong argument or file, reported in one sentence.
  70: a defect of the package, with its stack trace.
  130: interrupted.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from facecycle_jax import compilation_cache
from facecycle_jax.commands import (
    compare,
    demo,
    evaluate,
    frame,
    images,
    interpolate,
    prepare,
    push,
    train,
    translate,
    weights,
)
from facecycle_jax.devices import split_cpu
from facecycle_jax.errors import DEFECT_EXIT, UserError
from facecycle_jax.inference.runner import BATCH_SIZE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facecycle", description="FaceCycle in JAX.")
    commands = parser.add_subparsers(dest="command", required=True)
    for family in (
        train,
        translate,
        images,
        interpolate,
        demo,
        prepare,
        frame,
        evaluate,
        compare,
        weights,
        push,
    ):
        family.add(commands)
    return parser


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell's request for completions, if argcomplete is installed."""
    if "_ARGCOMPLETE" not in os.environ:
        return

    try:
        import argcomplete
    except ImportError:
        return

    argcomplete.autocomplete(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: command line without the program's name; None uses that of the
        process.

    Returns:
      The exit status.
    """
    parser = _parser()
    complete(parser)
    parsed = parser.parse_args(arguments)

    # With arguments of the process, the process is this command's own, so the CPU may
    # be split and programs be kept. Training does both in its own way.
    if arguments is None and parsed.command != "train":
        split_cpu({"batch_size": BATCH_SIZE})
        compilation_cache.enable(compilation_cache.default_directory())

    try:
        return parsed.run(parsed) or 0
    except (UserError, OSError) as error:
        if os.environ.get("FACECYCLE_TRACEBACK"):
            traceback.print_exc()
        print(f"facecycle: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("facecycle: interrupted; what is written is whole.", file=sys.stderr)
        return 130
    except Exception:
        # A defect. Status 1 means "done except for some images", so a defect needs a
        # status of its own.
        traceback.print_exc()
        return DEFECT_EXIT


if __name__ == "__main__":
    sys.exit(main())
