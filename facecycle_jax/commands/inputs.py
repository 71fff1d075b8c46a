"""Images named on a command line: finding, cropping and reading them in batches.

Images that cannot be used are collected and reported at the end.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.data.images.reading import list_images, read_image, square
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import DEFAULT_MODEL
from facecycle_jax.paths import given_path

# Images read before they are computed together.
CHUNK = 64
# Value of --face for all faces of a photograph.
ALL = "all"


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
        "--face",
        "--which",
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
    """Raises UserError if --face asks for faces that nothing finds or shows."""
    # Not every command has --paste, which finds faces itself.
    if getattr(arguments, "paste", False):
        return
    if arguments.which == ALL:
        raise UserError("--face all needs --paste, because panels show one face each.")
    if arguments.which != "largest" and not arguments.crop:
        raise UserError(
            "--face chooses among the faces that --crop finds: give --crop too."
        )


def _which(text: str) -> str | int:
    """Reads the value of --face."""
    return _read_which(text, "largest, centre, or a number from 0")


def _which_or_all(text: str) -> str | int:
    """Reads the value of --face where all faces may be requested."""
    if text == ALL:
        return text
    return _read_which(text, "largest, centre, a number from 0, or with --paste all")


def _read_which(text: str, choices: str) -> str | int:
    """Reads a choice of one face; `choices` describes all in the message."""
    if text in ("largest", "centre"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it is {choices}, not {text!r}")
    return int(text)


@dataclasses.dataclass
class Problems:
    """Images that were left out, reported at the end and in the exit status."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def add(self, path: epath.Path, error: Exception) -> None:
        """Adds an image that cannot be used, with the error that says why.

        An image that is both a source and a driver is added once.
        """
        text = str(error)
        line = text if str(path) in text else f"{path}: {text}"
        if line not in self.lines:
            self.lines.append(line)

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


def read_names(path: str | None, *, name: str = "--without") -> list[str]:
    """Reads a file of names, one a line.

    Args:
      path: the file, or None for no names.
      name: the option that names it, for messages.

    Returns:
      The names.

    Raises:
      FileNotFoundError: If there is no such file.
      UserError: If the path is empty or an address, or the file is not text in UTF-8.
    """
    if path is None:
        return []

    file = given_path(path, name=name)
    try:
        # Some editors begin a text with a byte-order mark.
        text = file.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{name}: there is no file {path}.") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{name}: {path} is not text in UTF-8: save the names in that encoding."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def find(inputs: Sequence[str], *, name: str = "an input") -> list[epath.Path]:
    """Lists the images of files and folders.

    Args:
      inputs: files and folders; folders are searched recursively.
      name: what they are, for messages.

    Returns:
      Paths, each once.

    Raises:
      FileNotFoundError: If one does not exist.
      UserError: If a path is empty or an address, or a folder has no image.
    """
    found: dict[str, epath.Path] = {}

    for text in inputs:
        path = given_path(text, name=name)
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {text}.")
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
      FileNotFoundError: If there is no such file.
      MissingExtraError: If a face is to be found and dlib is not installed.
    """
    # A face may be any part of the image, so it is searched for at full size.
    image = read_image(path, at_least=0 if crop else size)

    if crop:
        from facecycle_jax.data.images.face_crop import NoFaceError, crop_face

        try:
            image = crop_face(image, which=which, framing=framing).crop
        except NoFaceError as error:
            raise UserError(f"{path}: {error}") from None

    return square(image, size=size)


def which_of_driver(arguments: argparse.Namespace) -> str | int:
    """Returns the face to take of a driver.

    Args:
      arguments: those of `add_options` and --paste.

    Returns:
      As --face.
    """
    # With --paste the option names the faces of the photograph.
    which: str | int = "largest" if arguments.paste else arguments.which
    return which


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
      which: which of several faces, with --crop; None takes that of --face.

    Yields:
      Paths and images uint8 [N, S, S, 3], N at least 1.

    Raises:
      MissingExtraError: If faces are to be found and dlib is not installed.
      UserError: If the model draws no faces.
    """
    # A model that draws no faces says so here, and not for every image.
    size = model.size
    framing = model.framing
    if which is None:
        which = arguments.which

    with tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(paths), CHUNK):
            kept = []
            images = []

            for path in paths[start : start + CHUNK]:
                try:
                    face = read_face(
                        path,
                        size=size,
                        crop=arguments.crop,
                        which=which,
                        framing=framing,
                    )
                except MissingExtraError:
                    # Every image would lack it.
                    raise
                except (UserError, OSError) as error:
                    problems.add(path, error)
                else:
                    images.append(face)
                    kept.append(path)

            if kept:
                yield kept, np.stack(images)
            bar.update(min(CHUNK, len(paths) - start))
