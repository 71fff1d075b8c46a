"""The commands on images: outputs, exit status, and one sentence for each error."""

import io
import re
import shutil
import types

import numpy as np
import pytest
import tiny_model
from PIL import Image

from facecycle_jax import cli, load
from facecycle_jax.commands import inputs, translate_video
from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.framing import FRAMING
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.inference import FaceCycle
from facecycle_jax.viz import flow_to_rgb


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "more/a.png"):
        noise = rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def cell(panel, column, columns):
    """The cell of a panel of one row of cells of 128 pixels, 6 apart."""
    pixels = np.asarray(panel).astype(int)
    assert pixels.shape[1] == 6 + columns * 134
    left = 6 + column * 134
    return pixels[-134:-6, left : left + 128]


def enlarged(image):
    """An image as the cell of a panel shows it; small maps keep hard pixels."""
    is_small = len(image) < 32
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((128, 128), how)).astype(int)


def test_encode_writes_the_codes_of_the_model(model, faces, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert run("encode", faces, "--model", model, "--out", out) == 0
    codes = np.load(out)
    names = [name.removeprefix(f"{faces}/") for name in codes["path"]]
    assert names == ["a.png", "b.png", "more/a.png"]
    np.testing.assert_array_equal(codes["motion_code"], load(model).motion_code(faces))
    np.testing.assert_array_equal(
        codes["identity_code"], load(model).identity_code(faces)
    )
    assert "codes of 3 images" in capsys.readouterr().out

    before = out.read_bytes()
    assert run("encode", faces, "--model", model, "--out", out) == 2
    assert "exists already; use --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run("encode", faces, "--model", model, "--out", out, "--overwrite") == 0


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        ("frontalize", ("input", "neutral", "mean_face")),
        ("reconstruct", ("input", "flow", "neutral", "reconstruction")),
    ],
)
def test_every_image_gets_a_panel(model, faces, tmp_path, command, columns):
    out = tmp_path / "out"
    assert run(command, faces, "--model", model, "--out", out) == 0

    # Equal names get their folders before them.
    names = sorted(path.name for path in out.iterdir())
    assert names == ["faces_a.png", "faces_b.png", "more_a.png"]
    expected = load(model).outputs(faces, columns)
    with Image.open(out / "faces_a.png") as panel:
        for index, name in enumerate(columns):
            drawn = expected[name][0]
            image = flow_to_rgb(drawn) if name == "flow" else drawn
            found = cell(panel, index, len(columns))
            assert np.abs(found - enlarged(image)).max() <= 3, name


def test_translate_draws_a_panel_for_each_pair(model, faces, tmp_path):
    out = tmp_path / "out"
    options = ("--driver", faces / "b.png", "--model", model, "--out", out)

    assert run("translate", faces / "a.png", *options) == 0
    assert [path.name for path in out.iterdir()] == ["a_b.png"]

    # The last of six columns, in the row of the driver.
    result = load(model).translate(faces / "a.png", faces / "b.png")
    with Image.open(out / "a_b.png") as panel:
        last = np.asarray(panel).astype(int)[-134:-6, -134:-6]
    drawn = result["reidentified_reexpressed"][0, 1]
    assert np.abs(last - enlarged(drawn)).max() <= 3

    assert run("translate", faces, *options) == 0
    assert len(list(out.iterdir())) == 4


def test_pairs_that_join_to_one_name_have_panels_of_their_own(model, tmp_path):
    rng = np.random.default_rng(0)
    for name in (
        "sources/a.png",
        "sources/a_b.png",
        "drivers/b_c.png",
        "drivers/c.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)

    sources = tmp_path / "sources"
    out = tmp_path / "out"
    options = ("--driver", tmp_path / "drivers", "--model", model, "--out", out)
    assert run("translate", sources, *options) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "a_b_b_c.png",
        "a_b_c.png",
        "a_b_c_2.png",
        "a_c.png",
    ]
    assert (out / "a_b_c.png").read_bytes() != (out / "a_b_c_2.png").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["frontalize", "{faces}", "--out", "{faces}"],
        ["frontalize", "{faces}/a.png", "--out", "{faces}/../faces"],
        ["translate", "{faces}/a.png", "--driver", "{faces}", "--out", "{faces}"],
        ["encode", "{faces}/codes.npz", "--out", "{faces}/codes.npz"],
    ],
)
def test_an_output_that_is_an_input_is_refused(model, faces, capsys, arguments):
    shutil.rmtree(faces / "more")
    # Images with the names of a panel and of a file of codes.
    shutil.copy(faces / "a.png", faces / "a_b.png")
    shutil.copy(faces / "a.png", faces / "codes.npz")
    before = {path.name: path.read_bytes() for path in faces.iterdir()}
    filled = [part.format(faces=faces) for part in arguments]
    assert run(*filled, "--model", model, "--overwrite") == 2
    assert "would replace an input; choose another --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in faces.iterdir()} == before


