"""The command `facecycle frame DATA --out OUT`: cuts images to the models' framing."""

import argparse
import csv
import dataclasses
import hashlib
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from etils import epath
from PIL import Image
from tqdm import tqdm

from facecycle_jax.commands.inputs import add_cut, counted
from facecycle_jax.commands.outputs import check_folder, unique
from facecycle_jax.data.images.face_crop import frame_image
from facecycle_jax.data.images.framing import FRAMING, Cut, read_cut
from facecycle_jax.data.images.landmarks import has_landmarks
from facecycle_jax.data.images.reading import list_images, read_image, square
from facecycle_jax.data.prepare.workers import killed_reason, run_all
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.files import read_json, write_if_name_fits, write_json, write_text
from facecycle_jax.paths import given_path

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

# Files written into the folder of the framed images.
SUMMARY = "framing.json"
LEFT_OUT = "left_out.txt"
LIST = "frames.csv"
# What an unfinished run frames, and how; only there until the folder is complete.
STARTED = ".framing.started"
_QUALITY = 95


class Outcome(NamedTuple):
    """The result of framing one image.

    Attributes:
      kind: 'face' or 'cut', whichever placed the square, or 'left out'.
      reason: why it was left out.
      beyond: fraction of the square's side that lies beyond the image.
    """

    kind: str
    reason: str = ""
    beyond: float = 0.0


@dataclasses.dataclass(frozen=True)
class Job:
    """Frames one image file, in any process.

    Attributes:
      size: side of the result, pixels.
      crop: whether the face is looked for.
      cut: fixed square, see `frame_image`.
      most_beyond: largest fraction of the square's side that may lie beyond the image,
        where it is reflected.
    """

    size: int
    crop: bool
    cut: Cut | None
    most_beyond: float

    def __call__(self, files: tuple[str, str]) -> "Outcome":
        """Reads, frames and writes one image.

        Args:
          files: the image to read and the JPEG to write.

        Returns:
          The result.
        """
        source, target = files
        try:
            framed = frame_image(
                read_image(source), crop=self.crop, cut=self.cut, framing=FRAMING
            )
        except MissingExtraError:
            raise
        except (UserError, OSError) as error:
            text = str(error)
            return Outcome("left out", text if source in text else f"{source}: {text}")

        if framed.beyond > self.most_beyond:
            reason = (
                f"{source}: {framed.beyond:.0%} of the side would lie beyond the image."
            )
            return Outcome(kind="left out", reason=reason, beyond=framed.beyond)

        # Colours are stored at full size, because the images are small.
        buffer = io.BytesIO()
        small = square(framed.image, size=self.size)
        Image.fromarray(small).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        # The target can have a longer name than the source.
        if not write_if_name_fits(target, buffer.getvalue()):
            reason = f"{source}: the name of its output is too long."
            return Outcome("left out", reason)

        return Outcome("face" if framed.found else "cut", beyond=framed.beyond)


def add(commands: "Subcommands") -> None:
    """Adds the subcommand.

    Args:
      commands: the result of `ArgumentParser.add_subparsers`.
    """
    command = commands.add_parser(
        "frame", help="cut image files to the framing of the models"
    )
    command.add_argument("data", help="folder of images; its folders are kept")
    command.add_argument(
        "--out",
        required=True,
        help="folder for the framed JPEGs; must not exist, but the same command does a "
        "stopped run again",
    )
    command.add_argument(
        "--crop",
        action="store_true",
        help="find faces and cut them out (extra `face`; with the extra `landmarks` "
        "more exactly)",
    )
    add_cut(command)
    command.add_argument(
        "--most-beyond",
        type=float,
        default=0.25,
        help="leave out images that the square exceeds by more than this fraction of "
        "its side; what lies beyond is reflected (default: %(default)s)",
    )
    command.add_argument(
        "--size", type=int, default=80, help="side in pixels (default: %(default)s)"
    )
    command.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes (default: the cores)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Frames every image of a folder; returns 1 if some were left out, 2 if all."""
    root = given_path(arguments.data, name="DATA")
    out = given_path(arguments.out, name="--out")
    _check_folders(root, out)
    job = _job_of(arguments)

    pairs = _targets(root, [path for _, path in list_images(root)], out)
    by = ("landmarks" if has_landmarks() else "detector") if job.crop else "cut"
    _begin(out, job, pairs, by=by)

    outcomes = _frame_all(job, pairs, workers=arguments.workers)
    counts = Counter(outcome.kind for outcome in outcomes)
    _finish(out, job, pairs, outcomes, counts=counts, by=by)

    left_out = counts["left out"]
    listed = f" (see {out / LEFT_OUT})" if left_out else ""
    print(
        f"Wrote {out}: {counted(counts['face'], 'image')} framed by the face ({by}), "
        f"{counts['cut']} by the cut, {left_out} left out{listed}."
    )
    if not left_out:
        return 0
    return 1 if left_out < len(pairs) else 2


def _check_folders(root: epath.Path, out: epath.Path) -> None:
    """Raises an error unless there are images and a place for the framed ones."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}.")

    # A stopped run would find its own outputs among the images.
    out_path = os.path.realpath(out)
    data_path = os.path.realpath(root)
    is_below = os.path.commonpath([out_path, data_path]) == data_path
    if is_below and out_path != data_path:
        raise UserError(f"--out {out} lies inside {root}: choose a folder outside it.")

    # Only a folder that this command has begun and not finished may exist.
    is_begun = (out / STARTED).exists() and not (out / SUMMARY).exists()
    if out.exists() and not is_begun:
        raise FileExistsError(
            f"{out} exists already; remove it or choose another --out."
        )
    check_folder(out)


