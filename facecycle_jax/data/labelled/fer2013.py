"""FER-2013: emotions of 48x48 grey faces, from the challenge's csv or from folders."""

import csv
import itertools
import os
from collections.abc import Iterator

import numpy as np

from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.labelled.images import LabelledImages
from facecycle_jax.errors import UserError, shorten

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
OFFICIAL = {"Training": 28_709, "PublicTest": 3_589, "PrivateTest": 3_589}
_SIDE = 48


def read_fer2013(path: str, *, split: str) -> LabelledImages:
    """Reads one split of FER-2013.

    Args:
      path: the csv (columns emotion, pixels and Usage, in any order), a folder that
        holds `fer2013.csv` or `icml_face_data.csv`, or one with
        `<split>/<class>/*.jpg`.
      split: 'Training', 'PublicTest' or 'PrivateTest'.

    Returns:
      The images, uint8 [N, 48, 48] from a csv, otherwise file names in the order of
      class and name.

    Raises:
      FileNotFoundError: If the data, or a split's folder, are missing.
      UserError: If a row is corrupt, with its number, a class is unknown, or a csv has
        no row of the split.
    """
    if split not in OFFICIAL:
        raise UserError(f"split must be one of {tuple(OFFICIAL)}, got {split!r}.")

    # Two distributions of the challenge name their csv differently.
    for file in (
        path,
        os.path.join(path, "fer2013.csv"),
        os.path.join(path, "icml_face_data.csv"),
    ):
        if os.path.isfile(file):
            return _read_csv(file, split)

    folder = os.path.join(path, split)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{path} holds neither fer2013.csv nor a folder {split}/<class>/*.jpg."
        )

    return _read_folders(folder)


def _read_csv(path: str, split: str) -> LabelledImages:
    """Reads the rows of a split."""
    rows = _rows(path)

    # The columns may be in any order.
    _, header = next(rows, (1, []))
    if sorted(header) != ["Usage", "emotion", "pixels"]:
        raise UserError(
            f"{path}, row 1: expected the columns emotion, pixels and Usage, got "
            f"{shorten(', '.join(header))}."
        )

    columns = [header.index(name) for name in ("emotion", "pixels", "Usage")]
    images = []
    labels = []

    for number, row in rows:
        if not row:
            continue

        if len(row) != 3:
            raise UserError(
                f"{path}, row {number}: expected 3 columns, got {len(row)}."
            )

        emotion, pixels, usage = (row[column] for column in columns)
        if usage not in OFFICIAL:
            raise UserError(
                f"{path}, row {number}: Usage must be one of {tuple(OFFICIAL)}, got "
                f"{shorten(usage)}."
            )

        if usage != split:
            continue

        if emotion not in ("0", "1", "2", "3", "4", "5", "6"):
            raise UserError(
                f"{path}, row {number}: emotion must be 0 to 6, got {shorten(emotion)}."
            )

        images.append(_pixels(pixels, f"{path}, row {number}"))
        labels.append(int(emotion))

    if not labels:
        raise UserError(f"{path} has no row of {split}; has the file been cut?")

    return LabelledImages(
        images=np.stack(images),
        labels=np.array(labels, np.int32),
        classes=CLASSES,
        origin=f"{path} ({split})",
    )


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number, columns) of a csv in ASCII, with or without a byte order mark."""
    # Other bytes become surrogates, so that a message can name their row.
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.reader(file)
        for number in itertools.count(1):
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(
                    f"{path}, row {number}: {error}; is a quotation mark left open?"
                ) from None
            if not all(column.isascii() for column in row):
                raise UserError(
                    f"{path}, row {number}: it holds other characters than ASCII; is "
                    "it a csv?"
                )
            yield number, [column.strip() for column in row]


def _pixels(text: str, where: str) -> np.ndarray:
    """Reads 2304 grey values."""
    numbers = text.split()

    # Only digits are allowed; conversion alone would also accept 1_0 and +1. They are
    # checked as one text, because a set has 80 million numbers.
    if not "".join(numbers).isdigit() or max(map(len, numbers)) > 9:
        raise UserError(f"{where}: pixels must be whole numbers from 0 to 255.")

    values = np.array(numbers, np.int64)
    if values.size != _SIDE * _SIDE:
        raise UserError(f"{where}: expected {_SIDE * _SIDE} pixels, got {values.size}.")
    if values.max() > 255:
        raise UserError(f"{where}: pixels must be 0 to 255, got {values.max()}.")

    return values.astype(np.uint8).reshape(_SIDE, _SIDE)


def _read_folders(folder: str) -> LabelledImages:
    """Reads `<class>/*.jpg`."""
    entries = sorted(os.listdir(folder))
    found = [name for name in entries if os.path.isdir(os.path.join(folder, name))]
    unknown = [name for name in found if name.lower() not in CLASSES]
    missing = sorted(set(CLASSES) - {name.lower() for name in found})
    if unknown or missing:
        raise UserError(
            f"{folder}: the class folders must be {', '.join(CLASSES)}; unknown: "
            f"{unknown}, missing: {missing}."
        )

    images: list[str] = []
    labels: list[int] = []
    for name in found:
        inside = sorted(os.listdir(os.path.join(folder, name)))
        files = [os.path.join(folder, name, f) for f in inside if is_image_name(f)]
        images += files
        labels += [CLASSES.index(name.lower())] * len(files)

    if not images:
        raise UserError(f"{folder}: the class folders hold no images.")

    return LabelledImages(
        images=images,
        labels=np.array(labels, np.int32),
        classes=CLASSES,
        origin=folder,
    )
