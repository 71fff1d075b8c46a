"""From raw files to the encoded frames of a track, one track at a time; any process can do any track.

Nothing here needs tensorflow, so that workers of any engine run it.
"""

import dataclasses
import io
import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from facecycle_jax.data.face_crop import frame_image
from facecycle_jax.data.folder import SUFFIXES, scan_folder
from facecycle_jax.data.framing import Cut, check_cut
from facecycle_jax.data.pictures import read_picture, square
from facecycle_jax.errors import UserError

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv")
_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Source:
    """One track before it is prepared.

    Attributes:
      identity: the person.
      name: the track's path below the root.
      path: a folder of pictures, one picture, or a video.
    """

    identity: str
    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """What becomes of the frames.

    Attributes:
      fps: frames a second taken of videos, above 0.
      max_frames: most frames of a track, evenly spread; 0: all.
      size: side in pixels to which frames are cut square and resized; 0: they stay as they are.
      crop: whether the face is found and cut out first.
      cut: left, top and side of a square that is cut out, fractions of the shorter side; with `crop` only of
        frames in which no face is found. None: no cut, and such frames are left out.
    """

    fps: float = 5.0
    max_frames: int = 0
    size: int = 0
    crop: bool = False
    cut: Cut | None = None

    def __post_init__(self) -> None:
        if not self.fps > 0 or self.max_frames < 0 or self.size < 0:
            raise UserError(
                f"fps must be above 0, max_frames and size at least 0, got {self.fps}, {self.max_frames} and "
                f"{self.size}."
            )
        if self.cut is not None:
            check_cut(self.cut)

    @property
    def reencodes(self) -> bool:
        """Whether pictures are drawn anew; if not, their bytes are taken over as they are."""
        return self.size > 0 or self.crop or self.cut is not None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A track's encoded frames in their order, and one line for each file or frame left out."""

    frames: tuple[bytes, ...]
    left_out: tuple[str, ...]


def picture_sources(
    root: str, *, identity_depth: int = 1, pattern: str = "", layout: str = ""
) -> list[Source]:
    """Lists folders of pictures as `data.source='folder'` does.

    Args:
      root: the root.
      identity_depth: folders below it that name a person.
      pattern: a regular expression that every folder's path below the root must match; '': any.
      layout: the pattern in words, for the message.

    Returns:
      One source for each folder that holds pictures, and for each picture in the root itself.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if nothing is found, or a folder does not match.
    """
    tracks = scan_folder(root, identity_depth=identity_depth)
    sources = []
    for person, name in zip(tracks.identities, tracks.names, strict=True):
        relative = name.removeprefix(f"{root}/")
        if pattern and not re.fullmatch(pattern, relative):
            raise UserError(f"{root} must hold {layout}, and has pictures in {relative!r}.")
        path = os.path.join(root, relative)
        sources.append(Source(person.removeprefix(f"{root}/"), relative, path))
    return sources


def video_sources(root: str) -> list[Source]:
    """Lists videos in `<identity>/<video>/*.mp4`, one track each.

    Args:
      root: the root.

    Returns:
      One source for each video.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if nothing is found, or a video lies elsewhere.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"There is no folder {root!r}.")
    sources = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders.sort()
        for file in sorted(files):
            if not file.lower().endswith(VIDEOS) or file.startswith("."):
                continue
            path = os.path.join(folder, file)
            parts = os.path.relpath(path, root).split(os.sep)
            if len(parts) != 3:
                raise UserError(f"{root} must hold <identity>/<video>/*.mp4, and has {'/'.join(parts)!r}.")
            sources.append(Source(parts[0], "/".join(parts), path))
    if not sources:
        raise UserError(f"{root} holds no videos <identity>/<video>/*.mp4.")
    return sources


def prepare_track(source: Source, options: FrameOptions) -> Prepared:
    """Reads one track.

    Args:
      source: where it is.
      options: what becomes of its frames.

    Returns:
      Its frames; what cannot be read is left out, with a line that names it and says why.
    """
    if source.path.lower().endswith(VIDEOS):
        return _video(source, options)
    return _pictures(source, options)


def chosen(count: int, most: int) -> Sequence[int]:
    """Spreads `most` places evenly over 0 .. count - 1; 0 takes all."""
    if not most or count <= most:
        return range(count)
    return [int((place + 0.5) * count / most) for place in range(most)]


def _pictures(source: Source, options: FrameOptions) -> Prepared:
    """Reads a folder of pictures, or one picture."""
    try:
        if os.path.isdir(source.path):
            names = sorted(
                f for f in os.listdir(source.path) if f.lower().endswith(SUFFIXES) and not f.startswith(".")
            )
            paths = [os.path.join(source.path, name) for name in names]
        else:
            paths = [source.path]
    except OSError as error:
        return Prepared((), (f"{source.path}: {error.strerror or error}.",))
    frames, left_out = [], []
    for index in chosen(len(paths), options.max_frames):
        try:
            frames.append(_picture(paths[index], options))
        except (ValueError, OSError) as error:
            left_out.append(_line(paths[index], error))
    if not frames:
        left_out.append(f"{source.path}: the track has no picture left.")
    return Prepared(tuple(frames), tuple(left_out))


def _picture(path: str, options: FrameOptions) -> bytes:
    """Reads one picture file, whole and decodable."""
    if options.reencodes:
        return _encode(_shaped(read_picture(path), options))
    with open(path, "rb") as file:
        content = file.read()
    try:
        with Image.open(io.BytesIO(content)) as image:
            # A small decode reads all of a JPEG all the same, and so finds where it is cut off.
            image.draft("RGB", (64, 64))
            read_picture(image)
    except (OSError, SyntaxError) as error:
        raise UserError(f"it cannot be read as a picture: {error}.") from None
    return content


def _video(source: Source, options: FrameOptions) -> Prepared:
    """Reads a video."""
    from facecycle_jax.data.video import read_video

    frames: list[bytes] = []
    left_out: list[str] = []
    try:
        for number, picture in enumerate(read_video(source.path, fps=options.fps).frames):
            try:
                frames.append(_encode(_shaped(picture, options)))
            except ValueError as error:
                left_out.append(f"{source.path}, frame {number}: {error}")
    except (ValueError, OSError) as error:
        left_out.append(_line(source.path, error))
    if not frames:
        left_out.append(f"{source.path}: the track has no frame left.")
    kept = [frames[index] for index in chosen(len(frames), options.max_frames)]
    return Prepared(tuple(kept), tuple(left_out))


def _shaped(picture: np.ndarray, options: FrameOptions) -> np.ndarray:
    """Finds the face and resizes, as the options say."""
    if options.crop or options.cut is not None:
        picture = frame_image(picture, crop=options.crop, cut=options.cut).image
    return square(picture, size=options.size) if options.size else picture


def _encode(picture: np.ndarray) -> bytes:
    """Encodes a picture as JPEG, colours at full size: the pictures are small."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a picture uint8 [H, W, 3] without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _line(path: str, error: Exception) -> str:
    """Says in one line why a file is left out."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason if path in reason else f"{path}: {reason}"
