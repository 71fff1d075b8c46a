"""Control of motion, codes as drivers, interpolation and pasting by the commands."""

import io
import re
import types

import numpy as np
import pytest
import tiny_model
from PIL import Image, ImageCms

from facecycle_jax import cli, load
from facecycle_jax.commands import (
    demo,
    images,
    interpolate,
    motion_options,
    pasting,
    translate,
    translate_video,
)
from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.framing import FRAMING
from facecycle_jax.data.images.reading import as_images
from facecycle_jax.inference import PreparedFaces, motion_control
from facecycle_jax.viz import save_png


class StandIn:
    """Draws negatives, darker by the first number of the code, and compiles nothing."""

    size = 64
    framing = FRAMING
    has_identity = True
    model = types.MappingProxyType({"code_dim": 16})
    motion_key = "a" * 64

    def read(self, images):
        return as_images(images, size=self.size)[0]

    def motion_code(self, images):
        # The brightness of sixteen strips.
        faces = self.read(images).reshape(-1, 16, 4 * 64 * 3)
        return np.tanh(faces.mean(-1) / 255 - 0.5).astype(np.float32)

    def outputs(self, images, names):
        return {name: self.motion_code(images) for name in names}

    def neutral(self, images):
        return 255 - self.read(images)

    def prepare(self, images):
        faces = self.read(images)
        return PreparedFaces(
            motion_code=self.motion_code(faces), fine=faces, coarse=faces
        )

    def express(self, faces, codes):
        darker = 1 - 0.5 * np.abs(codes[:, :1, None, None])
        return ((255 - faces.fine) * darker).astype(np.uint8)

    def interpolate(self, first, second, *, frames, of):
        motion_control.check_frames(frames)
        weights = np.linspace(0, 1, frames)[:, None, None, None]
        return (first + weights * (second.astype(float) - first)).astype(np.uint8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a model."""
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(tiny)


@pytest.fixture
def model(monkeypatch):
    """Replaces the model of the commands; returns a name for --model."""
    for module in (images, translate, translate_video, pasting, interpolate):
        monkeypatch.setattr(module, "load", lambda name: StandIn())
    return "stand-in"


@pytest.fixture
def driver(tmp_path):
    """An image that drives."""
    path = tmp_path / "driver.png"
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_png(path, noise)
    return path


@pytest.fixture
def codes(model, driver, tmp_path):
    """A file of the codes of one image, and the image."""
    out = tmp_path / "codes.npz"
    assert run("encode", driver, "--model", model, "--out", out) == 0
    return out, driver


@pytest.fixture
def photograph(tmp_path):
    """A photograph with two faces, for the detector below."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 260, 3), dtype=np.uint8)
    path = tmp_path / "group.png"
    save_png(path, noise)
    return path


@pytest.fixture
def detector(monkeypatch):
    """Finds two faces in a wide image, one in others, none in a black one."""

    def find_faces(image):
        if image.max() < 30:
            return []
        left = ((25, 30, 75, 80), 1.0)
        right = ((180, 30, 220, 70), 2.0)
        return [right, left] if image.shape[1] > 200 else [left]

    monkeypatch.setattr(face_crop, "find_faces", find_faces)
    monkeypatch.setattr(face_crop, "has_landmarks", lambda: False)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_saved_code_drives_like_its_image(tiny, loaded, driver, tmp_path):
    file = tmp_path / "codes.npz"
    options = ("--model", tiny, "--out")
    assert run("encode", driver, *options, file) == 0
    source = tmp_path / "ann.png"
    save_png(source, np.full((64, 64, 3), 90, np.uint8))
    assert run("translate", source, "--driver", file, *options, tmp_path / "out") == 0
    panel = pixels(tmp_path / "out/ann_driver.png")

    # The last cell is the moved face.
    moved = Image.fromarray(loaded.reexpress(str(source), str(driver))[0])
    moved = np.asarray(moved.resize((128, 128), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(panel[-134:-6, -134:-6] - moved).max() <= 3


def test_codes_of_another_model_are_refused(model, codes, tmp_path, capsys):
    file, _ = codes
    content = dict(np.load(file))
    source = tmp_path / "ann.png"
    save_png(source, np.full((64, 64, 3), 90, np.uint8))

    without = {n: a for n, a in content.items() if n != "motion_encoder"}
    cases = {
        "other": (content | {"motion_encoder": "0" * 64}, "codes of another model"),
        "unnamed": (without, "names no model"),
        "short": (content | {"motion_code": np.zeros((1, 8))}, "codes of 8 numbers"),
        "large": (content | {"motion_code": np.full((1, 16), 2.0)}, "from -1 to 1"),
        "rows": (content | {"path": np.array(["a", "b"])}, "no motion codes of images"),
        "scalar": (content | {"path": np.array("a")}, "no motion codes of images"),
    }
    for name, (arrays, words) in cases.items():
        bad = tmp_path / f"{name}.npz"
        np.savez(bad, **arrays)
        options = ("--model", model, "--out", tmp_path / "out")
        assert run("translate", source, "--driver", bad, *options) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    # A single array, which numpy reads whatever the ending.
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 16)))
    bad = tmp_path / "array.npz"
    bad.write_bytes(buffer.getvalue())
    options = ("--model", model, "--out", tmp_path / "out")
    assert run("translate", source, "--driver", bad, *options) == 2
    assert "array.npz is not a .npz of codes" in capsys.readouterr().err

    bad = tmp_path / "text.npz"
    bad.write_text("no archive")
    options = ("--model", model, "--out", tmp_path / "out")
    assert run("translate", source, "--driver", bad, *options) == 2
    error = capsys.readouterr().err
    assert "text.npz is not a .npz of codes, or is damaged: write it with" in error
    # numpy's advice is to run what is in the file.
    assert "pickle" not in error
    assert run("translate", source, "--driver", tmp_path / "no.npz", *options) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strength", "2"], "strength must be 0 to 1.5, got 2.0"),
        (["--relative"], "--relative needs a driving video or several drivers"),
        (["--face", "all"], "--face all needs --paste"),
    ],
)
def test_options_out_of_range_are_one_sentence(
    model, codes, tmp_path, capsys, arguments, words
):
    _, image = codes
    options = ("--model", model, "--out", tmp_path / "out", *arguments)
    assert run("translate", image, "--driver", image, *options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_relative_motion_needs_the_first_driver(model, driver, tmp_path, capsys):
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    (drivers / "a.jpg").write_bytes(b"no image")
    for name in ("b.png", "c.png"):
        (drivers / name).write_bytes(driver.read_bytes())

    out = tmp_path / "out"
    options = ("--driver", drivers, "--model", model, "--out", out)
    assert run("translate", driver, *options, "--relative") == 2
    error = capsys.readouterr().err
    assert re.search(r"the first driver, and that cannot .*a\.jpg cannot be", error)
    assert error.count("\n") == 1
    assert not out.exists()
    assert run("translate", driver, *options, "--strength", "0.5") == 1


def test_an_image_of_both_sides_is_reported_once(model, driver, tmp_path, capsys):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "a.png").write_bytes(driver.read_bytes())
    (photographs / "b.png").write_bytes(driver.read_bytes())
    (photographs / "c.jpg").write_bytes(b"no image")

    options = ("--model", model, "--out", tmp_path / "out", "--relative")
    assert run("translate", photographs, "--driver", photographs, *options) == 1
    error = capsys.readouterr().err
    assert error.count("c.jpg") == 1
    assert "1 image left out, 4 done" in error


