"""Frames by number, for the loaders of other programs: Grain, PyTorch."""

import functools
import operator
from typing import SupportsIndex

import numpy as np

from facecycle_jax.data.batches.frame_reader import file_reader, record_reader
from facecycle_jax.data.sources.records import RecordFrames
from facecycle_jax.data.sources.tracks import Tracks


class FrameSource:
    """All frames of some tracks, read when they are asked for.

    It has a length, takes numbers and can be pickled, which is what
    `grain.MapDataset.source` and `torch.utils.data.DataLoader` need. Workers open files
    of their own.

    Args:
      tracks: of `scan_folder`, `read_list` or `open_records`, or some of these.
      size: side of the images, in pixels.
      records: the reader that `open_records` returns with its tracks; None for tracks
        of image files.
      decoder: 'pillow' or 'opencv', see docs/data.md.

    Raises:
      UserError: If `decoder` is unknown or its package is not installed.
    """

    def __init__(
        self,
        tracks: Tracks,
        *,
        size: int,
        records: RecordFrames | None = None,
        decoder: str = "pillow",
    ) -> None:
        self._tracks = tracks
        self._build = functools.partial(
            FrameSource, size=size, records=records, decoder=decoder
        )
        if records is None:
            self._read = file_reader(decoder, size=size)
        else:
            self._read = record_reader(records, decoder, size=size)

        # Numbers of the first frame of each track and of the one after its last frame,
        # and each track's person.
        counts = np.array([len(frames) for frames in tracks.frames])
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        _, self._people = np.unique(tracks.identities, return_inverse=True)

    def __len__(self) -> int:
        """Counts the frames."""
        return int(self._ends[-1])

    def __getitem__(self, number: SupportsIndex) -> dict[str, np.ndarray | np.int64]:
        """Reads a frame.

        Args:
          number: from 0 to below the length.

        Returns:
          image, uint8 [size, size, 3], and the numbers of its track and person.

        Raises:
          IndexError: If there is no such frame.
          UserError: If the image cannot be read.
        """
        index = operator.index(number)
        if not 0 <= index < len(self):
            raise IndexError(f"there is no frame {index} of {len(self)}")

        # The first track that ends behind the frame.
        track = int(np.searchsorted(self._ends, index, side="right"))
        frames = self._tracks.frames[track]
        frame = frames[index - int(self._starts[track])]
        return {
            "image": self._read(frame),
            "track": np.int64(track),
            "person": self._people[track],
        }

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles what to build the source from again, without its readers."""
        return self._build, (self._tracks,)
