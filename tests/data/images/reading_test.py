import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from facecycle_jax.data.images import reading as module
from facecycle_jax.data.images.reading import as_images, read_image, read_whole_image
from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.errors import UserError

RNG = np.random.default_rng(0)
RAMP = np.broadcast_to(np.linspace(0, 255, 40).astype(np.uint8)[:, None], (40, 40))


def smooth(height=48, width=40):
    small = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    )


def one(inputs, **options):
    batch, names, problems = as_images(inputs, **{"size": 40, **options})
    assert batch.dtype == np.uint8
    assert len(batch) == len(names) == 1
    assert not problems
    return batch[0]


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_shows_the_same_image(mode):
    source = np.where(RAMP > 127, 255, 0).astype(np.uint8) if mode == "1" else RAMP
    image = Image.fromarray(source).convert("RGB")
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    np.testing.assert_allclose(one(image), np.repeat(source[..., None], 3, -1), atol=3)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_scaled_to_eight_bits(tmp_path, suffix, dtype):
    if suffix == "png" and dtype != np.uint16:
        pytest.skip("PNG has at most 16 bits")
    deep = (
        RAMP / np.float32(255) if dtype == np.float32 else RAMP.astype(np.uint32) * 257
    )
    Image.fromarray(deep.astype(dtype)).save(tmp_path / f"x.{suffix}")
    drawn = one(tmp_path / f"x.{suffix}")
    np.testing.assert_allclose(drawn, np.repeat(RAMP[..., None], 3, -1), atol=1)


def test_dark_sixteen_bit_images_stay_dark():
    dark = Image.fromarray(np.full((8, 8), 200, np.uint16))
    assert one(dark).max() <= 1


@pytest.mark.parametrize("form", ["RGBA", "LA", "palette", "array", "png"])
def test_transparent_parts_become_white(tmp_path, form):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:20, :, 3] = 255
    image = Image.fromarray(pixels)
    if form == "palette":
        image = Image.fromarray((pixels[..., 3] // 255).copy(), "P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.info["transparency"] = 0
    elif form == "png":
        image.save(tmp_path / "x.png")

    given = {"LA": image.convert("LA") if form == "LA" else None, "array": pixels}.get(
        form, image
    )
    drawn = one(tmp_path / "x.png" if form == "png" else given)
    assert (drawn[:20] == 0).all()
    assert (drawn[20:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = smooth(40, 40)
    # What a camera held that way stores: the inverse of what a viewer does.
    inverse = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(inverse)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(one(tmp_path / "x.png"), upright)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (one(tmp_path / "x.gif") == [255, 0, 0]).all()


def test_crop_takes_the_middle_and_stretch_takes_all():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255
    assert (one(wide) == 255).all()
    assert 0 < one(wide, fit="stretch").mean() < 128
    assert one(wide[:1]).shape == (40, 40, 3)


def test_shrinking_is_antialiased_and_the_right_size_is_untouched():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(one(stripes)[5:-5, 5:-5]) <= 2
    exact = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_array_equal(one(exact), exact)


def test_batches_lists_and_folders_are_listed_in_order(tmp_path):
    batch = RNG.integers(0, 256, (3, 40, 40, 3), np.uint8)
    np.testing.assert_array_equal(as_images(batch, size=40)[0], batch)
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "b" / "c.PNG", tmp_path / "d.png"]
    for path, image in zip(paths, batch, strict=True):
        Image.fromarray(image).save(path)

    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    found, names, problems = as_images(str(tmp_path), size=40)
    np.testing.assert_array_equal(found, batch)
    assert names == [str(p) for p in paths]
    assert not problems
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert as_images(tmp_path, size=40)[1] == names
    mixed = [paths[1], Image.fromarray(batch[0]), batch[2]]
    found, names, _ = as_images(mixed, size=40)
    np.testing.assert_array_equal(found, batch[[1, 0, 2]])
    assert names == [str(paths[1]), "image 1", "image 2"]


def test_unreadable_files_are_left_out_with_one_line_each(tmp_path):
    (tmp_path / "a.png").write_bytes(b"this is text")
    (tmp_path / "b.jpg").write_bytes(b"")
    Image.fromarray(smooth()).save(tmp_path / "c.png")
    found, names, problems = as_images(tmp_path, size=16)
    assert found.shape == (1, 16, 16, 3)
    assert [pathlib.Path(n).name for n in names] == ["c.png"]
    assert len(problems) == 2
    assert all("\n" not in line for line in problems)
    assert "a.png" in problems[0]
    assert "no known image format" in problems[0]
    _, _, problems = as_images([tmp_path / "none.png"], size=16)
    assert problems == [f"There is no file {tmp_path / 'none.png'}."]


def test_a_single_unreadable_image_raises(tmp_path):
    (tmp_path / "a.png").write_bytes(b"this is text")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        as_images(tmp_path / "a.png", size=16)
    with pytest.raises(FileNotFoundError, match="no file"):
        as_images(tmp_path / "b.png", size=16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image file"):
        as_images(tmp_path / "empty", size=16)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((8, 8, 3)), "uint8 0..255, got float64"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8 0..255, got float32"),
        ([np.zeros((8, 8, 3))], "uint8 0..255, got float64"),
        (np.zeros((8, 8, 5), np.uint8), r"\[8, 8, 5\]"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), r"\[1, 2, 8, 8, 3\]"),
        (np.array(["a.jpg"]), "give file names as a list"),
        (np.zeros((8, 8, 3), np.int64), "got int64: convert them first"),
        (3, "got int"),
        (b"bytes", "got bytes"),
        ([None], "NoneType at index 0"),
    ],
)
def test_wrong_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        as_images(inputs, size=16)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8, "fit": "bend"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="size must be"):
        as_images(np.zeros((8, 8, 3), np.uint8), **options)


