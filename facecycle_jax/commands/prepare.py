"""The commands `facecycle prepare SET`, which makes records, and `facecycle verify`."""

import argparse
import contextlib
import importlib
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from facecycle_jax.commands.inputs import add_cut
from facecycle_jax.commands.outputs import check_folder
from facecycle_jax.data.images.framing import read_cut
from facecycle_jax.data.sources.record_index import (
    FRAMES,
    LEFT_OUT,
    TRACKS,
    read_index,
    verify,
)
from facecycle_jax.data.sources.records import find_set
from facecycle_jax.errors import UserError, missing_extra
from facecycle_jax.paths import given_path

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


class Option(NamedTuple):
    """An option that is passed on to a builder.

    Attributes:
      kind: its type.
      text: its help.
      label: how it appears in the name of the folder of a set made with it.
      counts: whether it counts something, of which there must be one at least.
    """

    kind: type
    text: str
    label: str
    counts: bool = False


class RecordSet(NamedTuple):
    """A set that records are made of.

    Attributes:
      module: of data.prepare.builders.
      builder: class in it.
      options: the options that apply to it, apart from --out.
      has_tracks: whether it holds tracks to train on, rather than labelled images.
    """

    module: str
    builder: str
    options: tuple[str, ...]
    has_tracks: bool = False


OPTIONS = {
    "fps": Option(
        kind=float,
        text="of voxceleb2: frames a second taken of videos (default: 5)",
        label="fps",
    ),
    "size": Option(
        kind=int,
        text="cut frames square and resize them to so many pixels; default: as they "
        "are",
        label="size",
    ),
    "max_frames": Option(
        kind=int,
        text="most frames of a track, evenly spread; default: all",
        label="most",
    ),
    "min_frames": Option(
        kind=int,
        text="fewest frames of a track, at least 1 (default: 1)",
        label="least",
        counts=True,
    ),
    "eval_fraction": Option(
        kind=float,
        text="fraction of the people in the split eval (default: 0.02); 0: no such "
        "split",
        label="eval",
    ),
    "identity_depth": Option(
        kind=int,
        text="of tracks: folders that name a person, at least 1 (default: 1)",
        label="depth",
        counts=True,
    ),
    "identities": Option(
        kind=int,
        text="of synthetic: people (default: 64)",
        label="people",
        counts=True,
    ),
    "frames_per_track": Option(
        kind=int,
        text="of synthetic: images of each (default: 16)",
        label="frames",
        counts=True,
    ),
    "seed": Option(
        kind=int,
        text="of synthetic (default: 0)",
        label="seed",
    ),
}
# Options of every set whose frames are read from files.
_OF_FRAMES = (
    "data",
    "size",
    "crop",
    "cut",
    "max_frames",
    "min_frames",
    "eval_fraction",
    "workers",
    "beam",
)
_OF_SYNTHETIC = ("size", "eval_fraction", "identities", "frames_per_track", "seed")

SETS = {
    "voxceleb1": RecordSet(
        module="voxceleb",
        builder="FacecycleVoxceleb1",
        options=_OF_FRAMES,
        has_tracks=True,
    ),
    "voxceleb2": RecordSet(
        module="voxceleb",
        builder="FacecycleVoxceleb2",
        options=(*_OF_FRAMES, "fps"),
        has_tracks=True,
    ),
    "tracks": RecordSet(
        module="folders",
        builder="FacecycleTracks",
        options=(*_OF_FRAMES, "identity_depth"),
        has_tracks=True,
    ),
    "synthetic": RecordSet(
        module="folders",
        builder="FacecycleSynthetic",
        options=_OF_SYNTHETIC,
        has_tracks=True,
    ),
}
# Builders of labelled images, which need the raw data and nothing else.
_LABELLED = {
    "fer2013": "FacecycleFer2013",
    "raf-db": "FacecycleRafDb",
    "300w-lp": "Facecycle300wLp",
    "aflw2000": "FacecycleAflw2000",
    "cplfw": "FacecycleCplfw",
}
SETS |= {
    name: RecordSet(module="labelled", builder=builder, options=("data",))
    for name, builder in _LABELLED.items()
}


def add(commands: "Subcommands") -> None:
    """Adds the subcommands.

    Args:
      commands: the result of `ArgumentParser.add_subparsers`.
    """
    command = commands.add_parser(
        "prepare", help="make records of a raw data set, see docs/records.md"
    )
    command.add_argument("set", choices=sorted(SETS))
    command.add_argument(
        "--data", help="folder of the raw data; of all sets but synthetic"
    )
    command.add_argument(
        "--out", required=True, help="folder for the records; the same again continues"
    )
    command.add_argument(
        "--workers",
        type=int,
        help="of tracks and VoxCeleb: processes (default: the cores)",
    )
    command.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="of tracks and VoxCeleb: prepare with Apache Beam and these options, e.g. "
        "--beam='--runner=FlinkRunner', with =",
    )
    command.add_argument(
        "--crop",
        action="store_true",
        default=None,
        help="of tracks and VoxCeleb: find faces and cut them out (extra `face`)",
    )
    add_cut(command)
    for name, option in OPTIONS.items():
        command.add_argument(_option(name), type=option.kind, help=option.text)

    command.set_defaults(run=run)

    check = commands.add_parser(
        "verify", help="compare records with the checksums they were made with"
    )
    check.add_argument("data", help="--out of `facecycle prepare`, or a set's folder")
    check.set_defaults(run=run_verify)