def test_motion_is_relative_to_the_first_of_all_frames():
    arguments = types.SimpleNamespace(strength=1.0, only=None, relative=True)
    motion = motion_options.Motion(arguments)
    rng = np.random.default_rng(0)
    source = np.tanh(rng.normal(0, 0.3, (1, 16)))
    frames = np.tanh(rng.normal(0, 0.3, (6, 16)))

    # In two chunks, as a video is read.
    parts = [motion.codes(StandIn(), source, frames[:4])]
    parts.append(motion.codes(StandIn(), source, frames[4:]))
    wanted = motion_control.combine(source, frames, reference=frames[:1])
    np.testing.assert_allclose(np.concatenate(parts), wanted, atol=1e-6)
    np.testing.assert_allclose(parts[0][0], source[0], atol=1e-6)


def test_pasted_photographs_keep_their_size_and_surroundings(
    model, photograph, detector, tmp_path
):
    before = pixels(photograph)
    changed = {}
    for face in ("largest", "0", "1", "all"):
        out = tmp_path / face
        options = ("--model", model, "--out", out, "--paste", "--face", face)
        assert run("frontalize", photograph, *options) == 0
        after = pixels(out / "group.png")
        assert after.shape == before.shape
        differs = (after != before).any(-1)

        # The columns of either face; between them nothing changes.
        changed[face] = (differs[:, :120].any(), differs[:, 150:].any())
        assert not differs[:, 125:145].any()

    assert changed == {
        "largest": (True, False),
        "0": (True, False),
        "1": (False, True),
        "all": (True, True),
    }


