"""Reads published weights of a network from a .npz, checked before they are used."""

import math
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from facecycle_jax.errors import UserError

# What reading a damaged or foreign file raises.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz_weights(
    path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], *, network: str
) -> dict[str, np.ndarray]:
    """Reads arrays of a .npz by name.

    Args:
      path: the file.
      shapes: shape of each array by name. Other arrays of the file are not read.
      network: what the file holds, as in 'VGG-19', for messages.

    Returns:
      float32 arrays by name.

    Raises:
      UserError: if the file is not a .npz, or an array is missing, misshapen, of other
        numbers than floating-point ones, or not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name: _read_array(archive, path, name, shape, network)
                for name, shape in shapes.items()
            }
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(
            f"{path} is not a readable .npz of {network} weights ({error})."
        ) from None


def npz_names(path: pathlib.Path) -> list[str]:
    """Lists the names of a .npz file's arrays, without reading them."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read_array(
    archive: zipfile.ZipFile,
    path: pathlib.Path,
    key: str,
    shape: tuple[int, ...],
    network: str,
) -> np.ndarray:
    """Reads one array of a .npz as float32.

    Shape and type are checked before the content is read.
    """
    if f"{key}.npy" not in archive.namelist():
        raise UserError(f"{path} has no array {key!r}, which {network} needs.")

    with archive.open(f"{key}.npy") as member:
        # NumPy writes plain numbers in this version only, whose header is short.
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{key} is in an unknown version of the format")

        found, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
        if found != shape:
            raise UserError(
                f"{path}: {key} has shape {found}, {network} needs {shape}."
            )
        if dtype.kind != "f":
            raise UserError(f"{path}: {key} holds {dtype}, not floating-point numbers.")

        data = member.read(math.prod(shape) * dtype.itemsize)

    order: Literal["F", "C"] = "F" if by_columns else "C"
    value = np.frombuffer(data, dtype).reshape(shape, order=order)

    # float64 values beyond float32 become infinite, and are refused below.
    with np.errstate(over="ignore"):
        value = value.astype(np.float32, order="C")
    if not np.isfinite(value).all():
        raise UserError(f"{path}: {key} holds values that are not finite.")
    return value
