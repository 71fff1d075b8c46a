"""Reading frames, and keeping account of those that cannot be read. Frames uint8 [S, S, 3], RGB."""

import logging
import threading

import numpy as np

from facecycle_jax.data.pictures import read_picture, square

log = logging.getLogger(__name__)


class Report:
    """Unreadable files of a run: each is named once in the log, and counted."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, path: str, reason: str) -> None:
        """Notes a file; the second time nothing happens."""
        with self._lock:
            if path in self._reasons:
                return
            self._reasons[path] = reason
        log.warning("Left out a picture that cannot be read: %s", reason)

    @property
    def unreadable(self) -> dict[str, str]:
        """Reasons by file name."""
        with self._lock:
            return dict(self._reasons)


def read_frame(path: str, *, size: int) -> np.ndarray:
    """Reads a picture file, cut square about its middle and resized.

    Args:
      path: the file.
      size: side in pixels.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: in one sentence, if it cannot be read.
    """
    try:
        return square(read_picture(path), size=size)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
