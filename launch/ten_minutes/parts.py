"""Cuts a folder into compressed files of a limited size, and joins them again."""

import concurrent.futures
import io
import lzma
import os
import pathlib
import re
import tarfile
import tempfile
from collections.abc import Sequence

from facecycle_jax.errors import UserError
from facecycle_jax.files import check_new, named_in_errors, write_whole

# Options of LZMA for weights in half precision. The first and the second byte of a
# number have different statistics, which one bit of the position tells apart (lp, pb).
# Weights do not repeat, so a small dictionary is enough.
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
# Bytes that compression may add to data that it cannot compress, generously.
_SPARE = 2**16


def cut(folder: pathlib.Path, out: pathlib.Path, *, limit: int) -> list[pathlib.Path]:
    """Writes a folder as files OUT/NAME.00-of-05.xz, OUT/NAME.01-of-05.xz and so on.

    Decompressed and joined, they are a tar file. The name of each states how many there
    are, so that `join` notices a missing one.

    Args:
      folder: the folder, whose name is NAME.
      out: folder to write to.
      limit: the most bytes that a file may have.

    Returns:
      The files, in order.

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
    starts = range(0, len(data), length)
    pieces = [bytes(data[start : start + length]) for start in starts]

    # Threads are enough, because compression releases the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compressed = list(pool.map(_compressed, pieces))

    files = []
    for number, piece in enumerate(compressed):
        path = out / _part_name(folder.name, number, len(compressed))
        write_whole(path, piece)
        files.append(path)
    return files


def join(files: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Restores the folder that `cut` has written, whole or not at all.

    Args:
      files: the files of `cut`, in any order.
      out: folder to restore it in; made if it is missing.

    Returns:
      The folder.

    Raises:
      UserError: If a file is missing or damaged, or belongs to another folder.
      FileExistsError: If the folder exists.
    """
    if not files:
        raise UserError("there is no part of a model (model.*.xz): no model came back.")

    name, ordered = _in_order(files)
    folder = out / name
    check_new(folder)

    # Under another name first, so that a folder of this name is always whole.
    out.mkdir(parents=True, exist_ok=True)
    with (
        named_in_errors(folder),
        tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=out) as partial,
    ):
        try:
            data = b"".join(lzma.decompress(path.read_bytes()) for path in ordered)
            with tarfile.open(fileobj=io.BytesIO(data)) as file:
                file.extractall(partial, filter="data")
        except (lzma.LZMAError, tarfile.TarError) as error:
            raise UserError(
                f"{ordered[0]} and its parts are damaged ({error}); fetch them again."
            ) from None

        (pathlib.Path(partial) / name).rename(folder)
    return folder


def _part_name(name: str, number: int, count: int) -> str:
    """Returns the name of a file of `cut`, by the folder's name."""
    return f"{name}.{number:02}-of-{count:02}.xz"


def _in_order(files: Sequence[pathlib.Path]) -> tuple[str, list[pathlib.Path]]:
    """Returns the folder's name and the files of its parts, in order.

    Raises:
      UserError: If one is missing, or a file belongs to something else.
    """
    by_name = {path.name: path for path in files}

    # (name of the folder, number of its parts), by every part.
    folders = set()
    for path in files:
        match = re.fullmatch(r"(.+)\.\d+-of-(\d+)\.xz", path.name)
        if not match:
            raise UserError(f"{path} has not the name of a part; remove it.")
        folders.add((match[1], int(match[2])))
    if len(folders) > 1:
        raise UserError(
            f"{', '.join(sorted(by_name))} are parts of different models; remove those "
            "of all but one."
        )

    name, count = folders.pop()
    expected = [_part_name(name, number, count) for number in range(count)]
    missing = [part for part in expected if part not in by_name]
    if missing:
        raise UserError(
            f"parts are missing: {', '.join(missing)}; fetch them from the machine."
        )

    return name, [by_name[part] for part in expected]


def _compressed(piece: bytes) -> bytes:
    """Compresses a piece of the tar file."""
    return lzma.compress(piece, format=lzma.FORMAT_XZ, filters=_FILTERS)
