"""Encoding: from the raw files of one track to its encoded frames.

Any process can prepare any track. This module does not need tensorflow, so that workers
of any engine can run it.
"""

import dataclasses
import io
import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from facecycle_jax.data.images.face_crop import frame_image
from facecycle_jax.data.images.framing import Cut, check_cut
from facecycle_jax.data.images.media_files import (
    is_image_name,
    is_video_name,
    open_image_file,
    walk,
)
from facecycle_jax.data.images.reading import (
    one_sentence,
    open_image,
    read_image,
    square,
    to_rgb,
)
from facecycle_jax.data.images.video import MAX_FPS
from facecycle_jax.data.sources.folder import find_tracks
from facecycle_jax.errors import MissingExtraError, UserError

_QUALITY = 95
# Frames beyond this size of a track are left out. A track is one record, which
# TensorFlow limits to 2 GB.
MAX_TRACK_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Source:
    """One track before it is prepared.

    Attributes:
      identity: name of the person.
      name: path of the track below the root.
      path: a folder of images, one image, or a video.
      left_out: names of links in the folder to images that are listed elsewhere.
      is_single: whether `path` is one image in the root instead of a folder.
    """

    identity: str
    name: str
    path: str
    left_out: tuple[str, ...] = ()
    is_single: bool = False

    @property
    def is_video(self) -> bool:
        """Whether `path` is a video; a folder may have the name of one."""
        name = os.path.basename(self.path)
        return is_video_name(name) and not os.path.isdir(self.path)


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """Options of the frames.

    Attributes:
      fps: frames per second taken from videos, above 0 and at most 1000.
      max_frames: largest number of frames of a track, evenly spread; 0: all.
      size: side in pixels to which frames are centre-cropped and resized; 0: unchanged.
      crop: whether the face is found and cut out first.
      cut: left, top and side of a square that is cut out, as fractions of the shorter
        side. With `crop`, only frames without a face are cut. None: no cut, and such
        frames are left out.
    """

    fps: float = 5.0
    max_frames: int = 0
    size: int = 0
    crop: bool = False
    cut: Cut | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS or self.max_frames < 0 or self.size < 0:
            raise UserError(
                f"fps must be above 0 and at most {MAX_FPS:g}, max_frames and size at "
                f"least 0, got {self.fps}, {self.max_frames} and {self.size}."
            )
        if self.cut is not None:
            check_cut(self.cut)

    @property
    def reencodes(self) -> bool:
        """Whether images are encoded again instead of copied byte for byte."""
        return self.size > 0 or self.crop or self.cut is not None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared track.

    Attributes:
      frames: the encoded frames in their order.
      left_out: one line for each file or frame that is left out.
    """

    frames: tuple[bytes, ...]
    left_out: tuple[str, ...]


def image_sources(
    root: str, *, identity_depth: int = 1, pattern: str = "", layout: str = ""
) -> list[Source]:
    """Lists folders of images as `data.source='folder'` does.

    Args:
      root: the root.
      identity_depth: number of folders below it that name a person.
      pattern: a regular expression that every folder's path below the root must match;
        '': any.
      layout: the pattern in words, for the message.

    Returns:
      One source for each folder that holds images, and for each image in the root
      itself.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If nothing is found, or a folder does not match.
    """
    found = find_tracks([root], origin=root, identity_depth=identity_depth)
    if not found:
        raise UserError(f"{root} holds no images.")

    sources = []
    for track in sorted(found, key=lambda track: (track.identity, track.name)):
        if pattern and not re.fullmatch(pattern, track.name):
            raise UserError(
                f"{root} must hold {layout}, and has images in {track.name!r}."
            )

        source = Source(
            identity=track.identity,
            name=track.name,
            path=track.path,
            left_out=track.left_out,
            is_single=track.is_single,
        )
        sources.append(source)

    return sources


def video_sources(root: str) -> list[Source]:
    """Lists videos in `<identity>/<video>/*.mp4`, one track each.

    Args:
      root: the root.

    Returns:
      One source for each video.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If nothing is found, or a video lies elsewhere.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"There is no folder {root!r}.")

    sources = []
    for folder in walk([root]):
        for file in folder.files:
            if not is_video_name(file):
                continue

            path = os.path.join(folder.path, file)
            parts = os.path.relpath(path, root).split(os.sep)
            if len(parts) != 3:
                raise UserError(
                    f"{root} must hold <identity>/<video>/*.mp4, and has "
                    f"{'/'.join(parts)!r}."
                )

            source = Source(identity=parts[0], name="/".join(parts), path=path)
            sources.append(source)

    if not sources:
        raise UserError(f"{root} holds no videos <identity>/<video>/*.mp4.")

    return sources


