"""Videos: frames, uint8 [H, W, 3] RGB, are read from a file or written to one.

This module needs the extra `video`.
"""

import collections
import contextlib
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
from facecycle_jax.errors import UserError, importing
from facecycle_jax.files import named_in_errors, under_another_name

# No video has a higher rate, and the frames taken of one must not grow without bound.
MAX_FPS = 1000.0
# Least rate of a video that is written; players show no fewer frames reliably.
MIN_FPS = 0.1
# A frame is shown for at most this many seconds. Clocks of damaged or joined files jump
# by hours.
_LONGEST_STILL = 10.0
# Unit of the times in an edited video, in seconds. It holds the usual rates exactly.
_CLOCK = Fraction(1, 90_000)
# FFmpeg's numbers of colour matrices: none is named, and that of BT.601, by which
# images are converted for the encoder.
_NO_MATRIX = 2
_BT_601 = 6
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
      UserError: If the file is not a video, has no frame or too large ones, or an
        option is out of range.
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
      UserError: If the file is not a video, or `fps` is out of range.
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
      fps: frames per second, 0.1 to 1000.

    Raises:
      UserError: If there is no frame, one is not like the first, the ending is invalid,
        or `fps` is out of range.
      MissingExtraError: If PyAV is not installed.
    """
    path = epath.Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"A video ends in {', '.join(FORMATS)}, got {path.name}.")
    check_fps(fps)

    av = _load_av()
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise UserError(f"There are no frames to write to {path}.")

    _check_frame(first, 0, np.shape(first))
    form = FORMATS[path.suffix.lower()]
    images = itertools.chain([first], iterator)
    with (
        named_in_errors(path),
        under_another_name(path) as partial,
        av.open(str(partial), "w", format=form) as container,
        _encoder_errors(av, path, np.shape(first)),
    ):
        _encode(av, container, images, np.shape(first), fps)


def check_fps(fps: float) -> None:
    """Raises UserError unless a video can be written with so many frames per second."""
    # NaN is refused too.
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"fps must be {MIN_FPS:g} to {MAX_FPS:g}, got {fps}.")


def edit_video(
    source: epath.PathLike,
    target: epath.PathLike,
    change: Callable[[Iterator[np.ndarray]], Iterable[np.ndarray]],
    *,
    max_frames: int | None = None,
    own_images: bool = True,
) -> int:
    """Writes a video again with other images, at the same times and with its sound.

    The sound is copied as it is. Subtitles and further streams are left out.

    Args:
      source: the video to read, see `read_video`.
      target: the video to write, see `write_video`.
      change: makes as many images, in the same order, of the frames uint8 [H, W, 3]. It
        may hold some frames before it gives the first image.
      max_frames: stop after this many frames; None reads all.
      own_images: whether the images are frames of the source, changed. They are shown
        with its shape of pixels and its matrix of colours. False for other images, such
        as a photograph: their pixels are square and their colours those of BT.601.

    Returns:
      The number of frames.

    Raises:
      UserError: If the source is not a video, is damaged or has no frame, an image is
        not like the first, the ending of `target` is invalid, or its format cannot hold
        the sound.
      FileNotFoundError: If there is no such video.
      MissingExtraError: If PyAV is not installed.
    """
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames must be above 0, got {max_frames}.")

    target = epath.Path(target)
    form = FORMATS.get(target.suffix.lower())
    if form is None:
        raise UserError(f"A video ends in {', '.join(FORMATS)}, got {target.name}.")

    av = _load_av()
    name = os.fspath(source)
    container, rate = _open(av, source)
    is_sideways = False

    def upright(frame: Any) -> np.ndarray:
        nonlocal is_sideways
        is_sideways = _quarter_turns(frame) % 2 == 1
        return _to_array(frame)

    timed = _decode(av, container, name, rate, upright)
    times: collections.deque[float] = collections.deque()

    def frames() -> Iterator[np.ndarray]:
        for seconds, frame in itertools.islice(timed, max_frames):
            times.append(seconds)
            yield frame

    images = iter(change(frames()))
    first = next(images, None)
    if first is None:
        raise UserError(f"{source} has no frames.")
    _check_frame(first, 0, np.shape(first))

    def changed() -> Iterator[tuple[float, np.ndarray]]:
        for index, image in enumerate(itertools.chain([first], images)):
            _check_frame(image, index, np.shape(first))
            yield times.popleft(), image

    # The sound is read by a container of its own, while the first one decodes images.
    listened, _ = _open(av, source)
    with (
        listened,
        named_in_errors(target),
        under_another_name(target) as partial,
        av.open(str(partial), "w", format=form) as written,
    ):
        read = listened.streams.video[0]
        stream = _add_images_like(
            written,
            read,
            np.shape(first),
            rate,
            own_images=own_images,
            is_sideways=is_sideways,
        )
        with _encoder_errors(av, target, np.shape(first)):
            # Before the sound, whose errors have a sentence of their own.
            stream.codec_context.open()
        try:
            sound = _copied_sound(av, listened, written)
            written.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise UserError(
                f"{target.suffix} cannot hold the sound of {source} "
                f"({_reason(error)}); end the output in .mkv."
            ) from error

        with _encoder_errors(av, target, np.shape(first)):
            return _encode_at_times(av, written, stream, changed(), sound, rate)


@contextlib.contextmanager
def _encoder_errors(
    av: ModuleType, path: epath.Path, shape: tuple[int, ...]
) -> Iterator[None]:
    """Names the video and its size where it cannot be encoded."""
    try:
        yield
    except av.FFmpegError as error:
        # Errors of the storage have their own sentence.
        if isinstance(error, OSError):
            raise
        raise UserError(
            f"{path} cannot be written ({_reason(error)}): H.264 may not hold images "
            f"of {shape[1]} x {shape[0]} pixels; make them smaller."
        ) from error


class _Sound:
    """The sound of a video, copied to another one.

    Args:
      packets: its packets in order; empty for a video without sound.
      stream: the stream to write to.
      start: time of the video's first frame, in seconds.
      container: the container to write to.
    """

    def __init__(
        self, packets: Iterator[Any], stream: Any, start: float, container: Any
    ) -> None:
        self._packets = packets
        self._stream = stream
        self._start = start
        self._container = container
        self._next: Any = None

    def write_until(self, seconds: float) -> None:
        """Writes the packets that begin before a time, counted from the first frame."""
        while True:
            packet = self._next or next(self._packets, None)
            self._next = None
            if packet is None:
                return

            # Packets without a time end a stream and hold nothing.
            if packet.dts is None or packet.pts is None:
                continue
            begin = float(packet.pts * packet.time_base) - self._start
            if begin >= seconds:
                self._next = packet
                return

            # What is heard before the first frame is left out.
            if begin < 0:
                continue
            shift = round(self._start / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._stream
            self._container.mux(packet)


def _copied_sound(av: ModuleType, source: Any, target: Any) -> _Sound:
    """Adds the stream of a source's first sound to a container that is written."""
    streams = source.streams.audio
    if not streams:
        return _Sound(iter(()), None, 0.0, target)

    images = source.streams.video[0]
    start = 0.0
    if images.start_time is not None:
        start = float(images.start_time * images.time_base)

    def packets() -> Iterator[Any]:
        try:
            yield from source.demux(streams[0])
        except (av.FFmpegError, ValueError) as error:
            reason = f"{source.name} has damaged sound: {_reason(error)}."
            raise UserError(reason) from error

    stream = target.add_stream_from_template(streams[0])
    return _Sound(packets(), stream, start, target)


