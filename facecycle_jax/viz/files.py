"""Files that appear whole or not at all. Pictures are uint8 [H, W, 3] RGB or [H, W] grey."""

import io
import uuid

import numpy as np
from etils import epath
from PIL import Image


def save_png(path: epath.PathLike, picture: np.ndarray) -> None:
    """Writes a picture as PNG, whole or not at all: readers never see half a file.

    Args:
      path: where to, local or in the cloud (anything `epath` knows); missing folders are made.
      picture: uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
      ValueError: if `picture` is not such an array.
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"save_png takes uint8 [H, W, 3] or [H, W], got {picture.dtype} {list(picture.shape)}."
        )
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file under another name beside it, then renames it.

    Args:
      path: where to, local or in the cloud; missing folders are made, an existing file is replaced.
      content: the bytes.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
