"""Pictures named on a command line.

Found, cut to faces, read in batches, those that fail noted.
"""

import argparse
import dataclasses
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.data.images.reading import list_pictures, read_picture, square
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import DEFAULT_MODEL

CUT_HELP = (
    "cut out the square LEFT,TOP,SIDE, fractions of the shorter side; with --crop where no "
    "face is found, which is left out otherwise"
)
# Pictures read before they are computed together.
CHUNK = 64
# Part of the way that the square around a face goes to where the face is found, each
# frame.
_FOLLOW = 0.6
# Most folders that precede the name of an output.
_DEPTH = 8


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="model folder, training run, or name of a model (default: %(default)s, which comes along)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that takes pictures."""
    add_model(parser)
    parser.add_argument("--out", required=True, help="where to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there"
    )
    parser.add_argument(
        "--crop",
        action="store_true",
        help="find the face first; needs facecycle_jax[face]",
    )
    parser.add_argument(
        "--which",
        type=_which,
        default="largest",
        help="with --crop, of several faces: largest, centre, or its place from the left, from 0",
    )


def _which(text: str) -> str | int:
    """Reads the value of --which; argparse turns a ValueError into its own message."""
    if text in ("largest", "centre"):
        return text
    place = int(text)
    if place < 0:
        raise UserError(text)
    return place


@dataclasses.dataclass
class Problems:
    """Pictures that were left out; told at the end, and in the exit status."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def status(self, done: int) -> int:
        """Tells of them on standard error.

        0 if there are none, 1 if some of the work was done, else 2.
        """
        for line in self.lines:
            print(f"facecycle: left out: {line}", file=sys.stderr)
        if not self.lines:
            return 0
        print(
            f"facecycle: {counted(len(self.lines), 'picture')} left out, {done} done",
            file=sys.stderr,
        )
        return 1 if done else 2


def counted(number: int, noun: str) -> str:
    """Writes '1 picture' or '2 pictures'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def find(inputs: Sequence[str]) -> list[epath.Path]:
    """Lists the pictures of files and folders.

    Args:
      inputs: files and folders; folders are searched with what is below them.

    Returns:
      Paths, each once.

    Raises:
      FileNotFoundError: if one does not exist.
      ValueError: if a folder has no picture.
    """
    found: dict[str, epath.Path] = {}
    for name in inputs:
        path = epath.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {name}.")
        found.update(list_pictures(path))
    return list(found.values())


def read_face(
    path: epath.Path,
    *,
    size: int,
    crop: bool,
    which: str | int,
    framing: Framing = FRAMING,
) -> np.ndarray:
    """Reads one picture uint8 [size, size, 3], cut about its middle or to the framing of its face.

    Raises:
      ValueError: in one sentence, if it cannot be read or no such face is found.
    """
    # A face may be any part of the image, so it is looked for at full size.
    picture = read_picture(path, at_least=0 if crop else size)
    if crop:
        from facecycle_jax.data.images.face_crop import crop_face

        try:
            picture = crop_face(picture, which=which, framing=framing).crop
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    return square(picture, size=size)


