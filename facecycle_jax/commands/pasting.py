"""Faces in photographs and videos, drawn anew and put back: the option --paste."""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from facecycle_jax.commands import following, inputs, outputs
from facecycle_jax.commands.following import Followed
from facecycle_jax.data.images.framing import FRAMING, Framing, Square, cut_square
from facecycle_jax.data.images.media_files import is_video_name
from facecycle_jax.data.images.paste_back import Colours, match_colours, paste_face
from facecycle_jax.data.images.reading import WholeImage, read_whole_image
from facecycle_jax.data.images.reading import square as shrunk
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load
from facecycle_jax.paths import given_path

# Frames of a video that are drawn together. They are held at full size.
_CHUNK = 8
# How far the colours of a face go to those of the next frame, against flicker.
_COLOURS_FOLLOW = 0.3

# Draws faces uint8 [N, S, S, 3] anew.
Draw = Callable[[np.ndarray], np.ndarray]


class Photograph(NamedTuple):
    """A photograph and the faces in it that are drawn anew.

    Attributes:
      whole: the image at its own resolution, with transparency and colour profile.
      squares: place of each face, left to right.
      faces: uint8 [F, S, S, 3], what the model reads.
    """

    whole: WholeImage
    squares: list[Square]
    faces: np.ndarray

    @property
    def image(self) -> np.ndarray:
        """The photograph uint8 [H, W, 3], with transparent parts white."""
        return self.whole.image

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile of the photograph."""
        return self.whole.icc_profile

    def paste(self, drawn: np.ndarray) -> np.ndarray:
        """Puts drawn faces uint8 [F, S, S, 3] back.

        Returns:
          uint8 [H, W, 3], or [H, W, 4] with the photograph's transparency.
        """
        pasted = self._paste_onto(self.whole.colour, drawn)
        if self.whole.alpha is None:
            return pasted
        return np.concatenate([pasted, self.whole.alpha[..., None]], axis=2)

    def paste_frame(self, drawn: np.ndarray, colours: Sequence[Colours]) -> np.ndarray:
        """Puts drawn faces back for a frame of a video, which has no transparency.

        Args:
          drawn: uint8 [F, S, S, 3].
          colours: of each face.

        Returns:
          uint8 [H, W, 3].
        """
        return self._paste_onto(self.image, drawn, colours)

    def _paste_onto(
        self,
        image: np.ndarray,
        drawn: np.ndarray,
        colours: Sequence[Colours] | None = None,
    ) -> np.ndarray:
        """Puts drawn faces onto an image uint8 [H, W, 3]; returns another one."""
        result = image
        for index, (face, square) in enumerate(zip(drawn, self.squares, strict=True)):
            # Colours are those of the photograph, not of neighbours pasted before.
            if colours is None:
                found = match_colours(self.image, face, square)
            else:
                found = colours[index]
            result = paste_face(result, face, square, colours=found)
        return result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --paste and --max-frames."""
    parser.add_argument(
        "--paste",
        action="store_true",
        help="find the face, and put what is drawn back into the photograph or video, "
        "at its own resolution; needs facecycle_jax[face]",
    )
    parser.add_argument(
        "--max-frames", type=int, help="most frames that are read of a video"
    )


def is_video(path: str) -> bool:
    """Whether a path names a video by its ending."""
    return is_video_name(os.path.basename(path))


def needs_paste(video: str) -> UserError:
    """Makes the error for a video that is to be drawn anew without --paste."""
    return UserError(
        f"{video} is a video: use --paste, which draws its face anew in every frame."
    )


def check_max_frames(arguments: argparse.Namespace) -> None:
    """Raises UserError if --max-frames is given and no input is a video."""
    if arguments.max_frames is not None:
        raise UserError(
            "--max-frames shortens a video, and no input is one: leave it out."
        )


def check_video_output(out: str) -> epath.Path:
    """Checks the ending of a video that is written.

    Args:
      out: value of --out.

    Returns:
      The path.

    Raises:
      UserError: If the path is empty, an address or in a bucket, or its ending is not
        one of those that can be written.
      MissingExtraError: If PyAV is not installed.
    """
    from facecycle_jax.data.images.video import FORMATS

    path = given_path(out, name="--out", local=True)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out must end in {', '.join(FORMATS)} here, got {out}.")
    return path


