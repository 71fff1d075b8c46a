"""Images as files. Images are uint8 [H, W, 3] RGB or [H, W] grey."""

import io

import numpy as np
from etils import epath
from PIL import Image

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
    """Writes an image as PNG; readers never see half a file.

    Args:
      path: where to, local or in the cloud (anything `epath` knows); missing folders
        are made.
      image: uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
      UserError: if `image` is not such an array.
    """
    image = np.asarray(image)
    grey_or_rgb = image.ndim in (2, 3) and image.shape[2:] in ((), (3,))
    if image.dtype != np.uint8 or not grey_or_rgb:
        raise UserError(
            "save_png takes uint8 [H, W, 3] or [H, W], "
            f"got {image.dtype} {list(image.shape)}."
        )

    write_whole(path, encode_png(image))


def encode_png(image: np.ndarray, *, icc_profile: bytes | None = None) -> bytes:
    """Encodes an image as PNG.

    Args:
      image: uint8 [H, W], [H, W, 3] or, with transparency, [H, W, 4].
      icc_profile: colour profile of the image, or None.

    Returns:
      The content of the file.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", icc_profile=icc_profile)
    return buffer.getvalue()
