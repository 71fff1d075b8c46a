"""Packs training images of some folders into one file of a limited size."""

import io
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.data.images.reading import read_image, square
from facecycle_jax.data.sources.folder import FoundTrack, find_tracks
from facecycle_jax.errors import UserError
from facecycle_jax.files import under_another_name, write_whole
from facecycle_jax.networks.vgg import read_vgg_npz

# Of the JPEGs; below 90 blocks become visible at this size.
_QUALITY = 90
# Of the order of tracks.
_SEED = 0
# What a zip file needs for an entry in addition to its data and twice its name, and at
# its end.
_PER_ENTRY = 30 + 46
_AT_END = 22


class Packed(NamedTuple):
    """What was packed.

    Attributes:
      frames: number of images.
      tracks: number of tracks of which there is an image at least.
      size: bytes of the file.
      unreadable: reasons, by path, why images were left out.
      complete: whether all images fitted.
    """

    frames: int
    tracks: int
    size: int
    unreadable: dict[str, str]
    complete: bool


def pack(
    roots: Sequence[str], out: pathlib.Path, *, limit: int, side: int = 72
) -> Packed:
    """Packs images of folders into a zip file of small JPEGs.

    Every track gives two images, which training pairs, before any gives a third one.
    Where not even that fits, tracks are left out at random. The images of a track are
    spread evenly over it, however many there are. The images of the first root are
    in a folder 0 of the file, those of the second in 1, each with the path that it has
    below its root.

    Args:
      roots: folders `<person>/[.../]*.jpg`, see docs/data.md.
      out: the file to write; one that exists is replaced.
      limit: bytes that the file may have at most.
      side: side of the images, in pixels. They are cut square and not enlarged.

    Returns:
      What was packed.

    Raises:
      UserError: If not even one image fits or can be read.
      FileNotFoundError: If a root is no folder.
    """
    tracks = [
        (number, root, track)
        for number, root in enumerate(roots)
        for track in find_tracks([root], origin=root)
    ]
    used = set()
    unreadable: dict[str, str] = {}
    size = _AT_END
    frames = 0
    complete = True

    with (
        under_another_name(out) as partial,
        zipfile.ZipFile(os.fspath(partial), "w", zipfile.ZIP_STORED) as file,
    ):
        for place, path in _in_fair_order([track for _, _, track in tracks]):
            number, root, _ = tracks[place]
            try:
                data = _encoded(path, side=side)
            except (ValueError, OSError) as error:
                unreadable[path] = str(error)
                continue

            below = pathlib.PurePath(os.path.relpath(path, root)).with_suffix(".jpg")
            name = f"{number}/{below.as_posix()}"
            needed = len(data) + _PER_ENTRY + 2 * len(name.encode())
            if size + needed > limit:
                complete = False
                break

            # One date, so that the same images give the same file.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            file.writestr(entry, data)
            size += needed
            frames += 1
            used.add(place)

        if not frames:
            raise UserError(
                f"no image of {','.join(roots)} fits into {limit} bytes, or none can "
                "be read."
            )

    return Packed(
        frames=frames,
        tracks=len(used),
        size=out.stat().st_size,
        unreadable=unreadable,
        complete=complete,
    )


def halve_vgg(source: str, out: pathlib.Path) -> None:
    """Writes the VGG-19 of a loss in half precision, which halves its size.

    Args:
      source: the .npz of `facecycle import-vgg`.
      out: the file to write; one that exists is replaced.

    Raises:
      UserError: If the source cannot be read.
      FileNotFoundError: If there is none.
    """
    halves = {
        f"{layer}/{kind}": array.astype(np.float16)
        for layer, parts in read_vgg_npz(source).items()
        for kind, array in parts.items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **halves)
    write_whole(out, buffer.getvalue())


def _in_fair_order(tracks: Sequence[FoundTrack]) -> Iterator[tuple[int, str]]:
    """Yields (place of the track, path of an image), round by round."""
    paths = []
    for track in tracks:
        found = track.paths()
        paths.append([found[number] for number in _spread(len(found))])

    # The same tracks every time.
    places = np.random.default_rng(_SEED).permutation(len(paths)).tolist()
    longest = max(map(len, paths), default=0)
    for start in (0, *range(2, longest)):
        images = slice(start, start + (1 if start else 2))
        for place in places:
            for path in paths[place][images]:
                yield place, path


def _spread(count: int) -> list[int]:
    """Orders the numbers below `count` so that any first few are spread evenly."""
    # Numbers whose bits are reversed halve the gaps again and again.
    bits = max(count - 1, 0).bit_length()
    reversed_bits = [
        sum(((number >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
        for number in range(1 << bits)
    ]

    # Scaled to `count`, several may fall together; the first one counts.
    return list(dict.fromkeys(number * count >> bits for number in reversed_bits))


def _encoded(path: str, *, side: int) -> bytes:
    """Reads an image and returns it as a small square JPEG."""
    image = read_image(path)
    image = square(image, size=min(side, *image.shape[:2]))

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
