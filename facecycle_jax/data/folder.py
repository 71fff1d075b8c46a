"""Sources on disk: folder trees of pictures, and lists of track folders."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from facecycle_jax.data.tracks import Tracks, make_tracks

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def scan_folder(path: str, *, identity_depth: int = 1, min_frames: int = 1, max_tracks: int = 0) -> Tracks:
    """Finds tracks in a tree: every folder that holds pictures is one.

    The person is named by the first `identity_depth` folders below the root:
    `<identity>/<video>/<track>/*.jpg`, `<identity>/1.6/<video>/<track>/*.jpg`, `<identity>/*.jpg`. Pictures
    that lie in the root itself are people of one picture each, paired with their mirror image.

    Args:
      path: the root; several roots are separated by commas.
      identity_depth: folders below the root that name a person.
      min_frames: fewest frames of a track; pictures in a root are kept in any case.
      max_tracks: most tracks, the first by name; 0: all.

    Returns:
      The tracks.

    Raises:
      FileNotFoundError: if a root is no folder.
      ValueError: if nothing usable is found.
    """
    found: list[tuple[str, str, list[str]]] = []
    single: list[tuple[str, str, list[str]]] = []
    for root in roots_of(path):
        if not root or not os.path.isdir(root):
            raise FileNotFoundError(f"data.path={path!r}: there is no folder {root!r}.")
        for folder, subfolders, files in os.walk(root, followlinks=True):
            subfolders.sort()
            pictures = sorted(f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith("."))
            if not pictures:
                continue
            relative = pathlib.Path(folder).relative_to(root).as_posix()
            if relative == ".":
                single += [(f"{root}/{f}", f"{root}/{f}", [os.path.join(folder, f)]) for f in pictures]
                continue
            person = "/".join(relative.split("/")[:identity_depth])
            found.append((person, f"{root}/{relative}", [os.path.join(folder, f) for f in pictures]))
    kept = [track for track in found if len(track[2]) >= min_frames] + single
    tracks = make_tracks(kept or found, origin=path, min_frames=1 if kept else min_frames)
    return tracks.select(range(max_tracks)) if 0 < max_tracks < len(tracks) else tracks


def roots_of(path: str) -> list[str]:
    """Splits `data.path` into its roots."""
    return [part.strip() for part in path.split(",")]


def by_root(tracks: Tracks, path: str, values: Sequence[float]) -> np.ndarray:
    """Gives every track the value of the root it was found in.

    Args:
      tracks: of `scan_folder`.
      path: the roots.
      values: one for each root, in the order of `path`.

    Returns:
      float64 [tracks].
    """
    # A root may lie in another one; then the tracks below it are named by the longer.
    roots = sorted(zip(roots_of(path), values, strict=True), key=lambda pair: -len(pair[0]))
    return np.array([next(v for r, v in roots if name.startswith(f"{r}/")) for name in tracks.names])


def read_list(path: str, *, identity_depth: int = 1, min_frames: int = 1, max_tracks: int = 0) -> Tracks:
    """Reads a text file that names one track folder a line, relative to the file or absolute.

    Empty lines and those that start with # are passed over. The person is named by the line's first
    `identity_depth` folders; for absolute lines, below the list's own folder where they lie in it, else
    the folder's parent.

    Args:
      path: the list.
      identity_depth: folders that name a person.
      min_frames: fewest frames of a track.
      max_tracks: most tracks; 0: all.

    Returns:
      The tracks.

    Raises:
      FileNotFoundError: if the list or a folder in it is missing, with the line's number.
      ValueError: if nothing usable is named.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"data.path={path!r}: there is no such list file.")
    found = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        folder = pathlib.Path(line) if os.path.isabs(line) else file.parent / line
        if not folder.is_dir():
            raise FileNotFoundError(f"{path}, line {number}: there is no folder {line!r}.")
        inside = folder.is_relative_to(file.parent)
        relative = folder.relative_to(file.parent) if inside else pathlib.Path(folder.parent.as_posix())
        person = "/".join(relative.parts[:identity_depth]) if inside else str(relative)
        pictures = sorted(str(f) for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        found.append((person, line, pictures))
    tracks = make_tracks(found, origin=path, min_frames=min_frames)
    return tracks.select(range(max_tracks)) if 0 < max_tracks < len(tracks) else tracks
