"""Sources on disk: folder trees of images, and lists of track folders."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facecycle_jax.data.images.media_files import Key, is_image_name, key_of, walk
from facecycle_jax.data.sources.tracks import Tracks, in_root, long_tracks, make_tracks
from facecycle_jax.errors import UserError


class FoundTrack(NamedTuple):
    """A track in a tree.

    Attributes:
      identity: name of the person.
      name: path below the root.
      path: the folder of images, or the one image.
      files: names of its images.
      left_out: names of links in the folder that are not images of the track.
      is_single: whether `path` is one image in a root instead of a folder.
    """

    identity: str
    name: str
    path: str
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    is_single: bool = False

    def paths(self) -> list[str]:
        """Returns the paths of the images."""
        if self.is_single:
            return [self.path]
        return [os.path.join(self.path, name) for name in self.files]


def scan_folder(
    path: str, *, identity_depth: int = 1, min_frames: int = 1, max_tracks: int = 0
) -> Tracks:
    """Finds tracks in trees: every folder that holds images is one.

    The person is named by the first `identity_depth` folders below the root:
    `<identity>/<video>/<track>/*.jpg`, `<identity>/1.6/<video>/<track>/*.jpg`,
    `<identity>/*.jpg`. Images that lie in the root itself are people of one image each,
    paired with their mirror image.

    Names are paths below the root, so they do not depend on where the data lies. A
    person's name in several roots is one person, but images in the roots themselves are
    people of their own. Tracks of the second root have `#2` at the end of their names,
    and so on. Links are followed as `media_files.walk` describes.

    Args:
      path: the root; several roots are separated by commas.
      identity_depth: number of folders below the root that name a person.
      min_frames: smallest number of frames of a track; images in a root are always
        kept.
      max_tracks: largest number of tracks, the first by name; 0: all.

    Returns:
      The tracks.

    Raises:
      FileNotFoundError: If a root is not a folder.
      UserError: If nothing usable is found, or two roots are the same folder.
    """
    found = find_tracks(roots_of(path), origin=path, identity_depth=identity_depth)
    return long_tracks(
        [(track.identity, track.name, track.paths()) for track in found],
        [track.is_single for track in found],
        origin=path,
        min_frames=min_frames,
        max_tracks=max_tracks,
    )


def find_tracks(
    roots: Sequence[str], *, origin: str, identity_depth: int = 1
) -> list[FoundTrack]:
    """Lists the tracks below some roots, of any length.

    Args:
      roots: the roots.
      origin: where the tracks come from, for messages.
      identity_depth: number of folders below a root that name a person.

    Returns:
      The tracks, in the order of root and path.

    Raises:
      FileNotFoundError: If a root is not a folder.
      UserError: If two roots are the same folder.
    """
    for root in roots:
        if not root or not os.path.isdir(root):
            raise FileNotFoundError(
                f"data.path={origin!r}: there is no folder {root!r}."
            )

    found = []
    for folder in walk(roots):
        images = tuple(name for name in folder.files if is_image_name(name))
        relative = os.path.relpath(folder.path, roots[folder.root]).replace(os.sep, "/")

        # Images in the root itself: each is a track and a person.
        if relative == ".":
            for image in images:
                name = in_root(image, folder.root)
                path = os.path.join(folder.path, image)
                found.append(
                    FoundTrack(
                        identity=name,
                        name=name,
                        path=path,
                        files=(image,),
                        is_single=True,
                    )
                )
        elif images:
            person = "/".join(relative.split("/")[:identity_depth])
            found.append(
                FoundTrack(
                    identity=person,
                    name=in_root(relative, folder.root),
                    path=folder.path,
                    files=images,
                    left_out=folder.left_out,
                )
            )

    return found


def roots_of(path: str) -> list[str]:
    """Splits `data.path` into its roots."""
    parts = [part.strip() for part in path.split(",")]
    return [part.rstrip("/") or part for part in parts]


def by_root(tracks: Tracks, path: str, values: Sequence[float]) -> np.ndarray:
    """Assigns every track the value of its root.

    Args:
      tracks: the tracks of `scan_folder`.
      path: the roots, separated by commas.
      values: one for each root, in the order of `path`.

    Returns:
      float64 [tracks].
    """
    # A root may lie in another one. Longer names are tried first, so that a track
    # belongs to the innermost root.
    pairs = zip(roots_of(path), values, strict=True)
    roots = [(f"{root.rstrip('/')}/", value) for root, value in pairs]
    roots.sort(key=lambda pair: -len(pair[0]))

    found = []
    for frames in tracks.frames:
        first = str(frames[0])
        matching = (value for root, value in roots if first.startswith(root))
        found.append(next(matching))

    return np.array(found)


def read_list(
    path: str, *, identity_depth: int = 1, min_frames: int = 1, max_tracks: int = 0
) -> Tracks:
    """Reads a text file that names one track folder a line.

    Lines are absolute paths or relative to the file's folder. Empty lines and those
    that start with # are skipped. The first `identity_depth` folders of a line, below
    the file's folder, name the person. Folders that lie elsewhere are named below the
    folder that they all share, so that names do not depend on where the data lies; of a
    single one, its parent is the person.

    Args:
      path: the list.
      identity_depth: number of folders that name a person.
      min_frames: smallest number of frames of a track.
      max_tracks: largest number of tracks; 0: all.

    Returns:
      The tracks.

    Raises:
      FileNotFoundError: If the list or a folder in it is missing, with the line's
        number.
      UserError: If nothing usable is named, or two lines name one folder as two
        people's.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"data.path={path!r}: there is no such list file.")

    # Names of folders need not be valid UTF-8; editors may write a byte order mark.
    base = pathlib.Path(os.path.abspath(file.parent))
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")

    lines: list[tuple[int, pathlib.Path]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue

        folder = pathlib.Path(os.path.normpath(base / line))
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{path}, line {number}: there is no folder {line!r}."
            )
        lines.append((number, folder))

    elsewhere = {str(folder) for _, folder in lines if not folder.is_relative_to(base)}
    shared = os.path.commonpath(elsewhere) if elsewhere else ""
    if len(elsewhere) == 1:
        # It shares itself with nothing; its parent is to name it.
        shared = os.path.dirname(os.path.dirname(shared))

    found: list[tuple[str, str, list[str]]] = []
    owners: dict[Key, tuple[str, int]] = {}
    for number, folder in lines:
        root = base if folder.is_relative_to(base) else shared
        name = pathlib.Path(os.path.relpath(folder, root)).as_posix()
        person = "/".join(name.split("/")[:identity_depth])

        # The same folder may be named twice, but not as two people's.
        owner, first = owners.setdefault(key_of(str(folder)), (person, number))
        if owner != person:
            raise UserError(
                f"{path}, lines {first} and {number} name the same folder as two "
                f"people's, {owner!r} and {person!r}."
            )

        images = sorted(entry for entry in os.listdir(folder) if is_image_name(entry))
        found.append((person, name, [str(folder / image) for image in images]))

    tracks = make_tracks(found, origin=path, min_frames=min_frames)

    return tracks.select(range(max_tracks)) if 0 < max_tracks < len(tracks) else tracks