@pytest.mark.parametrize("command", ["frontalize", "translate"])
def test_pasted_photographs_keep_transparency_and_profile(
    model, driver, photograph, detector, tmp_path, command
):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(photograph) as image:
        image = image.convert("RGBA")
    alpha = np.full((120, 260), 255, np.uint8)
    alpha[:, 150:] = 40
    image.putalpha(Image.fromarray(alpha))
    image.save(photograph, icc_profile=profile)

    out = tmp_path / "out"
    options = ("--model", model, "--out", out, "--paste", "--face", "0")
    drivers = ("--driver", driver) if command == "translate" else ()
    assert run(command, photograph, *drivers, *options) == 0

    (file,) = out.iterdir()
    with Image.open(file) as written:
        assert written.info["icc_profile"] == profile
        after = np.asarray(written)
    before = np.asarray(image)
    np.testing.assert_array_equal(after[..., 3], alpha)
    np.testing.assert_array_equal(after[:, 125:], before[:, 125:])
    assert (after[:, :120] != before[:, :120]).any()


def test_a_moved_face_is_pasted(model, photograph, codes, detector, tmp_path):
    file, image = codes
    out = tmp_path / "out"
    options = ("--model", model, "--out", out, "--paste")
    assert run("translate", photograph, "--driver", file, *options) == 0
    by_code = pixels(out / "group_driver.png")
    assert run("translate", photograph, "--driver", image, *options, "--overwrite") == 0
    by_image = pixels(out / "group_driver.png")
    assert by_code.shape == (120, 260, 3)
    assert np.abs(by_code - by_image).max() <= 3
    assert (by_code != pixels(photograph)).any()


def test_photographs_without_a_face_are_named(
    model, photograph, detector, tmp_path, capsys
):
    black = tmp_path / "black.png"
    save_png(black, np.zeros((60, 60, 3), np.uint8))
    out = tmp_path / "out"
    options = ("--model", model, "--out", out, "--paste")
    assert run("frontalize", black, photograph, *options) == 1
    error = capsys.readouterr().err
    assert f"left out: {black}: No face was found" in error
    assert [path.name for path in out.iterdir()] == ["group.png"]

    assert run("frontalize", black, *options, "--overwrite") == 2
    assert "1 image left out, 0 done" in capsys.readouterr().err

    last = ("--face", "7", "--overwrite")
    assert run("frontalize", photograph, *options, *last) == 2
    assert (
        "there is no face 7: faces found are 2, counted from 0"
        in capsys.readouterr().err
    )


@pytest.fixture
def clip(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    from facecycle_jax.data.images.video import write_video

    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 180, (10, 15, 3), dtype=np.uint8)
    frame = np.repeat(np.repeat(coarse, 10, axis=0), 10, axis=1)
    black = np.zeros_like(frame)
    path = tmp_path / "clip.mp4"
    write_video(path, [black, *[frame] * 3], fps=10)
    return path


def test_faces_of_a_video_are_pasted(model, codes, clip, detector, tmp_path, capsys):
    from facecycle_jax.data.images.video import read_video

    before = np.stack(list(read_video(clip).frames)).astype(int)
    _, image = codes
    options = ("--model", model, "--paste", "--out")
    for number, command in enumerate(
        (("frontalize", clip), ("translate", clip, "--driver", image))
    ):
        out = tmp_path / f"{number}.mp4"
        assert run(*command, *options, out) == 0
        after = np.stack(list(read_video(out).frames)).astype(int)
        assert after.shape == before.shape

        # The frame without a face stays, and so does what lies outside the face, but
        # for what compression changes.
        assert np.abs(after[0] - before[0]).max() < 8
        inside = np.abs(after[1:] - before[1:])[:, 40:70, 35:65].mean()
        outside = np.abs(after[1:] - before[1:])[:, :, 130:].mean()
        assert outside < 6
        assert inside > 2 * outside

    for arguments, words in (
        ((tmp_path / "x.png",), "--out must end in .mp4"),
        ((tmp_path / "x.mp4", "--face", "all"), "in a video choose one face"),
    ):
        assert run("frontalize", clip, *options, *arguments) == 2
        assert words in capsys.readouterr().err

    # Videos need --paste, and only one side may be a video.
    plain = ("--model", model, "--out", tmp_path / "x.mp4")
    assert run("translate", clip, "--driver", image, *plain) == 2
    assert "is a video: use --paste" in capsys.readouterr().err
    assert run("translate", clip, "--driver", clip, *plain, "--paste") == 2
    assert "both videos" in capsys.readouterr().err


def test_a_video_moves_a_photograph(model, photograph, clip, detector, tmp_path):
    from facecycle_jax.data.images.video import read_video

    # Encoders keep blocks of 10 pixels, and no noise.
    blocks = np.random.default_rng(1).integers(60, 180, (12, 26, 3), dtype=np.uint8)
    before = np.repeat(np.repeat(blocks, 10, axis=0), 10, axis=1)
    save_png(photograph, before)

    out = tmp_path / "moved.mp4"
    options = ("--model", model, "--out", out, "--paste", "--relative", "--face", "all")
    assert run("translate", photograph, "--driver", clip, *options) == 0
    frames = np.stack(list(read_video(out).frames)).astype(int)
    assert frames.shape == (4, 120, 260, 3)

    # Both faces change, and again with the driver's second frame; between the faces
    # nothing does, but for what compression changes.
    faces = (np.s_[40:70, 35:65], np.s_[35:65, 185:215])
    for face in faces:
        assert np.abs(frames[0] - before)[face].mean() > 30
        assert np.abs(frames[1] - frames[0])[face].mean() > 8
    assert np.abs(frames - before)[:, :, 125:145].mean() < 6
    assert np.abs(frames[1] - frames[0])[:, 125:145].mean() < 2

    # The driver's colours are not the photograph's.
    import av

    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.colorspace == 6


