"""No single file ends a run, runs a program, opens another file or exhausts memory."""

import functools
import io
import logging
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import loader_batches
import numpy as np
import pytest
from loader_batches import first
from PIL import Image
from record_files import png, write_set

from facecycle_jax.data import make_loader, read_image
from facecycle_jax.data.images import reading as reading_module
from facecycle_jax.data.images.decoding import make_decoder
from facecycle_jax.data.prepare.encoding import (
    FrameOptions,
    image_sources,
    prepare_track,
)
from facecycle_jax.errors import UserError

config = functools.partial(loader_batches.config, size=8)


def bomb(width=100_000, height=100_000):
    """A PNG of 80 bytes that claims very many pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data))
            + name
            + data
            + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(10))),
        chunk(b"IEND", b""),
    )

    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def half_avif():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "AVIF")
    return buffer.getvalue()[:-200]


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
)
HOSTILE = {"bomb": bomb, "half an AVIF": half_avif, "PostScript": lambda: POSTSCRIPT}


@pytest.fixture(params=HOSTILE)
def hostile(request):
    if "AVIF" in request.param and not reading_module.Image.registered_extensions().get(
        ".avif"
    ):
        pytest.skip("this Pillow reads no AVIF")
    return HOSTILE[request.param]()


@pytest.fixture
def tree(tmp_path, hostile):
    """Three people, two images each, and the hostile file among them."""
    for person in range(3):
        (tmp_path / "root" / f"p{person}").mkdir(parents=True)
        for number in range(2):
            (tmp_path / "root" / f"p{person}" / f"{number}.png").write_bytes(
                png((person, number, 0))
            )
    (tmp_path / "root" / "p1" / "bad.png").write_bytes(hostile)
    return tmp_path / "root"


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize("backend", ["memory", "threads", "tf"])
def test_a_hostile_image_is_left_out_and_named(tree, backend, decoder, caplog):
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    if backend == "tf":
        pytest.importorskip("tensorflow")

    loader = make_loader(config(tree, backend, decoder=decoder), split="train")
    with caplog.at_level(logging.WARNING):
        first(loader, 30)

    (reason,) = loader.unreadable.values()
    assert reason.startswith(str(tree / "p1" / "bad.png"))
    assert "cannot be read as an image" in reason
    assert "\n" not in reason
    assert reason in caplog.text


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_a_hostile_image_in_records_is_left_out_and_named(tmp_path, hostile, decoder):
    pytest.importorskip("tensorflow")
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    tracks = {(f"p{n}", f"p{n}/t"): [png((n, 0, 0)), png((n, 1, 0))] for n in range(3)}
    tracks["p1", "p1/t"].insert(1, hostile)
    write_set(tmp_path / "set", tracks)
    loader = make_loader(
        config(tmp_path / "set", "threads", source="records", decoder=decoder),
        split="train",
    )
    first(loader, 30)
    (reason,) = loader.unreadable.values()
    assert "track p1/t, frame 1: it cannot be read as an image" in reason


@pytest.mark.parametrize("size", [0, 8])
def test_a_hostile_image_is_left_out_while_preparing(tree, size):
    prepared = [
        prepare_track(source, FrameOptions(size=size))
        for source in image_sources(str(tree))
    ]
    assert [len(track.frames) for track in prepared] == [2, 2, 2]
    (line,) = prepared[1].left_out
    assert line.startswith(f"{tree / 'p1' / 'bad.png'} cannot be read as an image")


def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch):
    """Pillow runs `gs` on such files; the stand-in notes that it was called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "face.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(UserError, match="no known image format"):
        read_image(tmp_path / "face.jpg")

    with pytest.raises(UserError, match="no known image format"):
        make_decoder("pillow", size=8)(POSTSCRIPT)

    assert not (tmp_path / "called").exists()


def test_whatever_a_decoder_raises_becomes_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png((1, 2, 3)))

    for error in (
        RuntimeError("two\nlines"),
        MemoryError(),
        SystemError("x"),
        RecursionError(),
        KeyError(7),
    ):
        monkeypatch.setattr(
            reading_module,
            "to_rgb",
            lambda *_, error=error: (_ for _ in ()).throw(error),
        )
        with pytest.raises(
            UserError, match=r"x\.png cannot be read as an image: [^\n]+\.$"
        ):
            read_image(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16", "F"])
def test_strips_and_orientation_give_the_pixels_of_the_whole(mode, monkeypatch):
    rng = np.random.default_rng(0)
    if mode in ("I;16", "F"):
        dtype = np.uint16 if mode == "I;16" else np.float32
        image = Image.fromarray(rng.integers(0, 60_000, (37, 23)).astype(dtype))
    else:
        channels = {"L": 1, "P": 1, "LA": 2}.get(
            mode, 4 if mode in ("RGBA", "CMYK") else 3
        )
        pixels = rng.integers(0, 256, (37, 23, channels), np.uint8)
        form = {"P": "L"}.get(mode, mode)
        image = Image.frombytes(form, (23, 37), pixels.tobytes())
        image = image.convert("P") if mode == "P" else image

    whole = read_image(image)
    monkeypatch.setattr(reading_module, "_STRIP_PIXELS", 60)
    np.testing.assert_array_equal(read_image(image), whole)


def test_large_images_are_reduced_where_little_of_them_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_module, "REDUCE_ABOVE", 10_000)
    monkeypatch.setattr(reading_module, "_STRIP_PIXELS", 20_000)
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
    for name in ("x.png", "x.jpg"):
        image.save(tmp_path / name, quality=95)
        assert read_image(tmp_path / name).shape == (300, 400, 3)
        # 300 // (4 * 8) is 9; a JPEG is decoded at an eighth.
        exact = np.asarray(image.reduce(9 if name == "x.png" else 8))
        reduced = read_image(tmp_path / name, at_least=8)
        assert np.abs(reduced.astype(int) - exact).mean() < (
            0.1 if name == "x.png" else 2
        )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["F", "RGBA", "I;16", "RGB"])
def test_memory_of_one_huge_image_is_bounded(tmp_path, mode):
    """7,990 x 7,990 pixels: 256 MB decoded at most, and a result of 192 MB."""
    side = 7990
    if mode in ("F", "I;16"):
        image = Image.fromarray(
            np.zeros((side, side), np.float32 if mode == "F" else np.uint16)
        )
    else:
        image = Image.new(mode, (side, side))

    path = tmp_path / ("x.tif" if mode == "F" else "x.png")
    image.save(path, **({"compression": "tiff_adobe_deflate"} if mode == "F" else {}))
    code = (
        "import re, sys\n"
        "from facecycle_jax.data.images.reading import read_image\n"
        "def megabytes(name):\n"
        "    text = open('/proc/self/status').read()\n"
        "    return int(re.search(name + r':\\s+(\\d+)', text)[1]) / 1024\n"
        "before = megabytes('VmRSS')\n"
        "read_image(sys.argv[1], at_least=int(sys.argv[2]))\n"
        "print(megabytes('VmHWM') - before)\n"
    )
    for at_least, limit in ((0, 560), (72, 330)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(at_least)],
            capture_output=True, text=True, check=True, cwd=os.getcwd(),
            env={**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        print(f"{mode}, at least {at_least}: {float(done.stdout):.0f} MB")
        assert float(done.stdout) < limit


def test_too_long_names_do_not_hinder_writing(tmp_path):
    from facecycle_jax.files import write_whole

    name = "x" * 251 + ".png"
    write_whole(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == [name]
