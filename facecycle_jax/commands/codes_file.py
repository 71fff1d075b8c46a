"""Files of codes, .npz: what `facecycle encode` writes and `translate --driver` reads.

A file holds `path` [N], `motion_code` float32 [N, D], for models of both stages
`identity_code` float32 [N, D], and `motion_encoder`, which identifies the encoder.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.inference.arrays_file import read_arrays
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
    arrays: dict[str, Any] = {
        "path": np.array(paths),
        "motion_encoder": np.array(model.motion_key),
        **codes,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
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
    if (
        codes is None
        or paths is None
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

    # What cannot be read as codes is something else.
    held: dict[str, np.ndarray] = {}
    if file.is_file():
        with contextlib.suppress(UserError):
            held = read_arrays(file)
    if _CODES not in held:
        raise UserError(
            f"{file} holds no motion codes, so it is not replaced: choose another "
            "--out."
        )


def _read_arrays(file: epath.Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a .npz.

    Raises:
      UserError: If it is no such file, or is damaged.
    """
    try:
        return read_arrays(file)
    except UserError:
        raise UserError(
            f"{file} is not a .npz of codes, or is damaged: write it with `facecycle "
            "encode`."
        ) from None
