"""Cuts a folder into compressed files below a size, and joins them again."""

import concurrent.futures
import io
import lzma
import os
import pathlib
import tarfile
from collections.abc import Sequence

from facecycle_jax.errors import UserError

# Weights of half precision: the bytes of a number take turns, so positions are told
# apart by their last bit. Nothing repeats, so a small dictionary is enough.
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 1,
        "lc": 1,
        "lp": 1,
        "pb": 1,
        "dict_size": 2**20,
    }
]
# What compression may add to data that it cannot compress, with much to spare.
_SPARE = 2**16


def cut(folder: pathlib.Path, out: pathlib.Path, *, limit: int) -> list[pathlib.Path]:
    """Writes a folder as files OUT/NAME.00.xz, OUT/NAME.01.xz and so on.

    Joined, they are a tar file.

    Args:
      folder: the folder, whose name is NAME.
      out: folder to write to.
      limit: bytes that a file may have at most.

    Returns:
      The files.

    Raises:
      UserError: If the limit is too small.
    """
    length = limit - _SPARE
    if length < 1:
        raise UserError(f"a part must be larger than {_SPARE} bytes, got {limit}.")

    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        file.add(folder, arcname=folder.name)
    data = whole.getbuffer()
    pieces = [bytes(data[at : at + length]) for at in range(0, len(data), length)]

    # Compression frees the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compressed = list(pool.map(_compressed, pieces))

    files = []
    for number, piece in enumerate(compressed):
        path = out / f"{folder.name}.{number:02}.xz"
        path.write_bytes(piece)
        files.append(path)
    return files


def join(files: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Restores the folder of `cut`.

    Args:
      files: its files, in any order.
      out: folder to restore it in.

    Returns:
      The folder.

    Raises:
      UserError: If a file is missing or damaged.
      FileExistsError: If the folder exists.
    """
    if not files:
        raise UserError("there is no file model.00.xz: no model came back.")
    names = sorted(files, key=lambda path: path.name)
    numbers = [path.name.split(".")[-2] for path in names]
    if numbers != [f"{number:02}" for number in range(len(names))]:
        raise UserError(f"parts are missing, there are only {', '.join(numbers)}.")

    folder = out / names[0].name.split(".")[0]
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it first.")

    try:
        data = b"".join(lzma.decompress(path.read_bytes()) for path in names)
        with tarfile.open(fileobj=io.BytesIO(data)) as file:
            file.extractall(out, filter="data")
    except (lzma.LZMAError, tarfile.TarError) as error:
        raise UserError(f"{names[0]} and its parts are damaged ({error}).") from None
    return folder


def _compressed(piece: bytes) -> bytes:
    """Compresses a piece."""
    return lzma.compress(piece, format=lzma.FORMAT_XZ, filters=_FILTERS)
