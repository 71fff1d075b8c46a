"""The command line of `python -m launch.ten_minutes`; --help lists all options.

Examples:
  python -m launch.ten_minutes pack --data VIDEOS,PHOTOS --out upload
  python -m launch.ten_minutes run --upload upload --out back
  python -m launch.ten_minutes join --back back --out models
"""

import argparse
import math
import pathlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence

# Every command imports what it needs. `run` must start on a machine where packages that
# facecycle_jax needs are not installed yet.

MIB = 2**20
# The least MiB that --part may give a file. `parts.cut` needs some room for what
# compression may add, and a smaller size would make too many files.
_SMALLEST_PART = 0.1
# Exit statuses, those of facecycle_jax.errors, which cannot be imported here.
_MISTAKE_EXIT = 2
_DEFECT_EXIT = 70


def _number(text: str) -> float:
    """Reads the number of an option."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}.") from None


def _positive(text: str) -> float:
    """Reads a number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}.")
    return value


def _side(text: str) -> int:
    """Reads the value of --side, in pixels."""
    value = _positive(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text}.")
    return int(value)


def _part(text: str) -> float:
    """Reads the value of --part, in MiB."""
    value = _number(text)
    if not _SMALLEST_PART <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"must be at least {_SMALLEST_PART}, got {text}."
        )
    return value


def _parser() -> argparse.ArgumentParser:
    """Builds the parser, which sets `run` to the function of a command."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.ten_minutes",
        description="Trains facecycle_base:paper and measures one GPU, in ten minutes.",
    )
    commands = parser.add_subparsers(required=True)

    pack = commands.add_parser("pack", help="make the folder to take there")
    pack.add_argument("--data", required=True, help="folders of framed images: A,B")
    pack.add_argument("--out", required=True, help="folder to make, or to complete")
    pack.add_argument("--vgg", help="VGG-19 of the loss, .npz of import-vgg")
    pack.add_argument("--wheels", help="folder of wheels that the machine lacks")
    pack.add_argument(
        "--limit",
        type=_positive,
        default=40.0,
        help="the most MiB of the folder (default: %(default)s)",
    )
    pack.add_argument(
        "--side",
        type=_side,
        default=72,
        help="side of the images, in pixels (default: %(default)s)",
    )
    pack.set_defaults(run=_pack)

    run = commands.add_parser("run", help="train, export, measure and report, there")
    run.add_argument("--upload", required=True, help="folder that `pack` made")
    run.add_argument("--out", required=True, help="folder for the files to take back")
    run.add_argument("--work", help="folder for everything else; default: a new one")
    run.add_argument(
        "--minutes",
        type=_positive,
        default=9.5,
        help="minutes of all steps together (default: %(default)s)",
    )
    run.add_argument(
        "--part",
        type=_part,
        default=15.0,
        help="the most MiB of a file to take back (default: %(default)s)",
    )
    run.add_argument(
        "--train", action="append", default=[], help="a flag for the training"
    )
    run.add_argument(
        "--measure", action="append", default=[], help="an option for measure_gpu.sh"
    )
    run.set_defaults(run=_run)

    join = commands.add_parser("join", help="restore the model from its parts")
    join.add_argument("--back", required=True, help="folder of the parts")
    join.add_argument("--out", required=True, help="folder for the model folder")
    join.set_defaults(run=_join)

    count = commands.add_parser("count", help="part of `run`: operations of the steps")
    count.add_argument("--work", required=True)
    count.set_defaults(run=_count)

    report = commands.add_parser("report", help="part of `run`: the tables")
    report.add_argument("--work", required=True)
    report.add_argument("--out", required=True)
    report.set_defaults(run=_report)
    return parser


def _pack(arguments: argparse.Namespace) -> int:
    """Makes the folder to upload.

    Returns:
      The exit status: 1 if an image cannot be read.
    """
    from facecycle_jax.errors import UserError
    from launch.ten_minutes.packing import halve_vgg, pack

    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)

    if arguments.vgg:
        halve_vgg(arguments.vgg, out / "vgg.npz")
    if arguments.wheels:
        shutil.copytree(arguments.wheels, out / "wheels", dirs_exist_ok=True)

    # Images get what the other files leave of the limit.
    frames = out / "frames.zip"
    others = [path for path in out.rglob("*") if path.is_file() and path != frames]
    others_size = sum(path.stat().st_size for path in others)
    limit = round(arguments.limit * MIB) - others_size
    if limit <= 0:
        raise UserError(
            f"{out} has {others_size / MIB:.1f} MiB without images, more than --limit "
            f"{arguments.limit:g}."
        )

    packed = pack(arguments.data.split(","), frames, limit=limit, side=arguments.side)
    for path, reason in packed.unreadable.items():
        print(f"left out: {path}: {reason}", file=sys.stderr)

    extent = "all images" if packed.complete else "what fits"
    total = packed.size + others_size
    print(
        f"{frames}: {packed.frames} images of {packed.tracks} tracks, {extent}, "
        f"{packed.size / MIB:.1f} MiB; {out}: {total / MIB:.1f} MiB"
    )
    return 1 if packed.unreadable else 0


def _run(arguments: argparse.Namespace) -> int:
    """Does everything on the machine that is lent.

    Returns:
      The exit status: 1 if a step failed.
    """
    from launch.ten_minutes.running import Plan, check_upload, run

    work = arguments.work
    if not work:
        # Checked first, because nobody would remove a folder made for nothing.
        check_upload(pathlib.Path(arguments.upload), None)
        work = tempfile.mkdtemp(prefix="facecycle_ten_minutes_")

    plan = Plan(
        upload=pathlib.Path(arguments.upload).resolve(),
        out=pathlib.Path(arguments.out).resolve(),
        work=pathlib.Path(work).resolve(),
        minutes=arguments.minutes,
        part_bytes=round(arguments.part * MIB),
        training=arguments.train,
        measuring=arguments.measure,
    )
    return 1 if run(plan) else 0


def _join(arguments: argparse.Namespace) -> int:
    """Restores the model folder and prints its path."""
    from launch.ten_minutes.parts import join

    files = list(pathlib.Path(arguments.back).glob("model.*.xz"))
    print(join(files, pathlib.Path(arguments.out)))
    return 0


def _count(arguments: argparse.Namespace) -> int:
    """Counts the operations of the steps and prints them."""
    from launch.ten_minutes.reporting import count_operations

    print(count_operations(pathlib.Path(arguments.work)))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    """Writes the tables and prints them."""
    from launch.ten_minutes.reporting import write_report

    print(write_report(pathlib.Path(arguments.work), pathlib.Path(arguments.out)))
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      words: command line without the program's name; None takes that of the process.

    Returns:
      The exit status: 0, 1 if a part of the command failed, 2 after a mistake, 70 after
      a defect.
    """
    arguments = _parser().parse_args(words)
    try:
        return arguments.run(arguments)
    except Exception as error:
        if isinstance(error, _mistakes()):
            print(f"ten_minutes: {error}", file=sys.stderr)
            return _MISTAKE_EXIT

        traceback.print_exc()
        return _DEFECT_EXIT


def _mistakes() -> tuple[type[Exception], ...]:
    """Returns the exceptions whose message is a sentence for the user."""
    from launch.ten_minutes.running import UploadError

    mistakes: list[type[Exception]] = [UploadError, OSError]
    # Not imported, because the package may not work yet. Whatever has raised a
    # UserError has imported it.
    errors = sys.modules.get("facecycle_jax.errors")
    if errors:
        mistakes.append(errors.UserError)
    return tuple(mistakes)


if __name__ == "__main__":
    sys.exit(main())