def test_a_video_without_a_face_is_one_sentence(model, detector, tmp_path, capsys):
    pytest.importorskip("av", reason="needs the extra `video`")
    from facecycle_jax.data.images.video import write_video

    clip = tmp_path / "black.mp4"
    write_video(clip, [np.zeros((64, 64, 3), np.uint8)] * 3, fps=5)
    out = tmp_path / "out.mp4"
    assert run("frontalize", clip, "--model", model, "--out", out, "--paste") == 2
    assert "black.mp4: no face was found in any frame" in capsys.readouterr().err
    assert not out.exists()


def test_a_strip_and_a_clip_lead_from_face_to_face(model, codes, tmp_path, capsys):
    _, image = codes
    other = tmp_path / "bob.png"
    save_png(other, np.full((64, 64, 3), 90, np.uint8))
    options = ("--model", model, "--frames", "3")

    strip = tmp_path / "strip.png"
    assert run("interpolate", image, other, *options, "--out", strip) == 0
    panel = pixels(strip)
    assert panel.shape[1] == 6 + 5 * 134

    # The third of five cells is halfway between both images.
    ends = StandIn().read([image, other])
    halfway = (ends.astype(float).mean(0)).astype(np.uint8)
    halfway = Image.fromarray(halfway).resize((128, 128), Image.Resampling.LANCZOS)
    cell = panel[-134:-6, 6 + 2 * 134 : 6 + 2 * 134 + 128]
    assert np.abs(cell - np.asarray(halfway)).max() <= 3
    assert "3 faces" in capsys.readouterr().out

    for arguments, words in (
        (["--out", tmp_path / "x.gif"], r"must end in \.png or, for a clip"),
        (["--out", tmp_path / "x.png", "--frames", "1"], "frames must be at least 2"),
        (["--out", tmp_path / "x.png", "--frames", "9999"], "must be at most 1000"),
        (["--out", strip], "exists already"),
        (
            ["--out", tmp_path / "x.png", "--fps", "5"],
            "--fps is for clips, and .*x.png",
        ),
        (["--out", tmp_path / "x.mp4", "--fps", "inf"], "fps must be 0.1 to 1000"),
        (["--out", tmp_path / "x.mp4", "--fps", "1e-9"], "fps must be 0.1 to 1000"),
    ):
        assert run("interpolate", image, other, *options, *arguments) == 2
        assert re.search(words, capsys.readouterr().err)

    pytest.importorskip("av", reason="needs the extra `video`")
    from facecycle_jax.data.images.video import read_video

    clip = tmp_path / "clip.mp4"
    assert run("interpolate", image, other, *options, "--out", clip) == 0
    assert len(list(read_video(clip).frames)) == 3


def test_sliders_of_the_demo_draw_the_exchange(loaded, driver, monkeypatch):
    rng = np.random.default_rng(3)
    directions = motion_control.PoseDirections(
        directions=rng.normal(0, 0.05, (6, 16)), readout=None, scores=None
    )
    monkeypatch.setattr(motion_control, "pose_directions", lambda model: directions)
    result = demo.exchange(loaded, driver, driver)

    drawn = demo.adjust(loaded, result.faces, strength=1, yaw=0, pitch=0)
    assert drawn.shape == (2, 256, 256, 3)
    difference = drawn.astype(int) - result.images["reexpressed"]
    assert np.abs(difference).max() <= 2

    turned = demo.adjust(loaded, result.faces, strength=1, yaw=40, pitch=-20)
    assert np.abs(turned.astype(int) - drawn).mean() > 0.1
    with pytest.raises(ValueError, match=r"strength must be 0 to 1\.5"):
        demo.adjust(loaded, result.faces, strength=9, yaw=0, pitch=0)


def test_sliders_run_no_encoder(loaded, driver, monkeypatch):
    faces = loaded.prepare(str(driver))
    ran = []
    original = loaded._batches.run

    def run_one(function, *arrays, **options):
        ran.append(function.__name__)
        return original(function, *arrays, **options)

    monkeypatch.setattr(loaded._batches, "run", run_one)
    demo.adjust(loaded, faces, strength=0.5, yaw=0, pitch=0)
    assert ran == ["express"]
