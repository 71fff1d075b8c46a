"""`facecycle frame`: image files in, framed JPEGs of the same layout out."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from facecycle_jax import cli
from facecycle_jax.commands import frame
from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.framing import FRAMING


@pytest.fixture
def images(tmp_path):
    """Two people; the second has an image that cannot be read and two of one name."""
    rng = np.random.default_rng(0)
    for name in ("ann/clip/0.jpg", "ann/clip/1.png", "bob/0.png", "bob/0.jpg"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(file)

    # JPEG changes a smooth image little.
    y, x = np.mgrid[:50, :60].astype(np.uint8)
    smooth = Image.fromarray(np.stack([4 * x, 5 * y, 2 * x + y], axis=-1))
    smooth.save(tmp_path / "images/bob/0.png")
    (tmp_path / "images/bob/broken.jpg").write_bytes(b"no image")
    return tmp_path / "images"


def run(*arguments):
    return cli.main(["frame", *map(str, arguments), "--workers", "1"])


def test_folders_are_kept_and_what_cannot_be_read_is_listed(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(images, "--out", out, "--cut", "0.2,0.2,0.6", "--size", 24) == 1
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert files == [
        "ann/clip/0.jpg",
        "ann/clip/1.jpg",
        "bob/0_jpg.jpg",
        "bob/0_png.jpg",
        "frames.csv",
        "framing.json",
        "left_out.txt",
    ]
    # The cut starts at the middle square of 60x50 pixels, whose left side is at 5.
    with Image.open(images / "bob/0.png") as image:
        expected = image.crop((15, 10, 45, 40)).resize((24, 24))
    with Image.open(out / "bob/0_png.jpg") as image:
        assert image.size == (24, 24)
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(expected))
    assert difference.max() <= 6
    assert "broken.jpg" in (out / frame.LEFT_OUT).read_text()
    lines = (out / frame.LIST).read_text().splitlines()
    assert lines[:2] == ["file,by,beyond", "ann/clip/0.jpg,cut,0.000"]
    assert len(lines) == 5
    summary = json.loads((out / frame.SUMMARY).read_text())
    assert summary["counts"] == {"face": 0, "cut": 4, "left out": 1}
    assert summary["framing"] == FRAMING.to_dict()
    assert summary["by"] == "cut"
    printed = capsys.readouterr().out
    assert f"4 by the cut, 1 left out (see {out / frame.LEFT_OUT})." in printed


def test_images_without_a_face_are_left_out_or_cut(images, tmp_path, monkeypatch):
    monkeypatch.setattr(face_crop, "find_faces", lambda image: [])
    assert run(images, "--out", tmp_path / "none", "--crop") == 2
    assert len((tmp_path / "none" / frame.LEFT_OUT).read_text().splitlines()) == 5
    assert run(images, "--out", tmp_path / "cut", "--crop", "--cut=-0.1,-0.1,1.2") == 1
    summary = json.loads((tmp_path / "cut" / frame.SUMMARY).read_text())
    assert summary["counts"] == {"face": 0, "cut": 4, "left out": 1}


def test_squares_far_beyond_the_image_are_left_out(images, tmp_path):
    out = tmp_path / "out"
    assert run(images, "--out", out, "--cut=-0.5,-0.5,2", "--most-beyond", 0.2) == 2
    assert "25% of the side would lie beyond" in (out / frame.LEFT_OUT).read_text()
    assert run(images, "--out", tmp_path / "all", "--cut=-0.5,-0.5,2") == 1


def test_several_processes_write_the_same(images, tmp_path):
    assert run(images, "--out", tmp_path / "one", "--cut", "0,0,1") == 1
    arguments = [
        "frame",
        str(images),
        "--out",
        str(tmp_path / "two"),
        "--cut",
        "0,0,1",
        "--workers",
        "2",
    ]
    assert cli.main(arguments) == 1
    for path in (tmp_path / "one").rglob("*.*"):
        assert (
            tmp_path / "two" / path.relative_to(tmp_path / "one")
        ).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--crop, --cut, or both"),
        (("--cut", "1,2"), "a cut is"),
        (("--cut", "0,0,1", "--size", "0"), "--size"),
        (("--cut", "0,0,1", "--most-beyond", "nan"), "--most-beyond must be 0 or more"),
        (("--cut", "0,0,1", "--most-beyond=-1"), "--most-beyond must be 0 or more"),
    ],
)
def test_wrong_arguments_are_one_sentence(images, tmp_path, capsys, arguments, message):
    assert run(images, "--out", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert run(tmp_path / "nowhere", "--out", tmp_path / "out", "--cut", "0,0,1") == 2
    assert run(images, "--out", images, "--cut", "0,0,1") == 2


def test_outputs_do_not_lie_among_the_images(images, tmp_path, capsys):
    assert run(images, "--out", images / "framed", "--cut", "0,0,1") == 2
    assert "lies inside" in capsys.readouterr().err
    # The name alone has the same beginning.
    assert run(images, "--out", f"{images}_framed", "--cut", "0,0,1") == 1


def test_every_image_gets_a_name_of_its_own(tmp_path):
    names = ("x.jpg", "x.JPG", "y.jpg", "y.png", "y_jpg.png", "two/x.jpg")
    (tmp_path / "images/two").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    out = tmp_path / "out"
    assert run(tmp_path / "images", "--out", out, "--cut", "0,0,1") == 0
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg"))
    assert made == [
        "two/x.jpg",
        "x_jpg.jpg",
        "x_jpg_2.jpg",
        "y_jpg.jpg",
        "y_jpg_2.jpg",
        "y_png.jpg",
    ]
    lines = (out / frame.LIST).read_text().splitlines()[1:]
    assert sorted(line.split(",")[0] for line in lines) == made


def test_images_whose_new_names_are_too_long_are_left_out(tmp_path):
    # A file system allows names of 255 bytes. These two get an ending more.
    (tmp_path / "images").mkdir()
    for name in (f"{'x' * 250}.jpg", f"{'x' * 250}.png", "y.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)

    out = tmp_path / "out"
    assert run(tmp_path / "images", "--out", out, "--cut", "0,0,1") == 1
    lines = (out / frame.LEFT_OUT).read_text().splitlines()
    assert len(lines) == 2
    for line, ending in zip(sorted(lines), ("jpg", "png"), strict=True):
        assert line.endswith(f"x.{ending}: the name of its output is too long.")
    assert [path.name for path in out.rglob("*.jpg")] == ["y.jpg"]
    # No file under another name is left, either.
    assert not list(out.glob(".*"))


def test_names_that_are_not_utf8_are_listed(tmp_path):
    (tmp_path / "images").mkdir()
    for name in (b"caf\xe9.jpg", b"th\xe9.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / os.fsdecode(name))
    (tmp_path / "images" / os.fsdecode(b"th\xe9.jpg")).write_bytes(b"no image")
    out = tmp_path / "out"
    assert run(tmp_path / "images", "--out", out, "--cut", "0,0,1") == 1
    assert os.listdir(os.fsencode(out)).count(b"caf\xe9.jpg") == 1
    assert "caf\\udce9.jpg,cut" in (out / frame.LIST).read_text()
    assert "th\\udce9.jpg" in (out / frame.LEFT_OUT).read_text()
    assert (out / frame.SUMMARY).is_file()


def test_a_stopped_run_is_done_again_by_the_same_command(
    images, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    arguments = (images, "--out", out, "--cut", "0,0,1")
    read = frame.read_image

    def stopping(path):
        if path.endswith("bob/0.png"):
            raise KeyboardInterrupt
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(frame, "read_image", stopping)
        assert run(*arguments) == 130
    assert (out / "ann/clip/0.jpg").is_file()
    assert not (out / frame.SUMMARY).exists()

    # Other options would leave images of both runs in one folder.
    assert run(*arguments, "--size", 24) == 2
    assert "a stopped run with other images or options" in capsys.readouterr().err
    assert run(*arguments) == 1
    summary = json.loads((out / frame.SUMMARY).read_text())
    assert summary["counts"] == {"face": 0, "cut": 4, "left out": 1}
    assert not (out / frame.STARTED).exists()
    assert run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err


class DeadlyJob(frame.Job):
    """Is killed at one image, as by a system without memory."""

    def __call__(self, files):
        if files[0].endswith("bob/0.jpg"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(files)


@pytest.mark.slow
def test_a_killed_process_costs_its_image_alone(images, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "Job", DeadlyJob)
    out = tmp_path / "out"
    arguments = ["frame", str(images), "--out", str(out), "--cut", "0,0,1"]
    assert cli.main([*arguments, "--workers", "2"]) == 1
    text = (out / frame.LEFT_OUT).read_text()
    assert "bob/0.jpg: the process that read the image was killed" in text
    summary = json.loads((out / frame.SUMMARY).read_text())
    assert summary["counts"] == {"face": 0, "cut": 3, "left out": 2}


def test_an_image_of_a_killed_process_is_left_out(images, tmp_path, monkeypatch):
    def run_all(job, pairs, **options):
        for files in pairs:
            is_killed = files[0].endswith("bob/0.jpg")
            yield files, None if is_killed else job(files)

    monkeypatch.setattr(frame, "run_all", run_all)
    out = tmp_path / "out"
    assert run(images, "--out", out, "--cut", "0,0,1") == 1
    text = (out / frame.LEFT_OUT).read_text()
    assert "bob/0.jpg: the process that read the image was killed" in text


def test_a_cut_may_begin_with_a_minus(images, tmp_path):
    out = tmp_path / "out"
    assert run(images, "--out", out, "--cut", "-0.1,-0.1,1.2") == 1
    summary = json.loads((out / frame.SUMMARY).read_text())
    assert summary["cut"] == [-0.1, -0.1, 1.2]