def _encode(
    av: ModuleType,
    container: Any,
    frames: Iterable[np.ndarray],
    shape: tuple[int, ...],
    fps: float,
) -> None:
    """Writes frames into an open container."""
    rate = Fraction(fps).limit_denominator(65535)
    stream = _add_images(container, shape, rate)

    for index, frame in enumerate(frames):
        _check_frame(frame, index, shape)
        container.mux(stream.encode(_to_frame(av, frame)))

    # Flush the frames that the encoder still holds.
    container.mux(stream.encode())


def _add_images(
    container: Any, shape: tuple[int, ...], rate: Fraction, *, matrix: int = _BT_601
) -> Any:
    """Adds a stream of images [H, W, 3] to a container that is written.

    Without the name of their matrix, players show large videos in other colours.
    """
    # yuv420p halves the resolution of colour, so both sides must be even. A constant
    # rate factor of 17 is nearly lossless to the eye.
    stream = container.add_stream("libx264", rate=rate)
    stream.height = shape[0] + shape[0] % 2
    stream.width = shape[1] + shape[1] % 2
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "17"}
    stream.codec_context.colorspace = matrix
    return stream


def _add_images_like(
    container: Any,
    read: Any,
    shape: tuple[int, ...],
    rate: Fraction,
    *,
    own_images: bool,
    is_sideways: bool,
) -> Any:
    """Adds a stream of images with the clock and the looks of a stream that is read.

    Args:
      container: the container to write to.
      read: the stream of images that is read.
      shape: of the images, (H, W, 3).
      rate: frames per second.
      own_images: see `edit_video`.
      is_sideways: whether the images were turned upright by a quarter.

    Returns:
      The stream.
    """
    # A video that names no matrix was read by BT.601. Players may take another for it,
    # and will do so again.
    is_unnamed = read.codec_context.colorspace == _NO_MATRIX
    matrix = _NO_MATRIX if own_images and is_unnamed else _BT_601
    stream = _add_images(container, shape, rate, matrix=matrix)
    stream.codec_context.time_base = _CLOCK

    # Width by height of a pixel. Images of a turned camera are turned back.
    ratio = read.sample_aspect_ratio
    if own_images and ratio:
        stream.codec_context.sample_aspect_ratio = 1 / ratio if is_sideways else ratio
    return stream


