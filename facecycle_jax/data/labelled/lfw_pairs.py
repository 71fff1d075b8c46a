"""Pairs of face pictures with the answer whether they show one person.

LFW (views 1 and 2) and CPLFW.
"""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np

from facecycle_jax.data.labelled.images import choose, read_lines, require_file
from facecycle_jax.errors import UserError

_SUBFOLDERS = (
    "",
    "lfw",
    "lfw-deepfunneled",
    "lfw_funneled",
    "lfw-funneled",
    "images",
    "aligned images",
)
# Pairs of the published lists: (same, different).
OFFICIAL = {
    "pairsDevTrain.txt": (1100, 1100),
    "pairsDevTest.txt": (500, 500),
    "pairs.txt": (3000, 3000),
    "pairs_CPLFW.txt": (3000, 3000),
}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of pictures.

    Attributes:
      files: file names of all pictures, each once.
      left: int32 [P], index into `files` of the first picture of each pair.
      right: int32 [P], of the second.
      same: bool [P], whether both show one person.
      fold: int32 [P], 0 where the list has no folds.
      people: the two people's names of each pair.
      origin: the list's file, for messages.
    """

    files: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    people: tuple[tuple[str, str], ...]
    origin: str

    def __len__(self) -> int:
        """Counts the pairs."""
        return len(self.same)

    def without(self, people: frozenset[str]) -> "Pairs":
        """Leaves out every pair that shows one of these people.

        Args:
          people: names as the lists have them.

        Returns:
          The other pairs, in their order.

        Raises:
          ValueError: if no pair of the same or of different people is left.
        """
        kept = np.array([not people & set(pair) for pair in self.people], bool)
        same = self.same[kept]
        if not same.any() or same.all():
            raise UserError(
                f"{self.origin}: without the {len(people)} people to leave out, {int(same.sum())} pairs of "
                f"one person and {int((~same).sum())} of two are left; both are needed."
            )
        return self.select(np.flatnonzero(kept))

    def strangers(self, people: Iterable[str]) -> list[str]:
        """Lists the names, of those given, that no pair has, in their order."""
        known = {person for pair in self.people for person in pair}
        return [person for person in people if person not in known]

    def select(self, chosen: np.ndarray) -> "Pairs":
        """Returns the pairs of these indices, in their order, with the pictures they show."""
        rows = [
            (
                self.files[self.left[i]],
                self.files[self.right[i]],
                self.same[i],
                self.fold[i],
                self.people[i],
            )
            for i in chosen
        ]
        return _pairs(rows, self.origin)

    def limited(self, limit: int, *, seed: int = 0) -> "Pairs":
        """Draws at most `limit` pairs, of every fold and answer the same share.

        0 takes all.
        """
        share = min(1.0, limit / len(self)) if limit else 1.0
        kinds = 2 * self.fold + self.same
        parts = []
        for kind in np.unique(kinds):
            inside = np.flatnonzero(kinds == kind)
            parts.append(
                inside[
                    choose(
                        len(inside), limit=max(1, int(share * len(inside))), seed=seed
                    )
                ]
            )
        return self.select(np.sort(np.concatenate(parts)))


Row = tuple[str, str, bool, int, tuple[str, str]]


def _pairs(rows: list[Row], origin: str) -> Pairs:
    """Collects pairs, each picture once."""
    files: dict[str, int] = {}
    left = [files.setdefault(row[0], len(files)) for row in rows]
    right = [files.setdefault(row[1], len(files)) for row in rows]
    return Pairs(
        tuple(files),
        np.array(left, np.int32),
        np.array(right, np.int32),
        np.array([row[2] for row in rows], bool),
        np.array([row[3] for row in rows], np.int32),
        tuple(row[4] for row in rows),
        origin,
    )


def _find_picture(root: str, relative: str, *, line: str) -> str:
    """Finds a picture below one of the usual folders."""
    for folder in _SUBFOLDERS:
        path = os.path.join(root, folder, relative)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"{line}: there is no picture {relative} in {root}.")


def _is_number(text: str) -> bool:
    """Whether a text is a whole number of at most nine digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _number(text: str, line: str) -> int:
    """Reads an image's number, 1 and up."""
    if not _is_number(text) or int(text) < 1:
        raise UserError(f"{line}: a picture's number must be 1 or more, got {text!r}.")
    return int(text)


