"""Videos: frames, uint8 [H, W, 3] RGB, are read from a file or written to one.

This module needs the extra `video`.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from facecycle_jax.data.images.media_files import VIDEO_FORMATS
from facecycle_jax.data.images.reading import MAX_PIXELS
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.files import under_another_name

# No video has a higher rate.
MAX_FPS = 1000.0
# A frame is shown for at most this many seconds. Clocks of damaged or joined files jump
# by hours.
_LONGEST_STILL = 10.0
# Container of each ending of a written file. The codec is H.264, which every player
# supports.
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


class Video(NamedTuple):
    """The frames of a video file.

    Attributes:
      frames: uint8 [H, W, 3] each, upright, decoded on demand. The iterator can be used
        once.
      fps: frames per second.
    """

    frames: Iterator[np.ndarray]
    fps: float


def read_video(
    path: epath.PathLike, *, max_frames: int | None = None, fps: float | None = None
) -> Video:
    """Opens a video for reading frame by frame.

    Args:
      path: the file, a regular one: AVI, Matroska, MOV, MP4 or WebM, whatever its
        ending. Nothing else is opened, whatever is in it.
      max_frames: stop after this many frames; None reads all.
      fps: frames per second to resample the video to, at most 1000, by repeating or
        leaving out frames according to their time; None keeps the frames as they are. A
        frame that is shown for more than 10 seconds, or until an earlier time, counts
        as shown for as long as the others.

    Returns:
      The frames, and their number per second. Damage found while reading raises a
      UserError from the iterator, after the frames before it.

    Raises:
      UserError: If the file is no video, has no frame or too large ones, or an option
        is out of range.
      FileNotFoundError: If there is no such file.
      MissingExtraError: If PyAV is not installed.
    """
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames must be above 0, got {max_frames}.")

    av = _load_av()
    container, rate = _open(av, path)
    timed = _decode(av, container, os.fspath(path), rate, _to_array)
    frames: Iterator[Any] = (frame for _, frame in timed)
    if fps is not None:
        frames = _resample(timed, fps, rate)

    # Read one frame now, so that an empty or damaged file is reported here.
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path} has no frames.")

    chained = itertools.chain([first], frames)
    limited = itertools.islice(chained, max_frames)

    return Video(frames=limited, fps=float(rate if fps is None else fps))


def count_frames(path: epath.PathLike, *, fps: float) -> int:
    """Counts the frames of `read_video` up to the first damage, without keeping any.

    Args:
      path: the file.
      fps: frames per second to resample the video to.

    Returns:
      The number.

    Raises:
      UserError: If the file is no video, or `fps` is out of range.
      FileNotFoundError: If there is no such file.
      MissingExtraError: If PyAV is not installed.
    """
    av = _load_av()
    container, rate = _open(av, path)
    times = _decode(av, container, os.fspath(path), rate, lambda frame: True)
    count = 0
    try:
        for _ in _resample(times, fps, rate):
            count += 1
    except UserError:
        # The caller meets the damage again while reading the frames, and reports it.
        return count

    return count


def write_video(
    path: epath.PathLike, frames: Iterable[np.ndarray], *, fps: float
) -> None:
    """Writes frames as a video; a failure leaves no partial file.

    Args:
      path: a file on a local disk, ending in .mp4, .m4v, .mov or .mkv. An existing file
        is replaced.
      frames: uint8 [H, W, 3] each, of one size. An odd side grows by one repeated line,
        because the format needs even sides.
      fps: frames per second.

    Raises:
      UserError: If there is no frame, one is not like the first, or the ending or fps
        is invalid.
      MissingExtraError: If PyAV is not installed.
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
    form = FORMATS[path.suffix.lower()]
    with (
        under_another_name(path) as partial,
        av.open(str(partial), "w", format=form) as container,
    ):
        _encode(av, container, itertools.chain([first], iterator), np.shape(first), fps)


