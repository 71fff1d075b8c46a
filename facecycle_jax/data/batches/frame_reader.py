"""Readers of frames, and the list of those that cannot be read.

A frame is uint8 [S, S, 3], RGB.
"""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable

import numpy as np

from facecycle_jax.data.images.decoding import make_decoder
from facecycle_jax.data.images.media_files import MAX_FILE_BYTES, open_image_file
from facecycle_jax.data.images.reading import read_image, square
from facecycle_jax.data.sources.records import DamagedSetError, RecordFrames
from facecycle_jax.data.sources.tracks import Frame, Tracks
from facecycle_jax.errors import UserError
from facecycle_jax.files import read_through

log = logging.getLogger(__name__)
# Frame -> uint8 [S, S, 3]; raises UserError for an image that cannot be read.
ReadFrame = Callable[[Frame], np.ndarray]
# Seconds to wait before a file that the storage does not deliver is tried again. The
# sum stays well below the 30 seconds that platforms grant between SIGTERM and SIGKILL,
# because a run that waits for its batch cannot save its state.
_PAUSES = (0.1, 0.5, 2.0, 8.0)


class UnreadableFrames:
    """The unreadable frames of a run; each is logged once and counted."""

    def __init__(self) -> None:
        self._reasons: dict[Frame, str] = {}
        self._lock = threading.Lock()

    def add(self, frame: Frame, reason: str) -> None:
        """Records and logs a frame; a repeated call does nothing."""
        with self._lock:
            if frame in self._reasons:
                return
            self._reasons[frame] = reason
        log.warning("Left out an image that cannot be read: %s", reason)

    def __contains__(self, frame: Frame) -> bool:
        """Whether a frame was recorded."""
        return frame in self._reasons

    @property
    def unreadable(self) -> dict[Frame, str]:
        """Reasons by frame."""
        with self._lock:
            return dict(self._reasons)


def read_frame(path: str, *, size: int) -> np.ndarray:
    """Reads an image file, centre-cropped to a square and resized.

    Args:
      path: the file.
      size: side in pixels.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: If it cannot be read.
    """
    try:
        return square(read_image(path, at_least=size), size=size)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None


def file_reader(decoder: str, *, size: int) -> ReadFrame:
    """Builds the reader of frames that are file names.

    Args:
      decoder: 'pillow' or 'opencv'.
      size: side in pixels.

    Returns:
      The reader.

    Raises:
      UserError: If `decoder` is unknown or its package is not installed.
    """
    decode = make_decoder(decoder, size=size)
    if decoder == "pillow":
        return lambda frame: read_frame(str(frame), size=size)

    def read(frame: Frame) -> np.ndarray:
        try:
            with open_image_file(str(frame)) as file:
                content = file.read()
        except FileNotFoundError as error:
            raise UserError(str(error)) from None
        except OSError as error:
            raise UserError(
                f"{frame} cannot be read: {error.strerror or error}."
            ) from None

        try:
            return decode(content)
        except UserError as error:
            raise UserError(f"{frame}: {error}") from None

    return read


def record_reader(records: RecordFrames, decoder: str, *, size: int) -> ReadFrame:
    """Builds the reader of frames of prepared sets.

    Args:
      records: reads the encoded bytes.
      decoder: 'pillow' or 'opencv'.
      size: side in pixels.

    Returns:
      The reader; it raises DamagedSetError if the set itself is damaged.

    Raises:
      UserError: If `decoder` is unknown or its package is not installed.
    """
    decode = make_decoder(decoder, size=size)

    def read(frame: Frame) -> np.ndarray:
        content = records.read(int(frame))
        try:
            return decode(content)
        except UserError as error:
            raise UserError(f"{records.describe(int(frame))}: {error}") from None

    return read


