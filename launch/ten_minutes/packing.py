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

# Quality of the JPEGs. Below 90, blocks become visible at this size.
_QUALITY = 90
# Seed of the order of tracks.
_SEED = 0
# Images of a track in the first round, which training pairs. Later rounds have one.
_FIRST_ROUND = 2
# Bytes that a zip file needs for an entry, in addition to its data and twice its name:
# two headers. And bytes at the end of the file.
_PER_ENTRY = 30 + 46
_AT_END = 22


class Packed(NamedTuple):
    """What was packed.

    Attributes:
      frames: number of images.
      tracks: number of tracks with at least one image.
      size: bytes of the file.
      unreadable: why images were left out, by path.
      complete: whether all images that can be read fitted.
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

    Every track gives two images, which training pairs, before any gives a third one. If
    there is no room for that, tracks are left out at random. The images of a track are
    spread evenly over it, however many there are. The images of the first root are
    in a folder 0 of the file, those of the second in 1, each with the path that it has
    below its root.

    Args:
      roots: folders `<person>/[.../]*.jpg`, see docs/data.md.
      out: the file to write; one that exists is replaced.
      limit: the most bytes that the file may have.
      side: side of the images, in pixels. They are centre-cropped to a square; smaller
        ones are not enlarged.

    Returns:
      What was packed.

    Raises:
      UserError: If not even one image fits or can be read.
      FileNotFoundError: If a root is not a folder.
    """
    tracks: list[FoundTrack] = []
    root_numbers: list[int] = []
    for number, root in enumerate(roots):
        found = find_tracks([root], origin=root)
        tracks += found
        root_numbers += [number] * len(found)

    names: set[str] = set()
    packed_tracks: set[int] = set()
    unreadable: dict[str, str] = {}
    size = _AT_END
    complete = True

    with (
        under_another_name(out) as partial,
        zipfile.ZipFile(os.fspath(partial), "w", zipfile.ZIP_STORED) as file,
    ):
        for index, path in _in_fair_order(tracks):
            try:
                data = _encoded(path, side=side)
            except (ValueError, OSError) as error:
                unreadable[path] = str(error)
                continue

            number = root_numbers[index]
            below_root = pathlib.PurePath(os.path.relpath(path, roots[number]))
            name = f"{number}/{below_root.with_suffix('.jpg').as_posix()}"
            if name in names:
                # An image of the same folder differs in its suffix only.
                name = f"{number}/{below_root.as_posix()}.jpg"

            # The name stands in both headers of the entry.
            needed = len(data) + _PER_ENTRY + 2 * len(name.encode())
            if size + needed > limit:
                complete = False
                break

            # One date, so that the same images give the same file.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            file.writestr(entry, data)
            size += needed
            names.add(name)
            packed_tracks.add(index)

        if not names:
            raise UserError(
                f"no image of {','.join(roots)} fits into {limit} bytes, or none can "
                "be read."
            )

    return Packed(
        frames=len(names),
        tracks=len(packed_tracks),
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
      FileNotFoundError: If there is no such file.
    """
    halves = {
        f"{layer}/{kind}": array.astype(np.float16)
        for layer, arrays in read_vgg_npz(source).items()
        for kind, array in arrays.items()
    }

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **halves)
    write_whole(out, buffer.getvalue())


def _in_fair_order(tracks: Sequence[FoundTrack]) -> Iterator[tuple[int, str]]:
    """Yields (index of the track, path of an image), round by round.

    Every track gives two images in the first round and one in every later one, as long
    as it has any.
    """
    paths: list[list[str]] = []
    for track in tracks:
        found = track.paths()
        paths.append([found[number] for number in _spread(len(found))])

    # Random, but the same every time.
    order = np.random.default_rng(_SEED).permutation(len(paths)).tolist()

    longest = max(map(len, paths), default=0)
    rounds = [slice(0, _FIRST_ROUND)]
    rounds += [slice(number, number + 1) for number in range(_FIRST_ROUND, longest)]
    for images in rounds:
        for index in order:
            for path in paths[index][images]:
                yield index, path


def _spread(count: int) -> list[int]:
    """Orders the numbers below `count` so that any first few are spread evenly."""
    # With their bits reversed, the numbers 0, 1, 2, 3, ... of 3 bits are 0, 4, 2, 6,
    # ...: each halves a gap between earlier ones.
    bits = max(count - 1, 0).bit_length()
    reversed_bits = [
        sum(((number >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
        for number in range(1 << bits)
    ]

    # Scaled from 2**bits to `count`, several may become equal. The first one counts.
    scaled = [number * count >> bits for number in reversed_bits]
    return list(dict.fromkeys(scaled))


def _encoded(path: str, *, side: int) -> bytes:
    """Reads an image and returns it as a small square JPEG."""
    image = read_image(path)
    image = square(image, size=min(side, *image.shape[:2]))

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
