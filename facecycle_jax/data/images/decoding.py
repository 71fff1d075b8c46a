"""Decoders: encoded images in, uint8 [S, S, 3] RGB out.

Pillow is exact, OpenCV is several times faster. The choice is a setting of the run and
not of the machine, because their pixels differ slightly.
"""

import io
from collections.abc import Callable

import numpy as np

from facecycle_jax.data.images.reading import (
    MAX_PIXELS,
    one_sentence,
    open_image,
    square,
    to_rgb,
)
from facecycle_jax.errors import UserError

Decoder = Callable[[bytes], np.ndarray]
DECODERS = ("pillow", "opencv")
# A JPEG decoded at 1/1, 1/2, 1/4 or 1/8 of its size: OpenCV's IMREAD_COLOR and
# IMREAD_REDUCED_COLOR_*.
_REDUCED = {1: 1, 2: 17, 4: 33, 8: 65}


def make_decoder(name: str, *, size: int) -> Decoder:
    """Builds the decoder of a name.

    Args:
      name: 'pillow' decodes the whole image and resizes it with Lanczos. 'opencv'
        decodes a JPEG at the smallest of 1/1, 1/2, 1/4 and 1/8 that is not below
        `size` and resizes it bilinearly; it leaves all other files to Pillow.
      size: side of the result in pixels; the middle square is kept.

    Returns:
      Bytes of an image file -> uint8 [size, size, 3]. It raises `UnreadableError` for
      other bytes.

    Raises:
      UserError: If `name` is unknown, or OpenCV is not installed.
    """
    if name not in DECODERS:
        raise UserError(f"data.decoder must be one of {DECODERS}, got {name!r}.")
    if name == "pillow":
        return lambda content: decode_pillow(content, size=size)

    try:
        import cv2
    except ImportError:
        raise UserError(
            "data.decoder='opencv' needs OpenCV: pip install 'facecycle_jax[fast]', "
            "or set data.decoder='pillow'."
        ) from None

    # The caller spreads images over threads; threads of OpenCV would only compete.
    cv2.setNumThreads(1)

    def decode(content: bytes) -> np.ndarray:
        with one_sentence("it"):
            return decode_fast(content)

    def decode_fast(content: bytes) -> np.ndarray:
        height, width = jpeg_size(content)
        if not 0 < height * width <= MAX_PIXELS:
            return decode_pillow(content, size=size)

        # The strongest reduction that keeps at least `size` pixels.
        factor = 1
        side = min(height, width)
        while factor < 8 and side >= 2 * factor * size:
            factor *= 2

        image = cv2.imdecode(np.frombuffer(content, np.uint8), _REDUCED[factor])
        if image is None:
            return decode_pillow(content, size=size)

        # The decoder turns images upright, so the sides are read again.
        height, width = image.shape[:2]
        side = min(height, width)
        top = (height - side) // 2
        left = (width - side) // 2
        image = image[top : top + side, left : left + side]

        if side != size:
            # Below twice the size, the two taps of bilinear resizing see every pixel.
            way = cv2.INTER_LINEAR if side < 2 * size else cv2.INTER_AREA
            image = cv2.resize(image, (size, size), interpolation=way)

        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return decode


def decode_pillow(content: bytes, *, size: int) -> np.ndarray:
    """Decodes an image as `frame_reader.read_frame` does a file.

    Args:
      content: bytes of an image file.
      size: side in pixels.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UnreadableError: If it is not an image or damaged.
    """
    with one_sentence("it"), open_image(io.BytesIO(content)) as image:
        return square(to_rgb(image, size), size=size)


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Finds height and width in the header of a whole JPEG.

    A decoder fills the missing part of a cut-off file with grey. Such a file must be
    reported instead of trained on.

    Args:
      content: bytes of a file.

    Returns:
      (height, width), or (0, 0) for other files and for a JPEG without its end.
    """
    # Markers of the start and the end of a JPEG.
    if content[:2] != b"\xff\xd8" or content[-2:] != b"\xff\xd9":
        return 0, 0

    # Every segment is 0xFF, a marker, and two bytes of length. Frame headers (SOF) are
    # C0 to CF without C4, C8 and CC; height and width are 5 and 7 bytes into them.
    offset = 2
    end = len(content) - 9
    while offset < end and content[offset] == 0xFF:
        marker = content[offset + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = content[offset + 5] << 8 | content[offset + 6]
            return height, content[offset + 7] << 8 | content[offset + 8]
        offset += 2 + (content[offset + 2] << 8 | content[offset + 3])

    return 0, 0
