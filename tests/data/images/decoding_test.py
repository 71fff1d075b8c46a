"""The fast decoder is close to the exact one, upright, and refuses half a file."""

import io

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.images.decoding import jpeg_size, make_decoder

cv2 = pytest.importorskip("cv2", reason="needs the extra `fast`")


def smooth(height, width, seed=0):
    """An image without detail finer than the resizing keeps."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "shape", [(72, 72), (112, 112), (250, 200), (300, 620), (600, 600), (40, 40)]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_opencv_is_close_to_pillow_at_every_reduction(shape, mode):
    content = encoded(smooth(*shape).convert(mode), quality=95)
    fast, exact = (
        make_decoder(name, size=72)(content).astype(int)
        for name in ("opencv", "pillow")
    )
    assert fast.shape == exact.shape == (72, 72, 3)
    difference = np.abs(fast - exact)
    assert difference.mean() < 2
    assert difference.max() < 20


def test_exif_turns_the_image_upright():
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    content = encoded(smooth(120, 90), quality=95, exif=exif)
    fast, exact = (
        make_decoder(name, size=72)(content).astype(int)
        for name in ("opencv", "pillow")
    )
    assert np.abs(fast - exact).mean() < 2


def test_other_formats_are_left_to_pillow():
    image = smooth(90, 80).convert("RGBA")
    image.putalpha(128)
    for content in (
        encoded(image, "PNG"),
        encoded(image, "WEBP"),
        encoded(smooth(80, 80), "BMP"),
    ):
        fast, exact = (
            make_decoder(name, size=72)(content) for name in ("opencv", "pillow")
        )
        np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_half_a_file_is_refused(decoder):
    decode = make_decoder(decoder, size=72)
    content = encoded(smooth(250, 250), quality=95)
    for part in (
        content[: len(content) // 2],
        content[:-40],
        content[:30],
        b"",
        b"no image",
    ):
        with pytest.raises(ValueError, match=r"as an image"):
            decode(part)


def test_sizes_are_read_from_headers():
    assert jpeg_size(encoded(smooth(31, 47))) == (31, 47)
    assert jpeg_size(encoded(smooth(31, 47), progressive=True)) == (31, 47)
    assert jpeg_size(encoded(smooth(31, 47), "PNG")) == (0, 0)
    assert jpeg_size(b"\xff\xd8\xff\xd9") == (0, 0)


def test_unknown_decoders_are_refused():
    with pytest.raises(
        ValueError, match=r"data\.decoder must be one of .*, got 'fast'"
    ):
        make_decoder("fast", size=8)