def _find_data(folder: str | None, name: str) -> str:
    """Returns the folder of the raw data; refuses one that is not there."""
    layout = f"docs/records.md has the layout of {name}"
    if folder is None:
        raise UserError(
            f"--data is missing: name the folder of the raw data; {layout}."
        )

    found = os.fspath(given_path(folder, name="--data", local=True))
    if not os.path.isdir(found):
        raise FileNotFoundError(f"--data: there is no folder {folder!r}.")
    if not os.listdir(found):
        raise UserError(f"--data: the folder {folder} is empty; {layout}.")
    return found


def _option(name: str) -> str:
    """Writes an option as on the command line."""
    return f"--{name.replace('_', '-')}"


def _check_applicable(arguments: argparse.Namespace) -> None:
    """Refuses options that would do nothing for the set."""
    names = ("data", "workers", "beam", "crop", "cut", *OPTIONS)
    applicable = SETS[arguments.set].options
    for name in names:
        if getattr(arguments, name) is not None and name not in applicable:
            options = ", ".join(_option(name) for name in applicable)
            raise UserError(
                f"{_option(name)} does not apply to {arguments.set}; apart from --out "
                f"it has {options}."
            )


def _check_counts(arguments: argparse.Namespace) -> None:
    """Refuses numbers below 1, before TensorFlow is imported."""
    counts = [name for name, option in OPTIONS.items() if option.counts]
    for name in ("workers", *counts):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"{_option(name)} must be at least 1, got {value}.")


def run(arguments: argparse.Namespace) -> int:
    """Prepares a set; returns 1 if something was left out or a split is empty."""
    _check_applicable(arguments)
    _check_counts(arguments)
    data = None
    if arguments.set != "synthetic":
        data = _find_data(arguments.data, arguments.set)
    out = os.fspath(check_folder(arguments.out))

    builder = _builder(arguments, out)
    folder = pathlib.Path(builder.data_path)
    if _is_complete(folder, arguments.set):
        raise FileExistsError(
            f"{folder} is complete; remove it to prepare it again, or choose another "
            "--out."
        )

    options = importlib.import_module("facecycle_jax.data.prepare.builders.options")
    config = options.download_config(data, beam=arguments.beam)
    builder.download_and_prepare(download_config=config)

    # TFDS makes these folders although nothing is downloaded.
    for empty in ("downloads/extracted", "downloads"):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(out, empty))

    if not SETS[arguments.set].has_tracks:
        counts = [
            f"{split.num_examples} in {name}"
            for name, split in builder.info.splits.items()
        ]
        print(f"Wrote {folder}: {', '.join(counts)}")
        return 0

    content, _ = read_index(folder)
    counts = content["counts"]
    print(
        f"Wrote {folder}: {counts['tracks']} tracks of {counts['people']} people, "
        f"{counts['frames']} frames, {counts['bytes'] / 1e6:.1f} MB in "
        f"{counts['shards']} shards."
    )
    if counts["left_out"]:
        print(
            f"{counts['left_out']} lines about what was left out are in "
            f"{folder / LEFT_OUT}."
        )

    for split in builder.empty_splits:
        print(
            f"There is no split {split}: none of its tracks has as many frames that "
            "can be read as needed."
        )

    return 1 if counts["left_out"] or builder.empty_splits else 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Compares shards and index with their checksums; returns 2 if one differs."""
    folder = find_set(os.fspath(given_path(arguments.data, name="DATA")))
    problems = verify(folder)
    for problem in problems:
        print(problem)

    content, _ = read_index(folder)
    people = set(content["identity"])
    print(
        f"{folder}: {len(content['shards'])} shards, {len(content['track'])} tracks, "
        f"{len(people)} people."
    )

    return 2 if problems else 0


def _is_complete(folder: pathlib.Path, name: str) -> bool:
    """Whether a set was prepared completely."""
    # These files are written last.
    last = (TRACKS, FRAMES) if SETS[name].has_tracks else ("dataset_info.json",)
    return all((folder / file).exists() for file in last)


def _builder(arguments: argparse.Namespace, out: str) -> Any:
    """Builds the set's builder, which writes into `out`.

    Its configuration is named after its own options.
    """
    # TensorFlow prints its build at every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    chosen = SETS[arguments.set]
    try:
        module = importlib.import_module(
            f"facecycle_jax.data.prepare.builders.{chosen.module}"
        )
    except ImportError as error:
        need = f"Preparing records needs TensorFlow Datasets ({error})"
        raise missing_extra(need, extra="tf") from error

    builder = getattr(module, chosen.builder)
    if not chosen.has_tracks:
        return builder(data_dir=out)

    # Options that were given, and their words in the name of the set's folder.
    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    words = [f"{OPTIONS[name].label}{_number(value)}" for name, value in given.items()]
    if arguments.crop:
        given["crop"] = True
        words.append("crop")

    if arguments.cut is not None:
        given["cut"] = read_cut(arguments.cut)
        words.append("cut" + "_".join(map(_number, given["cut"])))

    config = builder.builder_config_cls(name="-".join(words), **given)

    # Raises an error for options out of range before anything is prepared.
    config.check()

    built = builder(data_dir=out, config=config if words else None)
    built.workers = arguments.workers or os.cpu_count() or 1

    return built


def _number(value: float) -> str:
    """Writes a number in full, and 3.0 as 3, so that no two share a name."""
    if isinstance(value, int):
        return str(value)

    # Six digits are enough for most.
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
