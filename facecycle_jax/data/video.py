"""Frames of a video in, a video of frames out: uint8 [H, W, 3] RGB. Needs the extra `video`."""

import itertools
import uuid
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from facecycle_jax.errors import MissingExtraError, UserError

# What a file's ending stands for; all are written as H.264, which every player knows.
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


class Video(NamedTuple):
    """The frames of a video file.

    Attributes:
      frames: uint8 [H, W, 3] each, upright, decoded as they are asked for; once through only.
      fps: frames per second.
    """

    frames: Iterator[np.ndarray]
    fps: float


def read_video(path: epath.PathLike, *, max_frames: int | None = None, fps: float | None = None) -> Video:
    """Opens a video for reading frame by frame.

    Args:
      path: the file, in any format that FFmpeg reads.
      max_frames: stop after this many frames; None reads all.
      fps: frames per second to bring the video to, repeating or leaving out frames by their time;
        None keeps the frames as they are.

    Returns:
      The frames, and their number per second. Damage found while reading raises a ValueError from
      the iterator, after the frames before it.

    Raises:
      ValueError: if the file is no video, has no frame, or an option is not above 0.
      FileNotFoundError: if there is no such file.
      ImportError: if PyAV is not installed.
    """
    if (max_frames is not None and max_frames < 1) or (fps is not None and not fps > 0):
        raise UserError(f"max_frames and fps must be above 0, got {max_frames} and {fps}.")
    av = _load_av()
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video: {_reason(error)}.") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no pictures, only other streams.")
    rate = container.streams.video[0].average_rate or Fraction(25)
    timed = _decode(av, container, str(path), rate)
    frames = (frame for _, frame in timed) if fps is None else _resample(timed, fps)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path} has no frames.")
    chained = itertools.chain([first], frames)
    return Video(itertools.islice(chained, max_frames), float(rate if fps is None else fps))


def write_video(path: epath.PathLike, frames: Iterable[np.ndarray], *, fps: float) -> None:
    """Writes frames as a video, whole or not at all.

    Args:
      path: where to, on a local disk, ending in .mp4, .m4v, .mov or .mkv; an existing file is
        replaced.
      frames: uint8 [H, W, 3] each, of one size; an odd side grows by one repeated line, which the
        format needs.
      fps: frames per second.

    Raises:
      ValueError: if there is no frame, one is not like the first, or the ending or fps is wrong.
      ImportError: if PyAV is not installed.
    """
    path = epath.Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"A video ends in {', '.join(FORMATS)}, got {path.name}.")
    if not fps > 0:
        raise UserError(f"fps must be above 0, got {fps}.")
    av = _load_av()
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise UserError(f"There are no frames to write to {path}.")
    _check_frame(first, 0, np.shape(first))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with av.open(str(partial), "w", format=FORMATS[path.suffix.lower()]) as container:
            _encode(av, container, itertools.chain([first], iterator), np.shape(first), fps)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _encode(
    av: ModuleType, container: Any, frames: Iterable[np.ndarray], shape: tuple[int, ...], fps: float
) -> None:
    """Writes frames into an open container."""
    down, right = shape[0] % 2, shape[1] % 2
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(65535))
    stream.height, stream.width = shape[0] + down, shape[1] + right
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "17"}
    for index, frame in enumerate(frames):
        _check_frame(frame, index, shape)
        padded = np.pad(frame, ((0, down), (0, right), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        container.mux(stream.encode(picture))
    container.mux(stream.encode())


def _check_frame(frame: np.ndarray, index: int, shape: tuple[int, ...]) -> None:
    """Checks that a frame is a picture of the given shape."""
    frame = np.asarray(frame)
    fits = frame.ndim == 3 and frame.shape[-1] == 3 and 0 not in frame.shape
    if frame.dtype != np.uint8 or not fits or frame.shape != shape:
        wanted = f"uint8 {list(shape)} as the first" if index else "uint8 [H, W, 3]"
        raise UserError(f"Frame {index} must be {wanted}, got {frame.dtype} {list(frame.shape)}.")


def _load_av() -> ModuleType:
    """Imports PyAV."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("Videos need PyAV: pip install 'facecycle_jax[video]'.") from error
    return av


def _reason(error: Exception) -> str:
    """Shortens FFmpeg's message to its reason."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _decode(av: ModuleType, container: Any, name: str, rate: Fraction) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes (seconds from the first frame, upright frame) and closes the container at the end."""
    count, start = 0, None
    with container:
        try:
            for frame in container.decode(video=0):
                start = frame.time if start is None else start
                timed = frame.time is not None and start is not None
                seconds = frame.time - start if timed else float(count / rate)
                picture = frame.to_ndarray(format="rgb24")
                # Telephones store how the camera was held; FFmpeg counts counter-clockwise.
                turns = round(frame.rotation / 90) % 4
                yield seconds, np.ascontiguousarray(np.rot90(picture, turns))
                count += 1
        except av.FFmpegError as error:
            reason = f"{name} is damaged after frame {count}: {_reason(error)}."
            raise UserError(reason) from error


def _resample(timed: Iterator[tuple[float, np.ndarray]], fps: float) -> Iterator[np.ndarray]:
    """Yields the frame shown at each of the times 0, 1/fps, 2/fps, ... up to the last frame's."""
    index, shown, seconds = 0, None, 0.0
    for seconds, frame in timed:
        while shown is not None and index / fps < seconds - 1e-6:
            yield shown
            index += 1
        shown = frame
    if shown is not None and index / fps <= seconds + 1e-6:
        yield shown