def read_lfw_pairs(root: str, *, name: str = "pairs.txt") -> Pairs:
    """Reads a list of LFW.

    PairsDevTrain.txt and pairsDevTest.txt (view 1) or pairs.txt (view 2).

    A line of two numbers is a person (name, number, number), one of four columns two
    people. View 2 starts with the number of folds and of pairs of each kind per fold,
    view 1 with the latter alone.

    Args:
      root: folder of the list; the pictures lie in `<person>/<person>_NNNN.jpg` there
        or in `lfw`, `lfw-deepfunneled` or `lfw_funneled` below it.
      name: the list's name.

    Returns:
      The pairs.

    Raises:
      FileNotFoundError: if the list or a picture is missing.
      ValueError: for a line of another form, with its number, or another count of pairs
        than declared.
    """
    path = require_file(
        os.path.join(root, name), what="the list of pairs comes with LFW"
    )
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    header = lines[0].split() if lines else []
    if len(header) not in (1, 2) or not all(
        _is_number(h) and int(h) > 0 for h in header
    ):
        raise UserError(
            f"{path}, line 1: expected '<pairs>' or '<folds> <pairs>', got {lines[:1]}."
        )
    folds, count = (
        (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
    )
    if len(lines) - 1 != 2 * folds * count:
        raise UserError(
            f"{path} declares {folds} x 2 x {count} pairs and has {len(lines) - 1} lines of them; "
            "is it cut off?"
        )
    rows: list[Row] = []
    for index, line in enumerate(lines[1:]):
        where = f"{path}, line {index + 2}"
        same = index % (2 * count) < count
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        if len(columns) != (3 if same else 4):
            expected = "name, number, number" if same else "name, number, name, number"
            raise UserError(f"{where}: expected {expected}, got {line!r}.")
        one, first = columns[0], _number(columns[1], where)
        other, second = (one if same else columns[2]), _number(columns[-1], where)
        if not same and one == other:
            raise UserError(f"{where}: a pair of different people names {one!r} twice.")
        left = _find_picture(root, f"{one}/{one}_{first:04d}.jpg", line=where)
        right = _find_picture(root, f"{other}/{other}_{second:04d}.jpg", line=where)
        rows.append((left, right, same, index // (2 * count), (one, other)))
    return _pairs(rows, path)


def read_cplfw_pairs(
    root: str, *, name: str = "pairs_CPLFW.txt", folds: int = 10
) -> Pairs:
    """Reads the list of CPLFW.

    Two lines a pair, `<picture> <answer>`, the answer 0 for different people.

    The list names no folds: those of the same and those of different people are cut,
    each in the list's order, into `folds` equal parts.

    Args:
      root: folder of the list; pictures lie in it or in `images` or `aligned images`
        below it.
      name: the list's name.
      folds: number of folds.

    Returns:
      The pairs.

    Raises:
      FileNotFoundError: if the list or a picture is missing.
      ValueError: for a line of another form, with its number.
    """
    path = require_file(
        os.path.join(root, name), what="the list of pairs comes with CPLFW"
    )
    lines = [line.split() for line in read_lines(path) if line.strip()]
    if not lines or len(lines) % 2:
        raise UserError(
            f"{path} has {len(lines)} lines; CPLFW has two lines for each pair."
        )
    for index, columns in enumerate(lines):
        if len(columns) != 2 or not _is_number(columns[1]):
            raise UserError(
                f"{path}, line {index + 1}: expected '<picture> <answer>', got {' '.join(columns)!r}."
            )
    same = [int(one[1]) > 0 for one in lines[0::2]]
    totals, seen = {True: sum(same), False: len(same) - sum(same)}, {True: 0, False: 0}
    rows: list[Row] = []
    for index, (one, other) in enumerate(zip(lines[0::2], lines[1::2], strict=True)):
        where = f"{path}, line {2 * index + 1}"
        if one[1] != other[1]:
            raise UserError(
                f"{where}: both lines of a pair must have one answer, got {one[1]} and {other[1]}."
            )
        answer = same[index]
        left, right = (
            _find_picture(root, part[0], line=where) for part in (one, other)
        )
        people = (one[0].rsplit("_", 1)[0], other[0].rsplit("_", 1)[0])
        rows.append(
            (left, right, answer, seen[answer] * folds // totals[answer], people)
        )
        seen[answer] += 1
    return _pairs(rows, path)
