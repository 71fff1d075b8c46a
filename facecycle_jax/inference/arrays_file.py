"""Reading of .npz files that a user may have damaged or replaced."""

import io

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError


def read_arrays(file: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads all arrays of a .npz; nothing in it is executed.

    Args:
      file: local or in the cloud.

    Returns:
      The arrays by name.

    Raises:
      OSError: If it cannot be read.
      UserError: If it is not a .npz, or is damaged.
    """
    # From memory, because numpy leaves a file open that it cannot read.
    content = epath.Path(file).read_bytes()

    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        # A single array, .npy, is read whatever the ending.
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with loaded:
            found = dict(loaded)
    except Exception as error:
        # Damage anywhere in the archive raises errors of zipfile, zlib, struct, numpy
        # and others. Reading from memory raises none that is not about the content.
        raise UserError(f"{file} is not a .npz, or is damaged ({error}).") from error

    # A member of another name than NAME.npy is read as bytes.
    return {name: x for name, x in found.items() if isinstance(x, np.ndarray)}
