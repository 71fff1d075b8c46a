"""Images named on a command line: finding, cropping and reading them in batches.

Images that cannot be used are collected and reported at the end.
"""

import argparse
import dataclasses
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from facecycle_jax.data.images.framing import FRAMING, Framing, Square
from facecycle_jax.data.images.media_files import is_image_name, is_video_name
from facecycle_jax.data.images.reading import list_images, read_image, square
from facecycle_jax.errors import UserError
from facecycle_jax.files import write_if_name_fits
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import DEFAULT_MODEL
from facecycle_jax.viz.images import encode_png

# Images read before they are computed together.
CHUNK = 64
# Value of --which for all faces of a photograph.
ALL = "all"
# Frames for which a square stays where it is while no face is found, if it is pasted.
_HOLD = 12
# Fraction of the way to the found face by which the square around it moves each frame.
_FOLLOW = 0.6
# Largest number of folders that precede the name of an output.
_DEPTH = 8


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="model folder, training run, hf://USER/NAME, or name of a model "
        "(default: %(default)s, which is bundled)",
    )


def add_options(
    parser: argparse.ArgumentParser, *, several_faces: bool = False
) -> None:
    """Adds the options of every command that reads images.

    Args:
      parser: the parser of a command.
      several_faces: whether the command can work on all faces of a photograph.
    """
    add_model(parser)

    # Outputs.
    parser.add_argument("--out", required=True, help="where to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there"
    )

    # Faces in the inputs.
    parser.add_argument(
        "--crop",
        action="store_true",
        help="find the face first; needs facecycle_jax[face]",
    )
    also = "; with --paste also all" if several_faces else ""
    parser.add_argument(
        "--which",
        "--face",
        dest="which",
        type=_which_or_all if several_faces else _which,
        default="largest",
        help="with --crop, which of several faces: largest, centre, or its place from "
        f"the left, from 0{also}",
    )


def add_cut(command: argparse.ArgumentParser) -> None:
    """Adds --cut."""
    command.add_argument(
        "--cut",
        metavar="LEFT,TOP,SIDE",
        help="cut out the square LEFT,TOP,SIDE, fractions of the shorter side; with "
        "--crop only if no face is found (such an image is left out otherwise); "
        "negative ones with =, e.g. --cut=-0.1,-0.1,1.2",
    )
    # Lets argparse read numbers that begin with a minus without the =, too.
    command._negative_number_matcher = re.compile(r"-\.?\d")


def check_which(arguments: argparse.Namespace) -> None:
    """Raises UserError if --which asks for faces that nothing finds or shows."""
    # Not every command has --paste, which finds faces itself.
    if getattr(arguments, "paste", False):
        return
    if arguments.which == ALL:
        raise UserError("--face all needs --paste, because panels show one face each.")
    if arguments.which != "largest" and not arguments.crop:
        raise UserError(
            "--which chooses among the faces that --crop finds: give --crop too."
        )


def _which(text: str) -> str | int:
    """Reads the value of --which."""
    if text in ("largest", "centre"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"it is largest, centre, or a number from 0 (with --paste also all), not "
            f"{text!r}"
        )
    return int(text)


def _which_or_all(text: str) -> str | int:
    """Reads the value of --which where all faces may be requested."""
    return text if text == ALL else _which(text)


