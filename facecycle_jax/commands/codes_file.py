"""Files of codes, .npz: what `facecycle encode` writes and `translate --driver` reads.

A file holds `path` [N], `motion_code` float32 [N, D], for models of both stages
`identity_code` float32 [N, D], and `motion_encoder`, which identifies the encoder.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.inference.face_cycle import FaceCycle

SUFFIX = ".npz"


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

    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            arrays = dict(content)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no file of codes ({error}).") from None

    codes = arrays.get("motion_code")
    paths = arrays.get("path")
    if codes is None or paths is None or codes.ndim != 2 or len(paths) != len(codes):
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
