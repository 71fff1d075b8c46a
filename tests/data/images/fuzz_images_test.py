"""Thousands of damaged images and sets are each read, or refused in one sentence."""

import copy
import functools
import io
import json

import numpy as np
import pytest
from mutations import damaged, outcomes
from PIL import Image
from record_files import png, write_set

from facecycle_jax.data.batches.frame_reader import record_reader
from facecycle_jax.data.images.decoding import make_decoder
from facecycle_jax.data.images.reading import read_image
from facecycle_jax.data.sources.record_index import FRAMES, TRACKS, verify
from facecycle_jax.data.sources.records import open_records
from facecycle_jax.errors import UserError

pytestmark = pytest.mark.slow
PER_SEED = 200


def seeds():
    """Small images of every format, in the modes that have decoders of their own."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize((40, 48))
    deep = Image.fromarray(rng.integers(0, 60_000, (48, 40)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted = {
        "jpeg": (image, "JPEG", {"exif": exif}),
        "progressive": (image, "JPEG", {"progressive": True}),
        "cmyk": (image.convert("CMYK"), "JPEG", {}),
        "png": (image, "PNG", {"exif": exif}),
        "palette": (image.quantize(16), "PNG", {"transparency": 3}),
        "deep": (deep, "PNG", {}),
        "gif": (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        "webp": (image, "WEBP", {}),
        "tiff": (image, "TIFF", {}),
        "lzw": (image, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg in tiff": (image, "TIFF", {"compression": "jpeg"}),
        "float": (
            Image.fromarray(np.float32(deep) / 6e4),
            "TIFF",
            {"compression": "tiff_adobe_deflate"},
        ),
        "bmp": (image, "BMP", {}),
        "ppm": (image, "PPM", {}),
        "avif": (image, "AVIF", {}),
    }
    found = {}
    for name, (source, form, options) in wanted.items():
        buffer = io.BytesIO()
        try:
            source.save(buffer, form, **options)
        except (KeyError, OSError):
            # This Pillow does without the format.
            continue
        found[name] = buffer.getvalue()

    return found


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_damaged_images_are_decoded_or_refused(decoder):
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    decode = make_decoder(decoder, size=16)
    for name, content in seeds().items():
        rng = np.random.default_rng(1)
        assert decode(content).shape == (16, 16, 3)
        files = [damaged(content, rng) for _ in range(PER_SEED)]
        counts = outcomes(
            [functools.partial(decode, file) for file in files], allowed=UserError
        )
        print(f"{decoder}, {name}: {counts['read']} read, {counts['refused']} refused")
        assert counts["refused"]


def test_damaged_image_files_are_read_or_refused(tmp_path):
    for name, content in seeds().items():
        rng = np.random.default_rng(2)
        attempts = []
        for number in range(PER_SEED // 4):
            path = tmp_path / f"{number}.png"
            path.write_bytes(damaged(content, rng))
            attempts.append(functools.partial(read_image, path))
        counts = outcomes(attempts, allowed=(UserError, OSError))
        print(f"file, {name}: {counts['read']} read, {counts['refused']} refused")


@pytest.fixture
def prepared(tmp_path):
    pytest.importorskip("tensorflow")
    tracks = {(f"p{n}", f"p{n}/t"): [png((n, 0, 0)), png((n, 1, 0))] for n in range(6)}
    write_set(tmp_path / "set", tracks)
    return tmp_path / "set"


def read_whole_set(folder):
    """Opens and verifies a set and reads every frame."""
    tracks, records = open_records(str(folder))
    read = record_reader(records, "pillow", size=8)
    for frames in tracks.frames:
        for frame in frames:
            read(frame)
    assert isinstance(verify(folder), list)


def attempts_with(folder, name, contents):
    """Reads the set with each of several contents of one file."""

    def attempt(content):
        (folder / name).write_bytes(content)
        read_whole_set(folder)

    return [functools.partial(attempt, content) for content in contents]


@pytest.mark.parametrize(
    "signed", [True, False], ids=["with checksums", "of an earlier version"]
)
@pytest.mark.parametrize("name", [TRACKS, FRAMES, "set-train.tfrecord-00000-of-00002"])
def test_damaged_sets_are_read_or_refused(prepared, name, signed):
    if not signed:
        content = json.loads((prepared / TRACKS).read_text())
        del content["sha256"], content["frames_sha256"]
        (prepared / TRACKS).write_text(json.dumps(content))

    rng = np.random.default_rng(3)
    whole = (prepared / name).read_bytes()
    contents = [damaged(whole, rng) for _ in range(600)]
    counts = outcomes(
        attempts_with(prepared, name, contents), allowed=(UserError, OSError)
    )
    print(
        f"{name}, checksums {signed}: {counts['read']} read, {counts['refused']} "
        "refused"
    )
    unchanged = sum(content == whole for content in contents)
    if signed and name != "set-train.tfrecord-00000-of-00002":
        # Changed indices are never believed; only frames.npy is compared by `verify`
        # and CRC-32 alone.
        assert counts["read"] <= unchanged + (100 if name == FRAMES else 0)


def changed(content, rng):
    """Replaces one value anywhere in a tree of JSON."""
    content = copy.deepcopy(content)
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return content

        key = keys[rng.integers(len(keys))]
        if isinstance(place[key], dict | list) and rng.random() < 0.8:
            place = place[key]
            continue

        values = [
            None,
            True,
            -1,
            0,
            1,
            2**31,
            2**64,
            1.5,
            float("nan"),
            "",
            "x",
            "../x",
            "\0",
            [],
            {},
            [[]],
        ]
        place[key] = values[rng.integers(len(values))]

        return content


def test_wrong_values_in_tracks_json_are_refused(prepared):
    content = json.loads((prepared / TRACKS).read_text())
    del content["sha256"], content["frames_sha256"]
    rng = np.random.default_rng(4)
    contents = [json.dumps(changed(content, rng)).encode() for _ in range(600)]
    counts = outcomes(
        attempts_with(prepared, TRACKS, contents), allowed=(UserError, OSError)
    )
    print(f"values of {TRACKS}: {counts['read']} read, {counts['refused']} refused")
    assert counts["refused"]


def test_damaged_videos_are_read_or_refused(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    from facecycle_jax.data.images.video import write_video
    from facecycle_jax.data.prepare.encoding import FrameOptions, Source, prepare_track

    av.logging.set_level(av.logging.PANIC)
    rng = np.random.default_rng(5)
    frames = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(8)]
    for suffix in (".mp4", ".mkv"):
        write_video(tmp_path / f"whole{suffix}", frames, fps=10)
        content = (tmp_path / f"whole{suffix}").read_bytes()
        most = 0
        full = 0
        for number in range(150):
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(damaged(content, rng))
            source = Source(identity="a", name=path.name, path=str(path))
            prepared = prepare_track(source, FrameOptions(fps=10))
            assert prepared.frames or prepared.left_out
            assert all(
                "\n" not in line and path.name in line for line in prepared.left_out
            )
            most = max(most, len(prepared.frames))
            full += not prepared.left_out

        print(
            f"video, {suffix}: {full} read, {150 - full} refused or cut, at most "
            f"{most} frames"
        )
        # Ten seconds of every frame at most.
        assert most <= 8 * 100