@dataclasses.dataclass
class Problems:
    """Images that were left out, reported at the end and in the exit status."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def add(self, path: epath.Path, error: Exception) -> None:
        """Adds an image that cannot be used, with the error that says why."""
        text = str(error)
        self.lines.append(text if str(path) in text else f"{path}: {text}")

    def status(self, done: int) -> int:
        """Reports the problems on standard error.

        Args:
          done: how many outputs were written.

        Returns:
          The exit status: 0 without problems, 1 if some of the work was done, else 2.
        """
        if not self.lines:
            return 0

        for line in self.lines:
            print(f"facecycle: left out: {line}", file=sys.stderr)
        left_out = counted(len(self.lines), "image")
        print(f"facecycle: {left_out} left out, {done} done", file=sys.stderr)
        return 1 if done else 2


def counted(number: int, noun: str) -> str:
    """Writes '1 image' or '2 images'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_names(path: str | None) -> list[str]:
    """Reads a file of names, one a line; without a path there are none."""
    if not path:
        return []
    try:
        text = epath.Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"--without: there is no file {path}.") from None
    except UnicodeDecodeError:
        raise UserError(
            f"--without: {path} is no text in UTF-8: save the names in that encoding."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def find(inputs: Sequence[str]) -> list[epath.Path]:
    """Lists the images of files and folders.

    Args:
      inputs: files and folders; folders are searched recursively.

    Returns:
      Paths, each once.

    Raises:
      FileNotFoundError: If one does not exist.
      UserError: If a folder has no image.
    """
    found: dict[str, epath.Path] = {}

    for name in inputs:
        path = epath.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {name}.")
        found.update(list_images(path))

    return list(found.values())


def read_face(
    path: epath.Path,
    *,
    size: int,
    crop: bool,
    which: str | int,
    framing: Framing = FRAMING,
) -> np.ndarray:
    """Reads one image, centre-cropped or cropped to the framing of its face.

    Args:
      path: the image's file.
      size: side in pixels.
      crop: whether to find the face.
      which: which of several faces, with `crop`.
      framing: where the eyes are to be, with `crop`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: If the image cannot be read or no such face is found, in one sentence.
    """
    # A face may be any part of the image, so it is searched for at full size.
    image = read_image(path, at_least=0 if crop else size)

    if crop:
        from facecycle_jax.data.images.face_crop import crop_face

        try:
            image = crop_face(image, which=which, framing=framing).crop
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None

    return square(image, size=size)


def which_of_driver(arguments: argparse.Namespace) -> str | int:
    """Returns the face to take of a driver.

    Args:
      arguments: those of `add_options` and --paste.

    Returns:
      As --which.
    """
    # With --paste the option names the faces of the photograph.
    which: str | int = "largest" if arguments.paste else arguments.which
    return which


def follow_face(
    frames: Iterable[np.ndarray],
    *,
    which: str | int,
    name: str,
    framing: Framing = FRAMING,
) -> Iterator[np.ndarray]:
    """Crops a face out of every frame of a video.

    The square around the face is smoothed over time, because detections jitter. A face
    that jumps starts it anew. It stays where it is while no face is found.

    Args:
      frames: uint8 [H, W, 3] each.
      which: which of several faces.
      name: name of the video, for messages.
      framing: where the eyes are to be.

    Yields:
      uint8 [S, S, 3] each; as many as there are frames.

    Raises:
      UserError: If no face is found in the first frames.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face
    from facecycle_jax.data.images.framing import cut_square

    # Frames before the first face are held until that is found.
    waiting: list[np.ndarray] = []
    box: np.ndarray | None = None

    for frame in frames:
        waiting.append(frame)
        try:
            found = np.array(crop_face(frame, which=which, framing=framing).box, float)
            box = _follow(box, found)
        except NoFaceError as error:
            if box is None and len(waiting) < CHUNK:
                continue
            if box is None:
                raise UserError(
                    f"{name}, first {CHUNK} frames: {error} Try without --crop."
                ) from None

        for held in waiting:
            yield cut_square(held, _whole_square(box))
        waiting = []

    if waiting:
        raise UserError(f"{name}: no face was found in any frame. Try without --crop.")


def follow_square(
    frames: Iterable[np.ndarray], *, which: str | int, framing: Framing = FRAMING
) -> Iterator[tuple[np.ndarray, Square | None]]:
    """Finds the square around a face in every frame of a video.

    The square is smoothed over time. A face that jumps starts it anew. It stays where
    it is for some frames in which no face is found.

    Args:
      frames: uint8 [H, W, 3] each.
      which: which of several faces.
      framing: where the eyes are to be.

    Yields:
      The frame, and the square in pixels; None if there is no face.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face

    box: np.ndarray | None = None
    missing = 0
    for frame in frames:
        try:
            found = np.array(crop_face(frame, which=which, framing=framing).box, float)
        except NoFaceError:
            missing += 1
            if missing > _HOLD:
                box = None
        else:
            missing = 0
            box = _follow(box, found)

        yield frame, None if box is None else _whole_square(box)


def _follow(box: np.ndarray | None, found: np.ndarray) -> np.ndarray:
    """Moves a square (left, top, right, bottom) towards the one that was found."""
    if box is None:
        return found

    # A face that jumps by half its size is another one, or in another scene.
    if np.abs(found - box).max() > (found[2] - found[0]) / 2:
        return found

    # Exponential smoothing.
    return box + _FOLLOW * (found - box)


def _whole_square(box: np.ndarray) -> Square:
    """Rounds a square to pixels; the same rounded side keeps it square."""
    left, top = (round(edge) for edge in box[:2].tolist())
    side = round(float(box[2] - box[0]))
    return left, top, left + side, top + side


def chunks(
    arguments: argparse.Namespace,
    paths: Sequence[epath.Path],
    problems: Problems,
    model: FaceCycle,
    *,
    which: str | int | None = None,
) -> Iterator[tuple[list[epath.Path], np.ndarray]]:
    """Reads images in chunks as the model requires them, with a progress bar.

    Args:
      arguments: those of `add_options`.
      paths: the images' files.
      problems: collects the images that cannot be used.
      model: the model that reads the faces.
      which: which of several faces, with --crop; None takes that of --which.

    Yields:
      Paths and images uint8 [N, S, S, 3], N at least 1.
    """
    with tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(paths), CHUNK):
            kept = []
            images = []

            for path in paths[start : start + CHUNK]:
                try:
                    face = read_face(
                        path,
                        size=model.size,
                        crop=arguments.crop,
                        which=arguments.which if which is None else which,
                        framing=model.framing,
                    )
                except (ValueError, OSError) as error:
                    problems.add(path, error)
                else:
                    images.append(face)
                    kept.append(path)

            if kept:
                yield kept, np.stack(images)
            bar.update(min(CHUNK, len(paths) - start))