def follow_face(
    frames: Iterable[np.ndarray],
    *,
    which: str | int,
    name: str,
    framing: Framing = FRAMING,
) -> Iterator[np.ndarray]:
    """Cuts a face out of every frame of a video.

    The square moves smoothly, so that the face does not tremble as its finds do; where
    no face is found it stays.

    Args:
      frames: uint8 [H, W, 3] each.
      which: which of several faces.
      name: of the video, for messages.
      framing: where the eyes are to be.

    Yields:
      uint8 [S, S, 3] each; as many as there are frames.

    Raises:
      ValueError: if no face is found in the first frames.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face
    from facecycle_jax.data.images.framing import cut_square

    iterator = iter(frames)
    waiting: list[np.ndarray] = []
    box: np.ndarray | None = None
    for frame in iterator:
        waiting.append(frame)
        try:
            found = np.array(crop_face(frame, which=which, framing=framing).box, float)
            box = found if box is None else box + _FOLLOW * (found - box)
        except NoFaceError as error:
            if box is None and len(waiting) < CHUNK:
                continue
            if box is None:
                raise UserError(
                    f"{name}, first {CHUNK} frames: {error} Try without --crop."
                ) from None
        left, top = (round(edge) for edge in box[:2].tolist())
        side = round(float(box[2] - box[0]))
        yield from (
            cut_square(early, (left, top, left + side, top + side)) for early in waiting
        )
        waiting = []
    if waiting:
        raise UserError(f"{name}: no face was found in any frame. Try without --crop.")


def chunks(
    paths: Sequence[epath.Path],
    problems: Problems,
    *,
    size: int,
    crop: bool,
    which: str,
    framing: Framing = FRAMING,
) -> Iterator[tuple[list[epath.Path], np.ndarray]]:
    """Reads pictures in chunks, with a progress bar.

    Args:
      paths: the pictures.
      problems: takes those that cannot be used.
      size: side in pixels.
      crop: whether to find the face.
      which: which of several faces.
      framing: where the eyes are to be, with `crop`.

    Yields:
      Paths and pictures uint8 [N, size, size, 3], N at least 1.
    """
    with tqdm(total=len(paths), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(paths), CHUNK):
            kept, pictures = [], []
            for path in paths[start : start + CHUNK]:
                try:
                    face = read_face(
                        path, size=size, crop=crop, which=which, framing=framing
                    )
                    pictures.append(face)
                    kept.append(path)
                except (ValueError, OSError) as error:
                    text = str(error)
                    problems.lines.append(
                        text if str(path) in text else f"{path}: {text}"
                    )
            if kept:
                yield kept, np.stack(pictures)
            bar.update(min(CHUNK, len(paths) - start))


def check_free(
    paths: Sequence[epath.Path], *, overwrite: bool, sources: Iterable[epath.Path] = ()
) -> None:
    """Checks, before any work, that outputs may be written.

    Args:
      paths: the outputs.
      overwrite: whether files that exist may be replaced.
      sources: the inputs, which are never replaced, whatever `overwrite` says.

    Raises:
      UserError: if an output is an input.
      FileExistsError: if an output exists and `overwrite` is not set.
    """
    read = {os.path.realpath(source) for source in sources}
    for path in paths:
        if os.path.realpath(path) in read:
            raise UserError(f"{path} would replace an input; choose another --out.")

    taken = [path for path in paths if _exists(path)]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise FileExistsError(
            f"{taken[0]} exists already{more}; use --overwrite or another --out."
        )


def _exists(path: epath.Path) -> bool:
    """Whether there is such a file.

    There is none of a name that the file system cannot have.
    """
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def output_names(paths: Sequence[epath.Path]) -> list[str]:
    """Names outputs after their inputs.

    Equal names are preceded by their folders, or numbered.

    Args:
      paths: the inputs.

    Returns:
      As many names, without suffix, no two of them equal.
    """
    best: list[str] = []
    for depth in range(1, _DEPTH + 1):
        names = [
            "_".join((*path.parts[-depth:-1], path.stem)).strip("/_") for path in paths
        ]
        # The fewest folders that tell most names apart.
        if len(set(names)) > len(set(best)):
            best = names
    return unique(best)


def unique(names: Sequence[str]) -> list[str]:
    """Numbers repeated names.

    The second 'ann' becomes 'ann_2', unless another one is called so.

    Names that differ only by case count as equal, as some file systems treat them.

    Args:
      names: file names without suffix.

    Returns:
      As many names, no two of them equal.
    """
    given = {name.casefold() for name in names}
    used: set[str] = set()
    result = []
    for name in names:
        candidate = name
        number = 1
        while candidate.casefold() in used or (
            number > 1 and candidate.casefold() in given
        ):
            number += 1
            candidate = f"{name}_{number}"
        used.add(candidate.casefold())
        result.append(candidate)
    return result
