"""Pictures of an evaluation set, with labels.

Pictures are file names, with the part of each that is used, or uint8 [N, H, W] or [N,
H, W, 3].
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.images.reading import read_picture, square
from facecycle_jax.errors import UserError


class CroppedFile(NamedTuple):
    """A picture file of which a part is used.

    Attributes:
      path: the file.
      box: left, top, right, bottom in pixels, right and bottom excluded; None is all of
        it. What lies outside the picture is cut off.
    """

    path: str
    box: tuple[int, int, int, int] | None


Pictures = Sequence[str] | Sequence[CroppedFile] | np.ndarray


@dataclasses.dataclass(frozen=True)
class LabelledPictures:
    """One split of a classification set.

    Attributes:
      pictures: file names, or uint8 [N, H, W] or [N, H, W, 3].
      labels: int32 [N], indices into `classes`.
      classes: names of all classes of the set.
      origin: where they come from, for messages.
    """

    pictures: Pictures
    labels: np.ndarray
    classes: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.labels)

    def select(self, chosen: np.ndarray) -> "LabelledPictures":
        """Returns the pictures of these indices, in their order."""
        pictures = select_pictures(self.pictures, chosen)
        return dataclasses.replace(self, pictures=pictures, labels=self.labels[chosen])


def select_pictures(pictures: Pictures, chosen: np.ndarray) -> Pictures:
    """Returns the pictures of these indices, in their order.

    Args:
      pictures: files or an array.
      chosen: int [M].

    Returns:
      Pictures of the same kind.
    """
    if isinstance(pictures, np.ndarray):
        return pictures[chosen]
    kept: Any = [pictures[int(i)] for i in chosen]
    return kept


def load_pictures(pictures: Pictures, *, size: int, crop: float = 1.0) -> np.ndarray:
    """Reads pictures as one batch.

    Args:
      pictures: file names, or uint8 [N, H, W] or [N, H, W, 3].
      size: side of the result in pixels.
      crop: side of the middle square that is kept, in parts of the shorter side, above
        0 to 1.

    Returns:
      uint8 [N, size, size, 3], RGB.

    Raises:
      ValueError: if a file is no picture or `crop` is out of range.
      FileNotFoundError: if a file is missing.
    """
    if not 0 < crop <= 1:
        raise UserError(f"crop must be above 0 and at most 1, got {crop}.")
    batch = np.empty((len(pictures), size, size, 3), np.uint8)
    for index, item in enumerate(pictures):
        picture = _read(item)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=-1)
        if crop < 1:
            height, width = picture.shape[:2]
            side = max(1, round(crop * min(height, width)))
            top, left = (height - side) // 2, (width - side) // 2
            picture = picture[top : top + side, left : left + side]
        batch[index] = square(picture, size=size)
    return batch


def _read(item: str | CroppedFile | np.ndarray) -> np.ndarray:
    """Reads one picture, or takes it as it is."""
    if isinstance(item, str):
        return read_picture(item)
    if not isinstance(item, CroppedFile):
        return np.asarray(item)
    picture = read_picture(item.path)
    if item.box is None:
        return picture
    left, top, right, bottom = item.box
    part = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:
        raise UserError(f"{item.path}: the landmarks lie outside the picture.")
    return part


def choose(count: int, *, limit: int, seed: int = 0) -> np.ndarray:
    """Draws at most `limit` of `count` indices, in rising order; 0 takes all.

    Args:
      count: how many there are.
      limit: most of them.
      seed: of the draw.

    Returns:
      int64 [min(count, limit)].

    Raises:
      ValueError: if `limit` is below 0.
    """
    if limit < 0:
        raise UserError(f"a limit must be 0 (all) or more, got {limit}.")
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def read_lines(path: str) -> list[str]:
    """Reads the lines of a list in UTF-8; other bytes are kept as in names of files.

    Args:
      path: the list.

    Returns:
      The lines without their ends.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        return [line.rstrip("\n") for line in file]


def require_file(path: str, *, what: str) -> str:
    """Returns a path, or raises FileNotFoundError in one sentence if it is no file.

    Args:
      path: the file.
      what: what it is and where it comes from, for the message.

    Returns:
      `path`.

    Raises:
      FileNotFoundError: if there is none.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}: {what}.")
    return path