def save_drawn(
    file: epath.Path,
    panel: np.ndarray,
    problems: Problems,
    *,
    icc_profile: bytes | None = None,
) -> bool:
    """Writes an image as PNG.

    Args:
      file: where to.
      panel: uint8 [H, W, 3], or [H, W, 4] with transparency.
      problems: gets a name that is too long for the file system.
      icc_profile: colour profile of the image.

    Returns:
      Whether the image was written.
    """
    if write_if_name_fits(file, encode_png(panel, icc_profile=icc_profile)):
        return True

    problems.lines.append(
        f"{file}: the name of this output is too long for the file system."
    )
    return False


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Checks, before any work, that a folder for outputs is there or can be made.

    Args:
      folder: its path.

    Raises:
      UserError: If it is a file, or lies below one.
    """
    path = epath.Path(folder)
    # The first that is there decides.
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise UserError(
                    f"--out {folder} is a file, or lies below one: name a folder, "
                    "which will be made."
                )
            return


def check_folder_name(out: str) -> None:
    """Checks, before any work, that --out does not look like a file.

    Args:
      out: value of --out, where a folder is made.

    Raises:
      UserError: If it ends as an image or a video does and is no folder already.
    """
    path = epath.Path(out)
    is_file_name = is_image_name(path.name) or is_video_name(path.name)
    if is_file_name and not path.exists():
        raise UserError(
            f"--out {out} ends in {path.suffix}, but a folder of images is made: name "
            f"a folder, such as {path.with_suffix('')}."
        )


def check_free(
    paths: Sequence[epath.Path], *, overwrite: bool, sources: Iterable[epath.Path] = ()
) -> None:
    """Checks, before any work, that outputs may be written.

    Args:
      paths: the outputs.
      overwrite: whether files that exist may be replaced.
      sources: the inputs, which are never replaced, whatever `overwrite` says.

    Raises:
      UserError: If an output is an input, or would lie below a file.
      FileExistsError: If an output exists and `overwrite` is not set.
    """
    for folder in {path.parent for path in paths}:
        check_folder(folder)

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
    """Says whether a file exists; one whose name is too long does not."""
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
      As many different names, without suffix.
    """
    best: list[str] = []

    # The fewest folders that distinguish most names.
    for depth in range(1, _DEPTH + 1):
        names = [
            "_".join((*path.parts[-depth:-1], path.stem)).strip("/_") for path in paths
        ]
        if len(set(names)) > len(set(best)):
            best = names

    return unique(best)


def unique(names: Sequence[str]) -> list[str]:
    """Numbers repeated names.

    The second 'ann' becomes 'ann_2', unless that is a name of its own. Names that
    differ only by case count as equal, because some file systems treat them so.

    Args:
      names: file names without suffix.

    Returns:
      As many different names.
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
