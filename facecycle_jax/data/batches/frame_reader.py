"""Readers of frames, and a report of those that cannot be read.

A frame is uint8 [S, S, 3], RGB.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np

from facecycle_jax.data.images.decoding import make_decoder
from facecycle_jax.data.images.media_files import open_image_file
from facecycle_jax.data.images.reading import read_image, square
from facecycle_jax.data.sources.records import DamagedSetError, RecordFrames
from facecycle_jax.data.sources.tracks import Frame, Tracks
from facecycle_jax.errors import UserError

log = logging.getLogger(__name__)
# Frame -> uint8 [S, S, 3]; raises UserError for an image that cannot be read.
ReadFrame = Callable[[Frame], np.ndarray]


class Report:
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


def read_or_replace(
    tracks: Tracks, track: int, place: int, *, read: ReadFrame, report: Report
) -> np.ndarray:
    """Reads a frame of a track, or the track's next readable one in its place.

    Args:
      tracks: all tracks.
      track: index of the track.
      place: the frame's place in the track.
      read: reads a frame.
      report: collects the frames that cannot be read.

    Returns:
      uint8 [S, S, 3].

    Raises:
      DamagedSetError: If a prepared set is damaged. No other frame replaces it.
      UserError: If no frame of the track can be read.
    """
    frames = tracks.frames[track]
    for offset in range(len(frames)):
        frame = frames[(place + offset) % len(frames)]
        if frame in report:
            continue
        try:
            return read(frame)
        except DamagedSetError:
            raise
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
    place: np.ndarray,
    *,
    read: ReadFrame,
    report: Report,
) -> None:
    """Fills rows with frames and reads a repeated frame only once.

    Args:
      out: uint8 [rows, S, S, 3], written to.
      tracks: all tracks.
      track: index of the track, int [rows].
      place: the frame's place in the track, int [rows].
      read: reads a frame.
      report: collects the frames that cannot be read.

    Raises:
      DamagedSetError: If a prepared set is damaged.
      UserError: If no frame of a track can be read.
    """
    # The two frames of a mirrored pair are equal and stand in neighbouring rows.
    before = None
    for row, one in enumerate(zip(track.tolist(), place.tolist(), strict=True)):
        if one == before:
            out[row] = out[row - 1]
        else:
            out[row] = read_or_replace(tracks, *one, read=read, report=report)

        before = one
