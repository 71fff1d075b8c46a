"""RAF-DB, basic emotions.

The files are `EmoLabel/list_patition_label.txt` and `Image/aligned/*_aligned.jpg`,
100x100 pixels.
"""

import os

import numpy as np

from facecycle_jax.data.labelled.images import (
    LabelledImages,
    read_lines,
    require_file,
)
from facecycle_jax.errors import UserError

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
OFFICIAL = {"train": 12_271, "test": 3_068}


def read_raf_db(path: str, *, split: str) -> LabelledImages:
    """Reads one split of RAF-DB.

    Args:
      path: the folder `basic` of the distribution, or the one that holds it.
      split: 'train' or 'test'.

    Returns:
      File names of the aligned images in the list's order, and labels. The list's label
      1 is class 0.

    Raises:
      FileNotFoundError: If the list or an image is missing.
      UserError: If a line has another form or an unknown label, with its number.
    """
    if split not in OFFICIAL:
        raise UserError(f"split must be one of {tuple(OFFICIAL)}, got {split!r}.")

    root = path
    if os.path.isdir(os.path.join(path, "basic")):
        root = os.path.join(path, "basic")

    name = os.path.join(root, "EmoLabel", "list_patition_label.txt")
    require_file(name, what="the labels of RAF-DB's basic emotions")

    images: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(read_lines(name), start=1):
        columns = line.split()
        if not columns:
            continue

        stem, suffix = os.path.splitext(columns[0])
        if len(columns) != 2 or suffix != ".jpg" or stem.split("_")[0] not in OFFICIAL:
            raise UserError(
                f"{name}, line {number}: expected 'train_00001.jpg 5' or "
                f"'test_0001.jpg 7', got {line.strip()!r}."
            )

        if columns[1] not in ("1", "2", "3", "4", "5", "6", "7"):
            raise UserError(
                f"{name}, line {number}: the label must be 1 to 7, got {columns[1]!r}."
            )

        if stem.split("_")[0] != split:
            continue

        image = os.path.join(root, "Image", "aligned", f"{stem}_aligned.jpg")
        require_file(image, what=f"{name}, line {number}, names it")
        images.append(image)
        labels.append(int(columns[1]) - 1)

    if not labels:
        raise UserError(f"{name} names no image of the split {split}.")

    return LabelledImages(
        images=images,
        labels=np.array(labels, np.int32),
        classes=CLASSES,
        origin=f"{name} ({split})",
    )