def test_an_empty_list_gives_an_empty_batch():
    found, names, problems = as_images([], size=16)
    assert found.shape == (0, 16, 16, 3)
    assert names == problems == []


def test_huge_images_are_refused_unread(tmp_path, monkeypatch):
    Image.new("1", (5000, 5000)).save(tmp_path / "x.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match=r"5000x5000 pixels are more than 1,000,000"):
        read_image(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(tmp_path / "x.png")


def test_images_beyond_the_limit_of_pillow_get_the_same_sentence(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"64,000,000 pixels; shrink it first\.$"):
        read_image(tmp_path / "big.png")


def test_the_home_folder_is_found_and_addresses_are_refused(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "ann.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_images("~/ann.png", size=8)[0].shape == (1, 8, 8, 3)
    assert as_images(["~/ann.png"], size=8)[0].shape == (1, 8, 8, 3)
    assert read_image("~/ann.png").shape == (8, 8, 3)
    files = [tmp_path / "ann.png", "~/ann.png"]
    assert load_images(files, size=8).shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match=r"the path of images https://a.org/ann\.png"):
        read_image("https://a.org/ann.png")
    for wrong in ("", [""], "http://a.org/ann.png", ["http://a.org/ann.png"]):
        with pytest.raises(UserError, match="the path of images"):
            as_images(wrong, size=8)


def test_a_folder_that_may_not_be_read_is_not_called_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="may not be read; change its permissions"):
        as_images(tmp_path, size=8)


def test_images_that_pillow_warns_about_are_read(tmp_path, monkeypatch):
    Image.fromarray(smooth()).save(tmp_path / "x.png")
    # Above its own limit it warns, and tests make warnings errors.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert read_image(tmp_path / "x.png").shape == (48, 40, 3)


FORMATS = {
    "jpg": {
        "quality": 80,
        "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"
        b"\x06\0\0\0\0\0\0\0",
    },
    "png": {},
    "gif": {},
    "webp": {},
    "tiff": {"compression": "tiff_lzw"},
    "bmp": {},
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, suffix):
    """40 files of each format with flipped bytes, cut ends or wild headers."""
    rng = np.random.default_rng(ord(suffix[0]))
    buffer = io.BytesIO()
    form = {"jpg": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(smooth()).save(buffer, form, **FORMATS[suffix])
    whole = buffer.getvalue()
    for index in range(40):
        data = bytearray(whole)
        kind = index % 4
        if kind == 0:
            data = data[: rng.integers(len(data))]
        else:
            reach = 64 if kind == 1 else len(data)  # mostly the header, or anywhere
            for place in rng.integers(min(reach, len(data)), size=1 + index // 4):
                data[place] = rng.integers(256)
        (tmp_path / f"{index:02d}.{suffix}").write_bytes(bytes(data))

    found, names, problems = as_images(tmp_path, size=16)
    assert len(found) == len(names)
    assert len(names) + len(problems) == 40
    assert problems
    for line in problems:
        assert "\n" not in line
        assert tmp_path.name in line
        assert len(line) < 400


def test_the_callers_own_image_keeps_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REDUCE_ABOVE", 10_000)
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth(300, 400)).save(path)

    with Image.open(path) as image:
        reduced = read_image(image, at_least=8)
        assert image.size == (400, 300)
        assert np.asarray(image).shape == (300, 400, 3)
    assert max(reduced.shape) < 100


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_and_the_profile_of_a_file_are_read(tmp_path, mode):
    image = Image.fromarray(RAMP).convert("LA" if mode == "LA" else "RGBA")
    image.putalpha(Image.fromarray(RAMP.T))
    if mode == "P":
        image = Image.fromarray(np.eye(40, dtype=np.uint8), "P")
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.info["transparency"] = b"\x07\xff"
    path = tmp_path / "x.png"
    image.save(path, icc_profile=SRGB)

    found = read_whole_image(path)
    expected = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(found.colour, expected[..., :3])
    np.testing.assert_array_equal(found.alpha, expected[..., 3])
    np.testing.assert_array_equal(found.image, read_image(path))
    assert found.icc_profile == SRGB


def test_transparency_is_turned_upright_with_its_image(tmp_path):
    image = Image.fromarray(RAMP[:20]).convert("RGBA")
    image.putalpha(Image.fromarray(np.ascontiguousarray(RAMP.T[:20])))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)

    found = read_whole_image(tmp_path / "x.png")
    expected = np.rot90(np.asarray(image), -1)
    np.testing.assert_array_equal(found.colour, expected[..., :3])
    np.testing.assert_array_equal(found.alpha, expected[..., 3])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_only_profiles_of_rgb_values_are_kept(tmp_path, mode):
    spaces = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}
    profile = SRGB[:16] + spaces[mode] + SRGB[20:]
    path = tmp_path / "x.tif"
    Image.fromarray(RAMP).convert(mode).save(path, icc_profile=profile)

    found = read_whole_image(path)
    assert found.icc_profile == (profile if mode == "RGB" else None)
    assert found.alpha is None
    np.testing.assert_array_equal(found.colour, found.image)
