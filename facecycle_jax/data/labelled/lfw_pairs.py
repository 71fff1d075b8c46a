"""Pairs of face images, labelled as same or different: LFW (views 1, 2) and CPLFW."""

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
    """Pairs of images.

    Attributes:
      files: file names of all images, each once.
      left: int32 [P], index into `files` of the first image of each pair.
      right: int32 [P], index of the second image.
      same: bool [P], whether both show one person.
      fold: int32 [P], 0 where the list has no folds.
      people: names of the two people of each pair.
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
          people: names in the form of the lists.

        Returns:
          The other pairs, in their order.

        Raises:
          UserError: If no pair of the same or of different people is left.
        """
        kept = np.array([not people & set(pair) for pair in self.people], bool)
        same = self.same[kept]
        if not same.any() or same.all():
            raise UserError(
                f"{self.origin}: without the {len(people)} people to leave out, "
                f"{int(same.sum())} pairs of one person and {int((~same).sum())} of "
                "two are left; both are needed."
            )
        return self.select(np.flatnonzero(kept))

    def strangers(self, people: Iterable[str]) -> list[str]:
        """Lists the given names that no pair has, in their order."""
        known = {person for pair in self.people for person in pair}
        return [person for person in people if person not in known]

    def select(self, chosen: np.ndarray) -> "Pairs":
        """Returns the pairs of these indices, in their order, with their images."""
        rows = []
        for i in chosen:
            left = self.files[self.left[i]]
            right = self.files[self.right[i]]
            rows.append((left, right, self.same[i], self.fold[i], self.people[i]))

        return _pairs(rows, self.origin)

    def limited(self, limit: int, *, seed: int = 0) -> "Pairs":
        """Draws about `limit` pairs, the same fraction of every fold and answer.

        There is at least one pair of each answer in every fold, because a fold cannot
        be evaluated otherwise. View 2 of LFW therefore keeps 20 pairs or more. Apart
        from that, there are at most `limit` pairs.

        Args:
          limit: number of pairs; 0: all.
          seed: seed of the draw.

        Returns:
          The pairs, in their order.
        """
        fraction = min(1.0, limit / len(self)) if limit else 1.0

        # One number for each combination of fold and answer.
        kinds = 2 * self.fold + self.same
        parts = []
        for kind in np.unique(kinds):
            inside = np.flatnonzero(kinds == kind)
            count = max(1, int(fraction * len(inside)))
            parts.append(inside[choose(len(inside), limit=count, seed=seed)])

        return self.select(np.sort(np.concatenate(parts)))


Row = tuple[str, str, bool, int, tuple[str, str]]


def _pairs(rows: list[Row], origin: str) -> Pairs:
    """Builds pairs from rows and lists each image once."""
    # A file's index is the number of files before its first appearance.
    files: dict[str, int] = {}
    left = [files.setdefault(row[0], len(files)) for row in rows]
    right = [files.setdefault(row[1], len(files)) for row in rows]

    return Pairs(
        files=tuple(files),
        left=np.array(left, np.int32),
        right=np.array(right, np.int32),
        same=np.array([row[2] for row in rows], bool),
        fold=np.array([row[3] for row in rows], np.int32),
        people=tuple(row[4] for row in rows),
        origin=origin,
    )


def _find_image(root: str, relative: str, *, line: str) -> str:
    """Finds an image below one of the usual folders."""
    for folder in _SUBFOLDERS:
        path = os.path.join(root, folder, relative)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"{line}: there is no image {relative} in {root}.")


def _is_number(text: str) -> bool:
    """Whether a text is a whole number of at most nine digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _number(text: str, line: str) -> int:
    """Reads an image's number, 1 and up."""
    if not _is_number(text) or int(text) < 1:
        raise UserError(f"{line}: an image's number must be 1 or more, got {text!r}.")
    return int(text)