def _job_of(arguments: argparse.Namespace) -> Job:
    """Reads how images are framed from the options."""
    if arguments.size < 1 or arguments.workers < 1:
        raise UserError(
            f"--size and --workers must be at least 1, got {arguments.size}, "
            f"{arguments.workers}."
        )

    # NaN is refused too.
    if not arguments.most_beyond >= 0:
        raise UserError(
            f"--most-beyond must be 0 or more, got {arguments.most_beyond:g}."
        )

    cut = read_cut(arguments.cut) if arguments.cut is not None else None
    if not arguments.crop and cut is None:
        raise UserError(
            "give --crop, --cut, or both: how images are to be brought to the framing."
        )
    return Job(
        size=arguments.size,
        crop=arguments.crop,
        cut=cut,
        most_beyond=arguments.most_beyond,
    )


def _frame_all(
    job: Job, pairs: Sequence[tuple[str, str]], *, workers: int
) -> list[Outcome]:
    """Frames images in several processes; returns their outcomes in order."""

    def named(files: tuple[str, str]) -> str:
        return f"the image {files[0]}"

    outcomes = []
    with tqdm(total=len(pairs), unit="image", disable=not sys.stderr.isatty()) as bar:
        for (source, _), outcome in run_all(job, pairs, workers=workers, name=named):
            outcomes.append(outcome or _killed(source))
            bar.update()
    return outcomes


def _finish(
    out: epath.Path,
    job: Job,
    pairs: Sequence[tuple[str, str]],
    outcomes: Sequence[Outcome],
    *,
    counts: Counter[str],
    by: str,
) -> None:
    """Writes the lists of what was framed and what was left out, and the summary."""
    rows = [("file", "by", "beyond")]
    reasons = []
    for (_, target), outcome in zip(pairs, outcomes, strict=True):
        if outcome.reason:
            reasons.append(" ".join(outcome.reason.split()))
        else:
            name = os.path.relpath(target, os.fspath(out))
            rows.append((name, outcome.kind, f"{outcome.beyond:.3f}"))

    # Names of files may hold bytes that are not UTF-8.
    listed = io.StringIO()
    csv.writer(listed, lineterminator="\n").writerows(rows)
    write_text(out / LIST, listed.getvalue())
    if reasons:
        text = "\n".join(reasons) + "\n"
        write_text(out / LEFT_OUT, text)

    # Written last: its presence shows that the folder is complete.
    summary = {
        "framing": FRAMING.to_dict(),
        "size": job.size,
        "by": by,
        "cut": job.cut,
        "most_beyond": job.most_beyond,
        "counts": {kind: counts[kind] for kind in ("face", "cut", "left out")},
    }
    write_json(out / SUMMARY, summary)
    (out / STARTED).unlink()


def _targets(
    root: epath.Path, paths: Sequence[epath.Path], out: epath.Path
) -> list[tuple[str, str]]:
    """Names the JPEG of each image."""
    # Images that differ only in their endings keep them in their names.
    names = [os.fspath(path.relative_to(root).with_suffix("")) for path in paths]
    taken = {name for name, count in Counter(names).items() if count > 1}

    # The indices of the images of each folder, and their names there.
    indices: dict[str, list[int]] = {}
    short: dict[str, list[str]] = {}
    for index, (path, name) in enumerate(zip(paths, names, strict=True)):
        full = f"{name}_{path.suffix[1:].lower()}" if name in taken else name
        folder, file = os.path.split(full)
        indices.setdefault(folder, []).append(index)
        short.setdefault(folder, []).append(file)

    # An ending can make a name that another image has.
    targets = [""] * len(paths)
    for folder, inside in indices.items():
        for index, file in zip(inside, unique(short[folder]), strict=True):
            targets[index] = os.fspath(out / folder / f"{file}.jpg")

    return list(zip(map(os.fspath, paths), targets, strict=True))


def _begin(
    out: epath.Path, job: Job, pairs: Sequence[tuple[str, str]], *, by: str
) -> None:
    """Notes what is framed and how, or compares it with what a stopped run noted."""
    listed = "\n".join(source for source, _ in pairs)
    started = {
        "options": [job.size, job.crop, job.cut and list(job.cut), job.most_beyond],
        "by": by,
        "images": hashlib.sha256(os.fsencode(listed)).hexdigest(),
    }

    # Images of another run would stay in the folder, unlisted.
    file = out / STARTED
    if file.exists() and read_json(file) != started:
        raise UserError(
            f"{out} holds a stopped run with other images or options; remove it or "
            "choose another --out."
        )

    write_json(file, started)


def _killed(source: str) -> Outcome:
    """Builds the outcome of an image at which processes were killed."""
    return Outcome("left out", killed_reason(source, kind="image"))
