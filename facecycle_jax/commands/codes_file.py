"""Files of codes, .npz: what `facecycle encode` writes and `translate --driver` reads.

A file holds `path` [N], `motion_code` float32 [N, D], for models of both stages
`identity_code` float32 [N, D], and `motion_encoder`, which identifies the encoder.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.inference.face_cycle import FaceCycle

SUFFIX = ".npz"
# Name of the motion codes in a file.
_CODES = "motion_code"


def is_codes(path: str) -> bool:
    """Whether a path names a file of codes by its ending."""
    return path.lower().endswith(SUFFIX)


def write_codes(
    file: epath.Path,
    model: FaceCycle,
    *,
    paths: Sequence[str],
    codes: Mapping[str, np.ndarray],
) -> None:
    """Writes codes of images.

    Args:
      file: the file to write.
      model: the model that computed the codes.
      paths: names of the images.
      codes: motion_code and perhaps identity_code, float32 [N, D].
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        path=np.array(paths),
        motion_encoder=np.array(model.motion_key),
        **codes,
    )
    write_whole(file, buffer.getvalue())


def read_motion_codes(
    file: epath.Path, model: FaceCycle
) -> tuple[list[str], np.ndarray]:
    """Reads the motion codes of a file.

    Args:
      file: a file of `facecycle encode`.
      model: the model that is to draw the motion.

    Returns:
      Names of the images, and their codes float32 [N, D].

    Raises:
      FileNotFoundError: If there is no such file.
      UserError: If it holds no motion codes, or those of another model.
    """
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}.")

    arrays = _read_arrays(file)
    codes = arrays.get(_CODES)
    paths = arrays.get("path")
    # A member of another name than NAME.npy is read as bytes.
    if (
        not isinstance(codes, np.ndarray)
        or not isinstance(paths, np.ndarray)
        or (codes.ndim, paths.ndim) != (2, 1)
        or len(paths) != len(codes)
    ):
        raise UserError(
            f"{file} holds no motion codes of images; write it with facecycle encode."
        )

    dimension = int(model.model["code_dim"])
    if codes.shape[1] != dimension:
        raise UserError(
            f"{file} holds codes of {codes.shape[1]} numbers, this model's have "
            f"{dimension}; write it again with facecycle encode and this --model."
        )

    is_known = "motion_encoder" in arrays
    if not is_known or str(arrays["motion_encoder"]) != model.motion_key:
        whose = "holds codes of another model" if is_known else "names no model"
        raise UserError(
            f"{file} {whose}; write it again with facecycle encode and this --model."
        )

    is_number = codes.dtype.kind == "f" and np.isfinite(codes).all()
    if not len(codes) or not is_number or np.abs(codes).max() > 1:
        raise UserError(f"{file} must hold motion codes from -1 to 1.")

    return [str(path) for path in paths], codes.astype(np.float32)


def check_replaceable(file: epath.Path) -> None:
    """Checks that a file may be replaced by codes: weights, for instance, may not.

    Args:
      file: a file that may not exist.

    Raises:
      UserError: If it exists and holds no motion codes.
    """
    if not file.exists():
        return

    if not file.is_file() or _CODES not in _read_arrays(file):
        raise UserError(
            f"{file} holds no motion codes, so it is not replaced: choose another "
            "--out."
        )


def _read_arrays(file: epath.Path) -> dict[str, Any]:
    """Reads all arrays of a .npz.

    Raises:
      UserError: If it is no such file.
    """
    try:
        content = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        # A single array, .npy, is read whatever the ending.
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise UserError(f"{file} holds one array, and is no file of codes.")
        with content:
            return dict(content)
    except UserError:
        raise
    except (
        ValueError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{file} is no file of codes ({error}).") from None