def test_a_name_too_long_for_an_output_leaves_the_others(
    model, faces, tmp_path, capsys
):
    # The name of one image, 252 of 255 bytes, leaves no room for that of the driver.
    driver = faces / "driver.png"
    (faces / "b.png").rename(driver)
    long = faces / f"{'x' * 248}.png"
    (faces / "a.png").rename(long)
    out = tmp_path / "out"
    assert run("frontalize", long, driver, "--model", model, "--out", out) == 0
    assert len(list(out.iterdir())) == 2

    pairs = tmp_path / "pairs"
    options = ("--driver", driver, "--model", model, "--out", pairs)
    assert run("translate", faces, *options) == 1
    assert len(list(pairs.iterdir())) == 2
    error = capsys.readouterr().err
    assert error.count("the name of this output is too long for the file system") == 1
    assert "1 image left out, 2 done" in error


def test_unreadable_images_are_reported_at_the_end(model, faces, tmp_path, capsys):
    (faces / "c.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert run("frontalize", faces, "--model", model, "--out", out) == 1
    error = capsys.readouterr().err
    assert error.count("c.jpg") == 1
    assert "1 image left out, 3 done" in error
    assert len(list(out.iterdir())) == 3

    codes = tmp_path / "x.npz"
    assert run("encode", faces / "c.jpg", "--model", model, "--out", codes) == 2
    assert not codes.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encode", "{faces}/none.png", "--out", "{tmp}/x.npz"], "no file or folder"),
        (["encode", "{faces}", "--out", "{tmp}/x.txt"], "must end in .npz"),
        (["frontalize", "{tmp}/empty", "--out", "{tmp}/x"], "has no image file"),
        (
            ["frontalize", "{faces}", "--out", "{faces}/a.png"],
            "a.png is a file: choose another --out",
        ),
        (
            ["encode", "{faces}", "--out", "{faces}/a.png/x.npz"],
            "/a.png is a file: choose another --out",
        ),
        (
            ["frontalize", "{faces}", "--out", "{tmp}/x", "--which", "1"],
            "give --crop too",
        ),
        (
            ["reconstruct", "{faces}", "--out", "{tmp}/x", "--which", "7"],
            "give --crop too",
        ),
        (
            ["reconstruct", "{faces}", "--out", "{tmp}/result.png"],
            "/result.png ends in .png, but a folder of images is made: name a folder",
        ),
        (
            ["frontalize", "{faces}", "--out", "{tmp}/x", "--max-frames", "3"],
            "--max-frames shortens a video, and no input is one",
        ),
        (
            ["frontalize", "{faces}/clip.mp4", "--out", "{tmp}/x"],
            "clip.mp4 is a video: use --paste",
        ),
        (
            ["frontalize", "{faces}", "a.mp4", "--out", "{tmp}/x.mp4", "--paste"],
            "a.mp4 is a video: give it alone",
        ),
        (
            [
                "translate",
                "{faces}",
                "--driver",
                "{faces}/a.png",
                "--out",
                "{tmp}/result.mp4",
            ],
            "/result.mp4 ends in .mp4, but a folder of images is made",
        ),
        (
            [
                "translate",
                "{faces}",
                "--driver",
                "{faces}/a.png",
                "--out",
                "{tmp}/x",
                "--max-frames",
                "3",
            ],
            "--max-frames shortens a video, and no input is one",
        ),
        (
            [
                "translate",
                "{faces}",
                "--driver",
                "{faces}/none.png",
                "--out",
                "{tmp}/x",
            ],
            "no file or folder",
        ),
        (
            [
                "translate",
                "{faces}",
                "--driver",
                "{faces}/none.mp4",
                "--out",
                "{tmp}/x.mp4",
            ],
            "one source",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(
    model, faces, tmp_path, capsys, arguments, words
):
    (tmp_path / "empty").mkdir()
    filled = [part.format(faces=faces, tmp=tmp_path) for part in arguments]
    assert run(*filled, "--model", model) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "faces"]


def test_nothing_is_reported_as_written_if_nothing_was(model, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    options = ("--driver", broken, "--model", model, "--out", tmp_path / "out")
    assert run("translate", broken, *options) == 2
    assert "Wrote" not in capsys.readouterr().out


def test_codes_replace_no_other_npz(model, faces, tmp_path, capsys):
    weights = tmp_path / "vgg19.npz"
    np.savez(weights, conv1_1=np.zeros(3))
    before = weights.read_bytes()
    options = ("--model", model, "--out", weights, "--overwrite")
    for content in (before, b"no archive"):
        weights.write_bytes(content)
        assert run("encode", faces, *options) == 2
        error = capsys.readouterr().err
        assert "holds no motion codes, so it is not replaced" in error
        assert error.count("\n") == 1
        assert weights.read_bytes() == content


def test_names_that_are_no_text_are_one_sentence(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"Jos\xe9\n")
    with pytest.raises(UserError, match=r"names\.txt is not text in UTF-8"):
        inputs.read_names(str(path))


def test_names_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffAnn\nBob\n".encode())
    assert inputs.read_names(str(path)) == ["Ann", "Bob"]
    assert inputs.read_names(None) == []
    with pytest.raises(FileNotFoundError, match=r"^--people: there is no file"):
        inputs.read_names(str(tmp_path / "none"), name="--people")
    with pytest.raises(UserError, match=r"^--without is empty"):
        inputs.read_names("")


def test_paths_are_as_users_write_them(model, faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = ("--out", "~/x.npz")
    assert run("encode", "~/faces/a.png", "--model", model, *out) == 0
    assert (tmp_path / "x.npz").is_file()

    for arguments, words in (
        (["encode", "", *out, "--overwrite"], "an input is empty"),
        (["encode", "http://a.org/a.jpg", "--out", "y.npz"], "Download the file first"),
        (["encode", "file:///a.jpg", "--out", "y.npz"], "Download the file first"),
        (["encode", faces, "--out", ""], "--out is empty"),
        (["frontalize", faces, "--out", " "], "--out is empty"),
        (["translate", faces, "--driver", "", "--out", "y"], "--driver is empty"),
        (["translate", "", "--driver", faces, "--out", "y"], "the source is empty"),
        (["encode", faces, "--out", "y.npz", "--model", ""], "the model is empty"),
        (
            ["encode", faces, "--out", "y.npz", "--model", "https://hf.co/a/b"],
            "write hf://USER/NAME",
        ),
        (["frontalize", "", "--paste", "--out", "y.mp4"], "an input is empty"),
        (["verify", ""], "DATA is empty"),
        (["frame", "", "--out", "y"], "DATA is empty"),
        (["import-vgg", "", "--out", "y.npz"], "FILE is empty"),
        (["export", "", "--out", "y"], "the model is empty"),
        (["push", "", "user/name"], "the model is empty"),
        (["evaluate", "--task", "lfw", "--out", "y", "--data", ""], "--data is empty"),
        (["compare", "simclr", "--images", "1", "--workdir", ""], "--workdir is empty"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_an_extra_that_is_missing_is_one_sentence(
    model, faces, tmp_path, capsys, monkeypatch
):
    def find_faces(image):
        raise MissingExtraError("Finding faces needs dlib.")

    monkeypatch.setattr(face_crop, "find_faces", find_faces)
    options = ("--model", model, "--out", tmp_path / "out")
    for option in ("--crop", "--paste"):
        assert run("frontalize", faces, option, *options) == 2
        assert capsys.readouterr().err == "facecycle: Finding faces needs dlib.\n"


def test_a_defect_is_no_problem_of_an_image(
    model, faces, tmp_path, capsys, monkeypatch
):
    def broken(image, size):
        raise ValueError("a defect")

    monkeypatch.setattr(inputs, "square", broken)
    options = ("--model", model, "--out", tmp_path / "x.npz")
    assert run("encode", faces, *options) == 70
    assert "left out" not in capsys.readouterr().err


def test_wrong_and_missing_models_are_one_sentence(faces, tmp_path, capsys):
    out = tmp_path / "x.npz"
    assert run("encode", faces, "--model", faces, "--out", out) == 2
    assert run("encode", faces, "--model", tmp_path / "none", "--out", out) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--crop", "--which", "smallest"],
            "a number from 0, not 'smallest'",
        ),
        (["--crop", "--which=-1"], "--face/--which: it is largest, centre"),
        # This command has no --paste.
        (["--crop", "--face=all"], "a number from 0, not 'all'"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_refused(model, faces, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        run("encode", faces, "--model", model, "--out", tmp_path / "x.npz", *arguments)
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "x.npz").exists()


def test_an_interrupt_leaves_no_half_file(model, faces, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceCycle, "outputs", interrupted)
    assert run("encode", faces, "--model", model, "--out", tmp_path / "x.npz") == 130
    error = capsys.readouterr().err
    assert error == "facecycle: interrupted; what is written is whole.\n"
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


def damaged(content, rng):
    """Cuts the content, or changes some bytes, mostly of the header."""
    if rng.random() < 0.3:
        return content[: rng.integers(len(content))]

    data = bytearray(content)
    reach = 64 if rng.random() < 0.5 else len(data)
    for index in rng.integers(min(reach, len(data)), size=rng.integers(1, 10)):
        data[index] = rng.integers(256)
    return bytes(data)


def test_damaged_images_are_encoded_or_named_on_one_line(model, tmp_path, capsys):
    folder = tmp_path / "damaged"
    out = tmp_path / "codes.npz"
    folder.mkdir()

    # 50 files of each of 6 formats.
    rng = np.random.default_rng(7)
    face = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    for form in ("jpeg", "png", "webp", "gif", "tiff", "bmp"):
        buffer = io.BytesIO()
        face.save(buffer, form)
        for number in range(50):
            content = damaged(buffer.getvalue(), rng)
            (folder / f"{number:02}.{form}").write_bytes(content)

    assert run("encode", folder, "--model", model, "--out", out) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    codes = np.load(out)
    done = len(codes["path"])
    assert done == len(codes["motion_code"]) == len(codes["identity_code"])
    assert done + len(lines) == 300
    assert len(lines) >= 100
    for line in lines:
        assert line.startswith(f"facecycle: left out: {folder}/")
    assert last == f"facecycle: {len(lines)} images left out, {done} done"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes.npz", "damaged"]


@pytest.mark.parametrize("crop", [False, True])
def test_large_frames_are_shrunk_before_they_are_collected(
    faces, tmp_path, monkeypatch, crop
):
    pytest.importorskip("av")
    from facecycle_jax.data.images.video import write_video

    write_video(tmp_path / "clip.mp4", [np.zeros((480, 640, 3), np.uint8)] * 3, fps=5)
    monkeypatch.setattr(
        translate_video,
        "load",
        lambda name: types.SimpleNamespace(
            size=16, framing=FRAMING, prepare=lambda source: None
        ),
    )
    monkeypatch.setattr(translate_video, "_FOLLOWED_SIDE", 320)
    detected = []
    held = []

    def find_faces(image):
        detected.append(max(image.shape))
        return [((10, 10, 30, 30), 1.0)]

    def side_by_side(model, motion, source, faces, frames):
        held.extend(frame.shape for frame in frames)
        yield from frames

    monkeypatch.setattr(face_crop, "find_faces", find_faces)
    monkeypatch.setattr(translate_video, "_side_by_side", side_by_side)
    options = ["--crop"] if crop else []
    source = ("translate", faces / "a.png", "--driver", tmp_path / "clip.mp4")
    assert run(*source, "--out", tmp_path / "out.mp4", *options) == 0
    assert held == [(16, 16, 3)] * 3
    # After the source itself, three frames.
    assert detected[1:] == [320] * (3 * crop)


def test_a_video_drives_an_image(model, faces, tmp_path, monkeypatch):
    pytest.importorskip("av")
    from facecycle_jax.data.images.video import read_video, write_video

    # Encoders keep blocks of 8 pixels, and no noise.
    blocks = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    clip = np.repeat(np.repeat(blocks, 8, axis=1), 8, axis=2)
    write_video(tmp_path / "clip.mp4", clip, fps=10)

    # Random weights draw nearly one face for all drivers, so these are compared, too.
    drivers = []
    prepared = []
    motion_code = FaceCycle.motion_code
    prepare = FaceCycle.prepare

    def noted(self, driver):
        drivers.extend(driver)
        return motion_code(self, driver)

    def counted(self, source):
        prepared.append(source)
        return prepare(self, source)

    monkeypatch.setattr(FaceCycle, "motion_code", noted)
    monkeypatch.setattr(FaceCycle, "prepare", counted)
    # The source is prepared once, however many chunks there are.
    monkeypatch.setattr(inputs, "CHUNK", 4)
    out = tmp_path / "moved.mp4"
    arguments = (
        "translate",
        faces / "a.png",
        "--driver",
        tmp_path / "clip.mp4",
        "--model",
        model,
        "--out",
        out,
    )
    assert run(*arguments) == 0
    video = read_video(out)
    frames = list(video.frames)
    assert len(frames) == 7
    assert video.fps == 10

    # Source, driver and result side by side.
    assert frames[0].shape == (256, 768, 3)
    left, middle, right = np.split(frames[3][::4, ::4].astype(float), 3, axis=1)
    loaded = load(model)
    source = loaded.read(faces / "a.png")[0]
    assert np.abs(left - source).mean() < 40
    driving = list(read_video(tmp_path / "clip.mp4").frames)
    np.testing.assert_array_equal(drivers, driving)
    assert len(prepared) == 1
    assert np.abs(middle - driving[3]).mean() < 15
    moved = loaded.reexpress(source, np.stack(driving))[3]
    assert np.abs(right - moved).mean() < 5

    # What is written is not replaced.
    assert run(*arguments) == 2