def _encode_at_times(
    av: ModuleType,
    container: Any,
    stream: Any,
    timed: Iterable[tuple[float, np.ndarray]],
    sound: _Sound,
    rate: Fraction,
) -> int:
    """Writes images at given times, with the sound between them.

    Args:
      av: PyAV.
      container: the container to write to.
      stream: its stream of images.
      timed: (seconds from the first, image uint8 [H, W, 3]) of each image, of one size.
      sound: the sound to write.
      rate: frames per second, for how long the last image is shown.

    Returns:
      The number of images.
    """
    count = 0
    last = -1
    for seconds, image in timed:
        # All sound up to this image goes before it, as players expect.
        sound.write_until(seconds)
        frame = _to_frame(av, image)
        # A damaged clock may stand still or step back; that of the output may not.
        last = max(round(seconds / _CLOCK), last + 1)
        frame.pts = last
        frame.time_base = _CLOCK
        container.mux(stream.encode(frame))
        count += 1

    # The last image is shown for as long as the others.
    sound.write_until(float(last * _CLOCK + 1 / rate))
    container.mux(stream.encode())
    return count


def _to_frame(av: ModuleType, image: np.ndarray) -> Any:
    """Converts uint8 [H, W, 3] to FFmpeg's frame, with even sides."""
    down = image.shape[0] % 2
    right = image.shape[1] % 2
    padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")


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
    with importing("Videos need PyAV", extra="video"):
        import av
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
        raise UserError(f"{name} is not a regular file, so it is not a video.")

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

    return np.ascontiguousarray(np.rot90(image, _quarter_turns(frame)))


def _quarter_turns(frame: Any) -> int:
    """Returns the quarter turns, counter-clockwise, that bring a frame upright."""
    # Telephones store how the camera was held; FFmpeg counts counter-clockwise.
    return round(frame.rotation / 90) % 4


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
