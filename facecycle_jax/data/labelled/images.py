"""Images of an evaluation set, with labels.

Images are file names, possibly with the part of each that is used, or uint8 [N, H, W]
or [N, H, W, 3].
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.images.reading import read_image, square
from facecycle_jax.errors import UserError


class CroppedFile(NamedTuple):
    """An image file of which a part is used.

    Attributes:
      path: the file.
      box: left, top, right, bottom in pixels, right and bottom excluded; None: the
        whole image. Parts outside the image are cut off.
    """

    path: str
    box: tuple[int, int, int, int] | None


Images = Sequence[str | os.PathLike[str]] | Sequence[CroppedFile] | np.ndarray


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """One split of a classification set.

    Attributes:
      images: file names, or uint8 [N, H, W] or [N, H, W, 3].
      labels: int32 [N], indices into `classes`.
      classes: names of all classes of the set.
      origin: where the images come from, for messages.
    """

    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.labels)

    def select(self, chosen: np.ndarray) -> "LabelledImages":
        """Returns the images of these indices, in their order."""
        images = select_images(self.images, chosen)
        return dataclasses.replace(self, images=images, labels=self.labels[chosen])


def select_images(images: Images, chosen: np.ndarray) -> Images:
    """Returns the images of these indices, in their order.

    Args:
      images: files or an array.
      chosen: int [M].

    Returns:
      Images of the same kind.
    """
    if isinstance(images, np.ndarray):
        return images[chosen]
    kept: Any = [images[int(i)] for i in chosen]
    return kept


def load_images(images: Images, *, size: int, crop: float = 1.0) -> np.ndarray:
    """Reads images into one batch.

    Args:
      images: file names, or uint8 [N, H, W] or [N, H, W, 3].
      size: side of the result in pixels.
      crop: side of the middle square that is kept, as a fraction of the shorter side,
        above 0 and at most 1.

    Returns:
      uint8 [N, size, size, 3], RGB.

    Raises:
      UserError: If `images` is one name instead of a list, a file is not an image, or
        `crop` is out of range.
      FileNotFoundError: If a file is missing.
    """
    # The letters of a name would be taken for files.
    if isinstance(images, str | os.PathLike):
        raise UserError(
            f"load_images takes a list of files, got {os.fspath(images)!r}: write "
            f"[{os.fspath(images)!r}]."
        )
    if not 0 < crop <= 1:
        raise UserError(f"crop must be above 0 and at most 1, got {crop}.")

    batch = np.empty((len(images), size, size, 3), np.uint8)
    for index, item in enumerate(images):
        image = _read(item)

        # Grey images get three equal channels.
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=-1)

        if crop < 1:
            height, width = image.shape[:2]
            side = max(1, round(crop * min(height, width)))
            top = (height - side) // 2
            left = (width - side) // 2
            image = image[top : top + side, left : left + side]

        batch[index] = square(image, size=size)

    return batch


def _read(item: str | os.PathLike[str] | CroppedFile | np.ndarray) -> np.ndarray:
    """Reads one image from its file, or returns an array as it is."""
    if isinstance(item, str | os.PathLike):
        return read_image(item)
    if not isinstance(item, CroppedFile):
        return np.asarray(item)

    image = read_image(item.path)
    if item.box is None:
        return image

    # Negative indices would count from the other end.
    left, top, right, bottom = item.box
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:
        raise UserError(f"{item.path}: the landmarks lie outside the image.")

    return part


def choose(count: int, *, limit: int, seed: int = 0) -> np.ndarray:
    """Draws at most `limit` of `count` indices, in rising order.

    Args:
      count: number of indices.
      limit: largest number to draw; 0: all.
      seed: seed of the draw.

    Returns:
      int64 [min(count, limit)].

    Raises:
      UserError: If `limit` is below 0.
    """
    if limit < 0:
        raise UserError(f"a limit must be 0 (all) or more, got {limit}.")
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def read_lines(path: str) -> list[str]:
    """Reads the lines of a list in UTF-8 and keeps other bytes as in names of files.

    Args:
      path: the list.

    Returns:
      The lines without their ends.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        return [line.rstrip("\n") for line in file]


def require_file(path: str, *, what: str) -> str:
    """Checks that a path is a file.

    Args:
      path: the file.
      what: what it is and where it comes from, for the message.

    Returns:
      `path`.

    Raises:
      FileNotFoundError: If there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}: {what}.")
    return path
