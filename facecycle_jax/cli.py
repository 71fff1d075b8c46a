# PYTHON_ARGCOMPLETE_OK
"""The `facecycle` command.

Exit status:
  0: done.
  1: done except for some images, each named or listed in a named file; of `prepare`
    also if a split is empty.
  2: a wrong argument or file, reported in one sentence; none of the images could be
    used; of `verify`, records differ from their checksums.
  70: a defect of the package, with its stack trace.
  130: interrupted.
  143: ended by SIGTERM.

`train` has the statuses of `facecycle_jax.main`, and `compare` those of a run that
ended early (docs/multi_process.md).
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from facecycle_jax import compilation_cache
from facecycle_jax._version import __version__
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
from facecycle_jax.errors import DEFECT_EXIT, MISTAKE_EXIT, UserError, shorten
from facecycle_jax.files import is_of_storage
from facecycle_jax.inference.runner import BATCH_SIZE

_INTERRUPTED_EXIT = 130
_TERMINATED_EXIT = 128 + signal.SIGTERM
# Characters of an error of storage in the cloud that are printed.
_LONGEST_REASON = 200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facecycle", description="FaceCycle in JAX.")
    parser.add_argument(
        "--version", action="version", version=f"facecycle {__version__}"
    )
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


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received. What is being done ends as after an interrupt."""


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that no half-written file is left."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def unwind(number: int, frame: Any) -> None:
        del frame
        # A second one ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print_any_name() -> None:
    """Lets names of files that are not UTF-8 be printed, byte for byte."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")


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

    # Signals, CPU devices and the compilation cache are set up only where the process
    # is this command's own, not for callers of `main`. Training sets them up itself.
    is_own = arguments is None and parsed.command != "train"
    try:
        if not is_own:
            return parsed.run(parsed) or 0

        _print_any_name()
        split_cpu({"batch_size": BATCH_SIZE})
        compilation_cache.enable(compilation_cache.default_directory())
        with _sigterm_unwinds():
            return parsed.run(parsed) or 0
    except (Exception, KeyboardInterrupt) as error:
        return _status(error)


def _status(error: BaseException) -> int:
    """Reports the error that ends a command, and returns its exit status."""
    if isinstance(error, _Terminated):
        print("facecycle: terminated; what is written is whole.", file=sys.stderr)
        return _TERMINATED_EXIT
    if isinstance(error, KeyboardInterrupt):
        print("facecycle: interrupted; what is written is whole.", file=sys.stderr)
        return _INTERRUPTED_EXIT

    if isinstance(error, UserError) or is_of_storage(error):
        if os.environ.get("FACECYCLE_TRACEBACK"):
            traceback.print_exception(error)
        sentence = str(error)
        if not isinstance(error, UserError | OSError):
            # TensorFlow adds lines about its own code.
            reason = shorten(" ".join(sentence.split()), _LONGEST_REASON)
            sentence = f"a file in the cloud cannot be read or written: {reason}."
        print(f"facecycle: {sentence}", file=sys.stderr)
        return MISTAKE_EXIT

    # A defect. Status 1 means "done except for some images", so a defect needs a status
    # of its own.
    traceback.print_exception(error)
    return DEFECT_EXIT


if __name__ == "__main__":
    sys.exit(main())
