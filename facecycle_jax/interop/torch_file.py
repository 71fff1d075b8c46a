"""Reader of PyTorch's checkpoint files that needs no PyTorch and executes nothing.

Two formats exist. Since PyTorch 1.6 a file is a zip archive with `data.pkl` and one
record per storage. The legacy format is a stream of five pickles followed by the
storages. Arrays have PyTorch's own layouts and dtypes, and are read-only views of their
storages.
"""

import io
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from facecycle_jax.errors import ConversionError, shorten
from facecycle_jax.interop.safe_pickle import load
from facecycle_jax.interop.torch_tensors import (
    TABLE,
    Fetch,
    Storage,
    Tensor,
    Walk,
    build_storage,
    cached,
    decode,
    size_of,
)

# Bytes of one pickle.
MAX_PICKLE = 64 << 20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# What zipfile raises on archives with broken fields, without OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    ValueError,
)
# Every legacy file starts with the pickle of the magic number.
_LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."


def read_torch(
    path: str | os.PathLike[str], *, wanted: Callable[[str], bool] | None = None
) -> dict[Any, Any]:
    """Reads a dict of tensors, numbers, strings and dicts written by `torch.save`.

    Only globals of a short fixed list may occur in the file: tensors, parameters,
    ordered dicts and sizes. Any other is refused by name, and none is ever called. The
    tar format of PyTorch before 0.1.10 is not read.

    Args:
      path: the file, of either format, whatever its suffix.
      wanted: function of the keys that lead to a tensor, joined by '/', which says
        whether to read it. Tensors that are not wanted become None. None reads all.

    Returns:
      The dict, with read-only numpy arrays in place of tensors and plain dicts in place
      of ordered ones.

    Raises:
      ConversionError: If the file cannot be read; the sentence names it and the reason.
    """
    path = pathlib.Path(path)

    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)

            if head.startswith(b"PK\x03\x04"):
                tree, fetch = _open_zip(file)
            elif head.startswith(_LEGACY_START):
                tree, fetch = _open_legacy(file)
            else:
                raise ConversionError(_describe_foreign(head))

            if type(tree) is not dict:
                kind = "tensor" if isinstance(tree, Tensor) else type(tree).__name__
                raise ConversionError(f"it holds a {kind}, not a dict of tensors")
            return Walk(fetch, wanted).visit(tree, "", 0)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}.") from None
    except _DAMAGE as error:
        reason = shorten(str(error))
        raise ConversionError(
            f"{path}: its zip archive is damaged or cut off ({reason})."
        ) from None
    except OSError as error:
        reason = error.strerror or shorten(str(error))
        raise ConversionError(f"{path}: it cannot be read ({reason}).") from None


def _describe_foreign(head: bytes) -> str:
    """Says what a file is whose first bytes are not those of a checkpoint."""
    if not head:
        return "it is empty"
    if head[257:262] == b"ustar":
        return (
            "it is a tar archive, as PyTorch before 0.1.10 wrote them, which is not "
            "supported: load and save it again with a newer PyTorch"
        )
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not a checkpoint; the download probably failed"
    if head.startswith(b"version https://git-lfs"):
        return (
            "it is a Git LFS pointer, not the checkpoint itself; fetch it with "
            "`git lfs pull`"
        )
    return "it is not a PyTorch checkpoint: neither a zip archive nor a legacy stream"


def _open_zip(file: BinaryIO) -> tuple[Any, Fetch]:
    """Reads the pickle of a zip archive; storages are read when fetched."""
    length = os.fstat(file.fileno()).st_size
    archive = zipfile.ZipFile(file)
    entries: dict[str, zipfile.ZipInfo] = {}

    for entry in archive.infolist():
        if entry.filename in entries:
            raise ConversionError(f"its archive holds {shorten(entry.filename)} twice")
        is_stored = entry.compress_type == zipfile.ZIP_STORED
        if not is_stored or entry.file_size != entry.compress_size:
            raise ConversionError(
                f"{shorten(entry.filename)} in its archive is compressed, which "
                "PyTorch never does"
            )
        entries[entry.filename] = entry

    # Nothing is compressed, so records that add up to more than the file must overlap.
    if sum(entry.file_size for entry in entries.values()) > length:
        raise ConversionError("its archive claims more data than the file holds")

    # All names begin with one folder, whose name the writer chose.
    pickles = [
        name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise ConversionError(
            f"its archive holds {len(pickles)} files data.pkl, not one"
        )
    prefix = pickles[0].removesuffix("data.pkl")

    # Files of PyTorch before 2.1 do not state their byte order.
    order = b"little"
    if f"{prefix}byteorder" in entries:
        order = archive.read(entries[f"{prefix}byteorder"])
    if order not in (b"little", b"big"):
        raise ConversionError(f"its byte order is {shorten(order)}, not little or big")

    if entries[pickles[0]].file_size > MAX_PICKLE:
        raise ConversionError(f"its pickle is larger than {MAX_PICKLE >> 20} MiB")
    data = archive.read(entries[pickles[0]])

    def read(storage: Storage) -> np.ndarray:
        name = f"{prefix}data/{storage.key}"
        if name not in entries:
            raise ConversionError(f"its archive lacks the storage {shorten(name)}")
        if entries[name].file_size != size_of(storage):
            raise ConversionError(
                f"storage {storage.key} should have {size_of(storage)} bytes, the "
                f"archive holds {entries[name].file_size}"
            )

        return decode(archive.read(entries[name]), storage, big_endian=order == b"big")

    tree = load(
        io.BytesIO(data), limit=len(data), table=TABLE, persistent=build_storage
    )
    return tree, cached(read)


def _open_legacy(file: BinaryIO) -> tuple[Any, Fetch]:
    """Reads the pickles of a legacy stream; storages are read when fetched."""
    length = os.fstat(file.fileno()).st_size

    # Storages that tensors of the pickle refer to, by key.
    mentioned: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = build_storage(identity)
        mentioned.setdefault(storage.key, storage)
        return storage

    # Three pickles of numbers, then the tree, then the keys of the storages.
    magic, protocol, system = (load(file, limit=MAX_PICKLE, table={}) for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or type(system) is not dict:
        raise ConversionError("its legacy header is not one that PyTorch writes")
    if system.get("little_endian") is not True:
        raise ConversionError(
            "it was written on a big-endian machine, which is not supported"
        )

    tree = load(file, limit=MAX_PICKLE, table=TABLE, persistent=persistent)
    keys = load(file, limit=MAX_PICKLE, table={})
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ConversionError("its list of storages is damaged")

    # Each storage is preceded by its number of elements, in 8 bytes.
    offsets: dict[str, int] = {}
    for key in keys:
        if key not in mentioned or key in offsets:
            raise ConversionError(
                f"it lists storage {shorten(key)}, which is unused or listed before"
            )

        storage = mentioned[key]
        size = int.from_bytes(file.read(8), "little")
        offsets[key] = file.tell()
        if size != storage.size or offsets[key] + size_of(storage) > length:
            element = size_of(storage) // max(storage.size, 1)
            raise ConversionError(
                f"storage {key} should have {storage.size} elements of {element} "
                f"bytes, the file announces {size} and has {length - offsets[key]} "
                "bytes left"
            )
        file.seek(size_of(storage), os.SEEK_CUR)

    def read(storage: Storage) -> np.ndarray:
        if storage.key not in offsets or storage != mentioned[storage.key]:
            raise ConversionError(
                f"storage {storage.key} is missing from the file or inconsistent"
            )

        file.seek(offsets[storage.key])
        return decode(file.read(size_of(storage)), storage, big_endian=False)

    return tree, cached(read)