def read_patiently(frame: Frame, read: ReadFrame) -> np.ndarray:
    """Reads a frame, with further attempts after an error of the storage.

    Args:
      frame: the frame.
      read: reads a frame.

    Returns:
      uint8 [S, S, 3].

    Raises:
      DamagedSetError: If a prepared set is damaged.
      UserError: If the image cannot be decoded although its file can be read.
      FileNotFoundError: If its file is gone from its folder.
      OSError: If the storage does not deliver its file.
    """
    for attempt in range(len(_PAUSES) + 1):
        try:
            return read(frame)
        except DamagedSetError:
            raise
        except (ValueError, OSError) as error:
            # The image is damaged if the file's bytes can be read, else the storage is.
            of_storage = _storage_error(frame, error)
            if of_storage is None:
                break
            # Waiting does not bring back a file that was removed.
            is_last = attempt == len(_PAUSES)
            if is_last or isinstance(of_storage, FileNotFoundError):
                raise of_storage from None
        time.sleep(_PAUSES[attempt])

    # The bytes can be read. So this raises the decoder's own error, or succeeds where
    # the storage has recovered in between.
    return read(frame)


def _storage_error(frame: Frame, error: Exception) -> OSError | None:
    """Returns why the storage does not deliver a frame's bytes, or None if it does.

    A frame of a prepared set is a number. Its reader checks the bytes itself and raises
    OSError for the storage. What is not a file of an image counts as delivered: a
    pipe, a device, or a file that is too large.

    Args:
      frame: the frame.
      error: raised when it was read.
    """
    if not isinstance(frame, str):
        return error if isinstance(error, OSError) else None

    try:
        with open(frame, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_FILE_BYTES:
                read_through(file)
    except FileNotFoundError as missing:
        # A removed file leaves its folder behind. A drive that is no longer mounted
        # takes the folder along.
        folder = os.path.dirname(frame)
        if os.path.isdir(folder or "."):
            return missing
        return OSError(f"the folder {folder} is gone; is its drive still mounted?")
    except OSError as failed:
        return failed
    return None


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file; `open` alone would wait until somebody writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_or_replace(
    tracks: Tracks,
    track: int,
    position: int,
    *,
    read: ReadFrame,
    report: UnreadableFrames,
) -> np.ndarray:
    """Reads a frame of a track, or the track's next readable one in its place.

    Only a damaged or removed image is replaced. An error of the storage says nothing
    about the image, so after some more attempts it ends the run.

    Args:
      tracks: all tracks.
      track: index of the track.
      position: the frame's position in the track.
      read: reads a frame.
      report: collects the frames that cannot be read.

    Returns:
      uint8 [S, S, 3].

    Raises:
      DamagedSetError: If a prepared set is damaged. No other frame replaces it.
      UserError: If no frame of the track can be read.
      OSError: If the storage does not deliver a frame.
    """
    frames = tracks.frames[track]
    for offset in range(len(frames)):
        frame = frames[(position + offset) % len(frames)]
        if frame in report:
            continue
        try:
            return read_patiently(frame, read)
        except DamagedSetError:
            raise
        except FileNotFoundError:
            report.add(frame, f"There is no file {frame}.")
        except UserError as error:
            report.add(frame, str(error))

    raise UserError(
        f"No image of the track {tracks.names[track]} can be read; remove it from "
        f"{tracks.origin}."
    )


def read_rows(
    out: np.ndarray,
    tracks: Tracks,
    track: np.ndarray,
    position: np.ndarray,
    *,
    read: ReadFrame,
    report: UnreadableFrames,
) -> None:
    """Fills rows with frames and reads a repeated frame only once.

    Args:
      out: uint8 [rows, S, S, 3], written to.
      tracks: all tracks.
      track: index of the track, int [rows].
      position: the frame's position in the track, int [rows].
      read: reads a frame.
      report: collects the frames that cannot be read.

    Raises:
      DamagedSetError: If a prepared set is damaged.
      UserError: If no frame of a track can be read.
      OSError: If the storage does not deliver a frame.
    """
    # The two frames of a mirrored pair are equal and stand in neighbouring rows.
    before = None
    for row, one in enumerate(zip(track.tolist(), position.tolist(), strict=True)):
        if one == before:
            out[row] = out[row - 1]
        else:
            out[row] = read_or_replace(tracks, *one, read=read, report=report)

        before = one