def prepare_track(source: Source, options: FrameOptions) -> Prepared:
    """Reads one track.

    Args:
      source: the track.
      options: options of the frames.

    Returns:
      Its frames. Files that cannot be read are left out, with a line that names each
      and its reason.
    """
    if source.is_video:
        return _video(source, options)
    return _images(source, options)


def chosen(count: int, most: int) -> Sequence[int]:
    """Spreads `most` indices evenly over 0 .. count - 1; 0 takes all."""
    if not most or count <= most:
        return range(count)

    # The middles of `most` equal parts.
    return [int((index + 0.5) * count / most) for index in range(most)]


class _Frames:
    """Collects the frames of a track, up to `MAX_TRACK_BYTES`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bytes = 0
        self.frames: list[bytes] = []
        self.left_out: list[str] = []

    def add(self, frame: bytes) -> bool:
        """Keeps a frame; returns False and records a line if the track is full."""
        if self._bytes + len(frame) > MAX_TRACK_BYTES:
            self.left_out.append(
                f"{self._path}: what follows frame {len(self.frames)} is left out, "
                f"because a track may have {MAX_TRACK_BYTES:,} bytes; use "
                "--max-frames, --size or --fps."
            )
            return False

        self.frames.append(frame)
        self._bytes += len(frame)

        return True

    def prepared(self, noun: str) -> Prepared:
        """Returns the frames kept and the lines recorded."""
        if not self.frames:
            self.left_out.append(f"{self._path}: the track has no {noun} left.")
        return Prepared(tuple(self.frames), tuple(self.left_out))


def _images(source: Source, options: FrameOptions) -> Prepared:
    """Reads a folder of images, or one image."""
    try:
        if os.path.isdir(source.path):
            names = sorted(set(os.listdir(source.path)) - set(source.left_out))
            names = [name for name in names if is_image_name(name)]
            paths = [os.path.join(source.path, name) for name in names]
        else:
            paths = [source.path]
    except OSError as error:
        return Prepared((), (f"{source.path}: {error.strerror or error}.",))

    kept = _Frames(source.path)
    for index in chosen(len(paths), options.max_frames):
        try:
            frame = _image(paths[index], options)
        except MissingExtraError:
            raise
        except (UserError, OSError) as error:
            kept.left_out.append(_line(paths[index], error))
            continue
        if not kept.add(frame):
            break

    return kept.prepared("image")


def _image(path: str, options: FrameOptions) -> bytes:
    """Reads one image file as the options say and checks that it is whole."""
    if options.reencodes:
        # A face may be any part of the image, so it is looked for at full size.
        needed = 0 if options.crop else options.size
        return _encode(_shaped(read_image(path, at_least=needed), options))

    content, _ = read_checked(path)
    return content


def read_checked(path: str) -> tuple[bytes, str]:
    """Reads an image file and checks that all of it can be decoded.

    Args:
      path: the file.

    Returns:
      Its bytes, and its format as Pillow names it, for example 'JPEG'.

    Raises:
      UserError: If it is not an image or is damaged. The message names the file.
      OSError: If it cannot be read.
    """
    with open_image_file(path) as file:
        content = file.read()

    with one_sentence(path), open_image(io.BytesIO(content)) as image:
        # Decoding at a small size still reads all of a JPEG and detects a cut-off file.
        image.draft("RGB", (64, 64))
        to_rgb(image, 64)
        form = image.format or ""

    return content, form


def _video(source: Source, options: FrameOptions) -> Prepared:
    """Reads a video."""
    from facecycle_jax.data.images.video import count_frames, read_video

    kept = _Frames(source.path)
    try:
        # Which frames are kept depends on their number. They are counted first, so that
        # no other frames are held in memory.
        total = count_frames(source.path, fps=options.fps) if options.max_frames else 0
        wanted = set(chosen(total, options.max_frames))
        video = read_video(source.path, fps=options.fps)

        for number, image in enumerate(video.frames):
            if options.max_frames and number not in wanted:
                continue

            try:
                frame = _encode(_shaped(image, options))
            except MissingExtraError:
                raise
            except UserError as error:
                kept.left_out.append(f"{source.path}, frame {number}: {error}")
                continue
            if not kept.add(frame):
                break
    except MissingExtraError:
        raise
    except (UserError, OSError) as error:
        kept.left_out.append(_line(source.path, error))

    return kept.prepared("frame")


def _shaped(image: np.ndarray, options: FrameOptions) -> np.ndarray:
    """Crops and resizes an image according to the options."""
    if options.crop or options.cut is not None:
        image = frame_image(image, crop=options.crop, cut=options.cut).image
    return square(image, size=options.size) if options.size else image


def _encode(image: np.ndarray) -> bytes:
    """Encodes an image as JPEG, with colours at full size because images are small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 [H, W, 3], as PNG without loss."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _line(path: str, error: Exception) -> str:
    """Explains in one line why a file is left out."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason if path in reason else f"{path}: {reason}"