def read_photograph(
    path: epath.Path, *, size: int, which: str | int, framing: Framing = FRAMING
) -> Photograph:
    """Reads a photograph and finds the faces to draw anew.

    Args:
      path: the photograph's file.
      size: side of the faces that the model reads, in pixels.
      which: the face: largest, centre, a place from the left, or all.
      framing: where the eyes are to be in the faces.

    Returns:
      The photograph.

    Raises:
      UserError: If it cannot be read or no such face is found, in one sentence.
      MissingExtraError: If dlib is not installed.
    """
    from facecycle_jax.data.images.face_crop import NoFaceError, crop_face, crop_faces

    whole = read_whole_image(path)
    try:
        if which == inputs.ALL:
            found = crop_faces(whole.image, framing=framing)
        else:
            found = [crop_face(whole.image, which=which, framing=framing)]
    except NoFaceError as error:
        raise UserError(f"{path}: {error}") from None

    return Photograph(
        whole=whole,
        squares=[face.box for face in found],
        faces=np.stack([shrunk(face.crop, size=size) for face in found]),
    )


def photographs(
    arguments: argparse.Namespace,
    paths: Sequence[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
) -> Iterator[tuple[epath.Path, Photograph]]:
    """Reads photographs one by one; those that cannot be used become problems.

    Args:
      arguments: those of `inputs.add_options`.
      paths: the photographs.
      problems: collects what cannot be used.
      model: the model that reads the faces.

    Yields:
      The path and the photograph.

    Raises:
      MissingExtraError: If dlib is not installed.
      UserError: If the model draws no faces.
    """
    # A model that draws no faces says so here, and not for every photograph.
    size = model.size
    framing = model.framing

    hidden = not sys.stderr.isatty()
    for path in tqdm(paths, unit="image", disable=hidden):
        try:
            photograph = read_photograph(
                path, size=size, which=arguments.which, framing=framing
            )
        except MissingExtraError:
            # Every photograph would lack it.
            raise
        except (UserError, OSError) as error:
            problems.add(path, error)
        else:
            yield path, photograph


def paste_video(
    arguments: argparse.Namespace,
    video: str,
    drawing: Callable[[FaceCycle], Draw],
) -> int:
    """Writes a video in which a face is drawn anew, as a command.

    Resolution, times and sound stay. Frames without a face stay as they are.

    Args:
      arguments: those of `inputs.add_options` and `add_options`.
      video: the video to read.
      drawing: makes the function that draws faces of following frames anew.

    Returns:
      The exit status.

    Raises:
      UserError: If an option is wrong, no face is found in any frame, or see
        `edit_video`.
      FileExistsError: If the output exists and is not to be replaced.
    """
    from facecycle_jax.data.images.video import edit_video

    out = check_video_output(arguments.out)
    source = given_path(video, name="the video", local=True)
    outputs.check_free([out], overwrite=arguments.overwrite, sources=[source])
    if arguments.which == inputs.ALL:
        raise UserError("--face all works on photographs; in a video choose one face.")

    model = load(arguments.model)
    draw = drawing(model)

    def change(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        followed = following.follow_square(
            frames, which=arguments.which, framing=model.framing
        )
        smooth = SmoothColours()
        any_face = False

        for held in _chunked(progress(followed)):
            faces = [
                shrunk(cut_square(frame, square), size=model.size)
                for frame, square, _ in held
                if square is not None
            ]
            any_face = any_face or bool(faces)
            redrawn: Iterable[np.ndarray] = draw(np.stack(faces)) if faces else ()
            drawn = iter(redrawn)

            for frame, square, starts in held:
                if square is None:
                    yield frame
                    continue
                if starts:
                    # Colours of another scene would be those of another light.
                    smooth.forget(0)
                face = next(drawn)
                colours = smooth(0, frame, face, square)
                yield paste_face(frame, face, square, colours=colours)

        if not any_face:
            raise UserError(f"{video}: no face was found in any frame.")

    count = edit_video(source, out, change, max_frames=arguments.max_frames)
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


class SmoothColours:
    """Colours of pasted faces that change slowly from frame to frame."""

    def __init__(self) -> None:
        self._before: dict[int, Colours] = {}

    def __call__(
        self, index: int, image: np.ndarray, face: np.ndarray, square: Square
    ) -> Colours:
        """Finds the colours of a face.

        Args:
          index: number of the face among those followed.
          image: uint8 [H, W, 3], the frame.
          face: uint8 [S, S, 3], what was drawn.
          square: its place in the frame.

        Returns:
          Colours between those of the frames before and this one's.
        """
        found = match_colours(image, face, square)
        if index in self._before:
            found = self._before[index].towards(found, _COLOURS_FOLLOW)
        self._before[index] = found
        return found

    def forget(self, index: int) -> None:
        """Starts anew at a face, as in another scene."""
        self._before.pop(index, None)


def progress(frames: Iterable[Followed]) -> Iterator[Followed]:
    """Counts frames on a terminal while they pass."""
    yield from tqdm(frames, unit="frame", disable=not sys.stderr.isatty())


def _chunked(frames: Iterator[Followed]) -> Iterator[list[Followed]]:
    """Collects frames that are drawn together."""
    while held := list(itertools.islice(frames, _CHUNK)):
        yield held
