"""Pictures as files. Pictures are uint8 [H, W, 3] RGB or [H, W] grey."""

import io

import numpy as np
from etils import epath
from PIL import Image

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole


def save_png(path: epath.PathLike, picture: np.ndarray) -> None:
    """Writes a picture as PNG, whole or not at all: readers never see half a file.

    Args:
      path: where to, local or in the cloud (anything `epath` knows); missing folders
        are made.
      picture: uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
      ValueError: if `picture` is not such an array.
    """
    picture = np.asarray(picture)
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or picture.shape[2:] not in ((), (3,))
    ):
        raise UserError(
            f"save_png takes uint8 [H, W, 3] or [H, W], got {picture.dtype} {list(picture.shape)}."
        )
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())
