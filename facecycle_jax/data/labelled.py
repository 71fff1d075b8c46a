"""Pictures of an evaluation set, with labels. Pictures are file names, or uint8 [N, H, W] or [N, H, W, 3]."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from facecycle_jax.data.pictures import read_picture, square

Pictures = Sequence[str] | np.ndarray


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
        if isinstance(self.pictures, np.ndarray):
            pictures: Pictures = self.pictures[chosen]
        else:
            pictures = [self.pictures[i] for i in chosen]
        return dataclasses.replace(self, pictures=pictures, labels=self.labels[chosen])


def load_pictures(pictures: Pictures, *, size: int, crop: float = 1.0) -> np.ndarray:
    """Reads pictures as one batch.

    Args:
      pictures: file names, or uint8 [N, H, W] or [N, H, W, 3].
      size: side of the result in pixels.
      crop: side of the middle square that is kept, in parts of the shorter side, above 0 to 1.

    Returns:
      uint8 [N, size, size, 3], RGB.

    Raises:
      ValueError: if a file is no picture or `crop` is out of range.
      FileNotFoundError: if a file is missing.
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, got {crop}.")
    batch = np.empty((len(pictures), size, size, 3), np.uint8)
    for index, item in enumerate(pictures):
        picture = read_picture(item) if isinstance(item, str) else np.asarray(item)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=-1)
        if crop < 1:
            height, width = picture.shape[:2]
            side = max(1, round(crop * min(height, width)))
            top, left = (height - side) // 2, (width - side) // 2
            picture = picture[top : top + side, left : left + side]
        batch[index] = square(picture, size=size)
    return batch


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