def _encode(
    av: ModuleType,
    container: Any,
    frames: Iterable[np.ndarray],
    shape: tuple[int, ...],
    fps: float,
) -> None:
    """Writes frames into an open container."""
    # yuv420p halves the resolution of colour, so both sides must be even. A constant
    # rate factor of 17 is nearly lossless to the eye.
    down, right = shape[0] % 2, shape[1] % 2
    rate = Fraction(fps).limit_denominator(65535)
    stream = container.add_stream("libx264", rate=rate)
    stream.height = shape[0] + down
    stream.width = shape[1] + right
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "17"}

    for index, frame in enumerate(frames):
        _check_frame(frame, index, shape)
        padded = np.pad(frame, ((0, down), (0, right), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        container.mux(stream.encode(image))

    # Flush the frames that the encoder still holds.
    container.mux(stream.encode())


def _check_frame(frame: np.ndarray, index: int, shape: tuple[int, ...]) -> None:
    """Checks that a frame is an image of the given shape."""
    frame = np.asarray(frame)
    fits = frame.ndim == 3 and frame.shape[-1] == 3 and 0 not in frame.shape
    if frame.dtype != np.uint8 or not fits or frame.shape != shape:
        wanted = f"uint8 {list(shape)} as the first" if index else "uint8 [H, W, 3]"
        raise UserError(
            f"Frame {index} must be {wanted}, got {frame.dtype} {list(frame.shape)}."
        )


def _load_av() -> ModuleType:
    """Imports PyAV."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            "Videos need PyAV: pip install 'facecycle_jax[video]'."
        ) from error
    return av


def _reason(error: Exception) -> str:
    """Shortens FFmpeg's message to its reason."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _open(av: ModuleType, path: epath.PathLike) -> tuple[Any, Fraction]:
    """Opens a regular file and returns its container and its frames per second."""
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileNotFoundError(f"There is no file {name}.")
    if not os.path.isfile(name):
        raise UserError(f"{name} is no regular file, so it is no video.")

    # Some formats are lists of other files or addresses, so only containers of frames
    # are allowed. Without the prefix, FFmpeg could take a name for an address.
    options = {
        "format_whitelist": ",".join(VIDEO_FORMATS),
        "protocol_whitelist": "file",
    }
    try:
        container = av.open(f"file:{name}", options=options)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(
            f"{name} cannot be read as a video: {_reason(error)}."
        ) from error

    if not container.streams.video:
        container.close()
        raise UserError(f"{name} has no images, only other streams.")

    rate = container.streams.video[0].average_rate

    return container, rate if rate is not None and rate > 0 else Fraction(25)


def _decode(
    av: ModuleType,
    container: Any,
    name: str,
    rate: Fraction,
    convert: Callable[[Any], Any],
) -> Iterator[tuple[float, Any]]:
    """Yields (seconds from the first frame, `convert(frame)`) of all frames.

    Closes the container at the end.
    """
    count = 0
    start = None
    with container:
        try:
            for frame in container.decode(video=0):
                if frame.width * frame.height > MAX_PIXELS:
                    raise UserError(
                        f"{name} has frames of {frame.width}x{frame.height} pixels, "
                        f"more than {MAX_PIXELS:,}."
                    )

                # Frames without a time are placed by their number.
                start = frame.time if start is None else start
                timed = frame.time is not None and start is not None
                seconds = frame.time - start if timed else float(count / rate)
                yield seconds, convert(frame)
                count += 1
        except UserError:
            raise
        except (av.FFmpegError, ValueError, MemoryError) as error:
            reason = f"{name} is damaged after frame {count}: {_reason(error)}."
            raise UserError(reason) from error


def _to_array(frame: Any) -> np.ndarray:
    """Converts FFmpeg's frame to uint8 [H, W, 3], upright."""
    image = frame.to_ndarray(format="rgb24")

    # Telephones store how the camera was held; FFmpeg counts counter-clockwise.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


def _resample(
    timed: Iterator[tuple[float, Any]], fps: float, rate: Fraction
) -> Iterator[Any]:
    """Yields the frame shown at each time 0, 1/fps, 2/fps, ... up to the last frame's.

    Args:
      timed: (seconds, frame) of each frame.
      fps: frames to yield per second.
      rate: frames per second of the video, used where its clock jumps.

    Raises:
      UserError: If `fps` is out of range.
    """
    if not 0 < fps <= MAX_FPS:
        raise UserError(f"fps must be above 0 and at most {MAX_FPS:g}, got {fps}.")

    index = 0
    shown = None

    # A clock that follows the video's except for its jumps.
    clock = 0.0
    before = 0.0
    for seconds, frame in timed:
        step = seconds - before
        clock += step if 0 <= step <= _LONGEST_STILL else float(1 / rate)
        before = seconds
        while shown is not None and index / fps < clock - 1e-6:
            yield shown
            index += 1
        shown = frame

    if shown is not None and index / fps <= clock + 1e-6:
        yield shown