def read_lfw_pairs(root: str, *, name: str = "pairs.txt") -> Pairs:
    """Reads a list of pairs of LFW.

    The lists are pairsDevTrain.txt and pairsDevTest.txt (view 1) and pairs.txt (view
    2). A line of three columns is a pair of one person (name, number, number), a line
    of four columns a pair of two people. View 2 starts with the number of folds and the
    number of pairs of each kind in a fold, view 1 with the latter alone.

    Args:
      root: folder of the list. The images lie in `<person>/<person>_NNNN.jpg` there
        or in one of these folders below it: `lfw`, `lfw-deepfunneled`, `lfw_funneled`,
        `lfw-funneled`, `images` or `aligned images`.
      name: the list's name.

    Returns:
      The pairs.

    Raises:
      FileNotFoundError: If the list or an image is missing.
      UserError: If a line has another form, with its number, or the number of pairs is
        not the declared one.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"There is no folder {root}.")
    path = require_file(
        os.path.join(root, name),
        what="LFW's lists are pairs.txt, or pairsDevTrain.txt and pairsDevTest.txt",
    )
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()

    header = lines[0].split() if lines else []
    are_counts = all(_is_number(text) and int(text) > 0 for text in header)
    if len(header) not in (1, 2) or not are_counts:
        raise UserError(
            f"{path}, line 1: expected '<pairs>' or '<folds> <pairs>', got {lines[:1]}."
        )

    # View 1 has no folds.
    folds = int(header[0]) if len(header) == 2 else 1
    count = int(header[-1])
    if len(lines) - 1 != 2 * folds * count:
        raise UserError(
            f"{path} declares {folds} x 2 x {count} pairs and has {len(lines) - 1} "
            "lines of them; is it cut off?"
        )

    rows: list[Row] = []
    for index, line in enumerate(lines[1:]):
        # A fold is `count` pairs of one person, then as many of two people.
        where = f"{path}, line {index + 2}"
        fold = index // (2 * count)
        same = index % (2 * count) < count

        # Names may hold spaces where tabs separate the columns.
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        if len(columns) != (3 if same else 4):
            expected = "name, number, number" if same else "name, number, name, number"
            raise UserError(f"{where}: expected {expected}, got {line!r}.")

        one, first = columns[0], _number(columns[1], where)
        other = one if same else columns[2]
        second = _number(columns[-1], where)
        if not same and one == other:
            raise UserError(f"{where}: a pair of different people names {one!r} twice.")

        left = _find_image(root, f"{one}/{one}_{first:04d}.jpg", line=where)
        right = _find_image(root, f"{other}/{other}_{second:04d}.jpg", line=where)
        rows.append((left, right, same, fold, (one, other)))

    return _pairs(rows, path)


def read_cplfw_pairs(
    root: str, *, name: str = "pairs_CPLFW.txt", folds: int = 10
) -> Pairs:
    """Reads the list of pairs of CPLFW.

    A pair is two lines of the form `<image> <answer>`, with the answer 0 for different
    people. The list has no folds. Pairs of one person and pairs of two people are each
    cut into `folds` equal parts, in the list's order.

    Args:
      root: folder of the list. The images lie in it, or in one of the folders that
        `read_lfw_pairs` names, usually `images` or `aligned images`.
      name: the list's name.
      folds: number of folds.

    Returns:
      The pairs.

    Raises:
      FileNotFoundError: If the list or an image is missing.
      UserError: If a line has another form, with its number.
    """
    path = require_file(
        os.path.join(root, name), what="the list of pairs is part of CPLFW"
    )
    lines = [line.split() for line in read_lines(path) if line.strip()]
    if not lines or len(lines) % 2:
        raise UserError(
            f"{path} has {len(lines)} lines; CPLFW has two lines for each pair."
        )

    for index, columns in enumerate(lines):
        if len(columns) != 2 or not _is_number(columns[1]):
            raise UserError(
                f"{path}, line {index + 1}: expected '<image> <answer>', got "
                f"{' '.join(columns)!r}."
            )

    same = [int(one[1]) > 0 for one in lines[0::2]]
    totals = {True: sum(same), False: len(same) - sum(same)}
    seen = {True: 0, False: 0}

    rows: list[Row] = []
    for index, (one, other) in enumerate(zip(lines[0::2], lines[1::2], strict=True)):
        where = f"{path}, line {2 * index + 1}"
        if one[1] != other[1]:
            raise UserError(
                f"{where}: both lines of a pair must have one answer, got {one[1]} "
                f"and {other[1]}."
            )

        answer = same[index]
        left = _find_image(root, one[0], line=where)
        right = _find_image(root, other[0], line=where)
        people = (one[0].rsplit("_", 1)[0], other[0].rsplit("_", 1)[0])

        # The n-th pair with this answer lies in fold n * folds / all with this answer.
        fold = seen[answer] * folds // totals[answer]
        seen[answer] += 1
        rows.append((left, right, answer, fold, people))

    return _pairs(rows, path)
