"""The upload is small, what comes back can be joined, and all of it runs in between."""

import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from blocked_imports import run_without
from PIL import Image

import facecycle_jax
from facecycle_jax.configs import facecycle_base
from facecycle_jax.errors import UserError
from facecycle_jax.interop.vgg_weights import write_vgg
from facecycle_jax.networks.vgg import LAYERS, read_vgg_npz
from facecycle_jax.training.goodput import CATEGORIES
from launch.ten_minutes import packing, parts, reporting, running
from launch.ten_minutes.__main__ import main

ROOT = pathlib.Path(__file__).parents[2]


def write_images(folder, tracks, *, frames, side=24, seed=0):
    """Writes smooth images of a few people."""
    rng = np.random.default_rng(seed)
    for track in tracks:
        (folder / track).mkdir(parents=True)
        for number in range(frames):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((side, side))
            image.save(folder / track / f"{number:03}.jpg", quality=95)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Videos of two people, and photographs of three."""
    folder = tmp_path_factory.mktemp("roots")
    write_images(folder / "videos", ("ann/one", "bob/one"), frames=8)
    write_images(folder / "photos", ("cy", "di", "ed"), frames=2, seed=1)
    (folder / "photos" / "ed" / "broken.jpg").write_bytes(b"no image")
    return [str(folder / "videos"), str(folder / "photos")]


def names_in(file):
    with zipfile.ZipFile(file) as packed:
        assert packed.testzip() is None
        return packed.namelist()


def test_everything_is_packed_where_it_fits(roots, tmp_path):
    out = tmp_path / "frames.zip"
    packed = packing.pack(roots, out, limit=10**6, side=16)
    names = names_in(out)
    assert packed.complete
    assert packed.frames == len(names) == 2 * 8 + 3 * 2
    assert packed.tracks == 5
    assert list(packed.unreadable) == [f"{roots[1]}/ed/broken.jpg"]
    assert {name.split("/")[0] for name in names} == {"0", "1"}
    assert "0/ann/one/003.jpg" in names

    with zipfile.ZipFile(out) as file:
        image = Image.open(io.BytesIO(file.read("1/cy/000.jpg")))
    assert image.size == (16, 16)

    # Images are not enlarged.
    packing.pack(roots, out, limit=10**6, side=100)
    with zipfile.ZipFile(out) as file:
        assert Image.open(io.BytesIO(file.read("1/cy/000.jpg"))).size == (24, 24)


def test_a_limit_leaves_every_track_as_many_images(roots, tmp_path):
    out = tmp_path / "frames.zip"
    whole = packing.pack(roots, out, limit=10**6, side=16)
    limit = round(0.75 * whole.size)
    packed = packing.pack(roots, out, limit=limit, side=16)
    assert not packed.complete
    assert packed.size == out.stat().st_size <= limit
    assert packed.size > limit - 1500

    by_track = {}
    for name in names_in(out):
        track, _, image = name.rpartition("/")
        by_track.setdefault(track, []).append(int(image[:3]))
    assert len(by_track) == 5
    videos = [sorted(frames) for track, frames in by_track.items() if track[0] == "0"]
    assert all(3 <= len(frames) <= 6 for frames in videos)

    # They are spread over the video.
    assert all(set(frames) >= {0, 4} for frames in videos)

    # Where little fits, tracks are left out, and the others still give pairs.
    few = packing.pack(roots, out, limit=round(0.3 * whole.size), side=16)
    assert few.tracks < 5
    assert few.frames in (2 * few.tracks - 1, 2 * few.tracks)


def test_a_limit_for_no_image_is_one_sentence(roots, tmp_path):
    with pytest.raises(UserError, match=r"no image of .* fits into 100 bytes"):
        packing.pack(roots, tmp_path / "frames.zip", limit=100)
    assert not list(tmp_path.iterdir())


def test_other_files_count_and_a_vgg_is_halved(roots, tmp_path, capsys):
    rng = np.random.default_rng(0)
    vgg = {}
    incoming = 3
    for layer, channels, _ in LAYERS:
        kernel = rng.normal(0, 0.1, (3, 3, incoming, channels)).astype(np.float32)
        vgg[layer] = {"kernel": kernel, "bias": np.zeros(channels, np.float32)}
        incoming = channels
    write_vgg(vgg, tmp_path / "vgg19.npz")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "some-1.0-py3-none-any.whl").write_bytes(bytes(10**5))

    out = tmp_path / "upload"
    command = ["pack", "--data", ",".join(roots), "--out", str(out), "--side", "16"]
    others = ["--vgg", str(tmp_path / "vgg19.npz"), "--wheels", str(wheels)]
    # One image cannot be read.
    assert main([*command, *others, "--limit", "7"]) == 1
    assert "broken.jpg" in capsys.readouterr().err
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    assert len(sizes) == 3
    assert sum(sizes) < 7 * 2**20

    halved = read_vgg_npz(out / "vgg.npz")
    np.testing.assert_allclose(
        halved["conv4_1"]["kernel"], vgg["conv4_1"]["kernel"], rtol=1e-3, atol=1e-6
    )
    assert main([*command, *others, "--limit", "6"]) == 2
    assert "more than --limit 6" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 5, 8, 100])
def test_the_first_frames_of_a_track_are_spread_evenly(count):
    order = packing._spread(count)
    assert sorted(order) == list(range(count))
    for few in (2, 4):
        if count >= 2 * few:
            gaps = np.diff([*sorted(order[:few]), count])
            assert gaps.max() <= 2 * gaps.min()


def write_weights(folder):
    """Writes what stands for a model folder: weights of half precision, and a text."""
    folder.mkdir()
    weights = np.random.default_rng(0).normal(0, 0.05, 200_000).astype(np.float16)
    (folder / "weights.safetensors").write_bytes(weights.tobytes())
    (folder / "config.json").write_text("{}")


def test_a_folder_is_joined_from_its_parts(tmp_path):
    folder = tmp_path / "model"
    write_weights(folder)
    limit = 150_000
    files = parts.cut(folder, tmp_path, limit=limit)
    assert len(files) > 1
    assert all(path.stat().st_size <= limit for path in files)

    out = tmp_path / "out"
    joined = parts.join(files[::-1], out)
    for path in folder.iterdir():
        assert (joined / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        parts.join(files, out)

    # Exponents of half precision are much alike.
    assert sum(path.stat().st_size for path in files) < 0.95 * 2 * 200_000


def test_missing_and_damaged_parts_are_one_sentence(tmp_path):
    folder = tmp_path / "model"
    write_weights(folder)
    files = parts.cut(folder, tmp_path, limit=150_000)
    with pytest.raises(UserError, match="parts are missing"):
        parts.join(files[1:], tmp_path / "out")
    with pytest.raises(UserError, match="no model came back"):
        parts.join([], tmp_path / "out")
    files[0].write_bytes(files[0].read_bytes()[:-20])
    with pytest.raises(UserError, match="are damaged"):
        parts.join(files, tmp_path / "out")
    with pytest.raises(UserError, match="must be larger"):
        parts.cut(folder, tmp_path, limit=1000)


def plan(folder, **changed):
    return running.Plan(
        upload=folder / "upload",
        out=folder / "out",
        work=folder / "work",
        minutes=10.0,
        part_bytes=2**20,
    )._replace(**changed)


def test_stages_share_the_minutes_of_training(tmp_path):
    command = running.training_command(plan(tmp_path), ["/frames/0", "/frames/1"])
    fields = dict(
        word.split("=", 1) for word in command if word.startswith("--config.")
    )
    minutes = [float(v) for name, v in fields.items() if name.endswith("max_minutes")]
    assert len(minutes) == 3
    assert sum(minutes) == pytest.approx(6.0)
    assert fields["--config.contrast.data.path"] == "/frames/0,/frames/1"

    # The fields are those of the config, and the stages are all of them.
    config = facecycle_base.get_config("paper")
    assert set(config.stages) == set(running.STAGES)
    for name, value in fields.items():
        config.update_from_flattened_dict(
            {name.removeprefix("--config."): float(value) if "max" in name else value}
        )
    assert config.motion.loss.perceptual == "none"

    # With the file of a VGG-19, both stages have a perceptual loss.
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "vgg.npz").touch()
    command = running.training_command(plan(tmp_path), ["/frames/0"])
    assert f"--config.identity.loss.vgg={tmp_path}/upload/vgg.npz" in command
    assert not any("perceptual" in word for word in command)


def test_the_last_stage_with_a_checkpoint_is_exported(tmp_path):
    assert running.newest_stage(tmp_path) is None
    (tmp_path / "motion" / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "identity" / "checkpoints" / "partial").mkdir(parents=True)
    assert running.newest_stage(tmp_path) == tmp_path / "motion"
    (tmp_path / "identity" / "checkpoints" / "3").mkdir()
    assert running.newest_stage(tmp_path) == tmp_path / "identity"


def test_a_program_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_GRACE", 0.2)
    programs = {
        "echo done": "",
        "exit 3": "ended with status 3",
        "exec sleep 30": "stopped by the clock, status -15",
        "trap '' TERM; exec sleep 30": "killed by the clock",
    }
    for program, expected in programs.items():
        found = running._call(
            ["sh", "-c", program],
            tmp_path / "log",
            environment=dict(os.environ),
            seconds=1.0 if "sleep" in program else 30.0,
        )
        assert found == expected
    assert "done" in (tmp_path / "log").read_text()


def test_the_report_has_the_time_of_steps_and_the_fraction_of_the_peak(tmp_path):
    stage = tmp_path / "work" / "run" / "motion"
    stage.mkdir(parents=True)
    config = {"method": "motion_cycle", "batch_size": 32, "model.dtype": "bfloat16"}
    (stage / "config.json").write_text(json.dumps(config))
    seconds = dict.fromkeys(CATEGORIES, 2.5)
    (stage / "goodput.json").write_text(json.dumps({"seconds": seconds}))
    lines = [{"step": 20, "steps_per_second": speed} for speed in (10.0, 20.0, 40.0)]
    lines.append({"step": 60, "eval/total": 1.5})
    (stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "work" / reporting.COUNTS).write_text('{"motion": 1e13}')
    machine = {"device": "gpu NVIDIA H100 80GB HBM3"}
    out = tmp_path / "out"
    out.mkdir()
    (out / "gpu.json").write_text(json.dumps({"machine": machine, "rows": []}))

    text = reporting.write_report(tmp_path / "work", out)
    assert (out / "report.md").read_text() == text

    # 20 steps a second of 10 TFLOP are 200 of 989 TFLOP/s.
    row = next(line for line in text.splitlines() if line.startswith("| motion |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:9] == [
        "motion", "32", "60", "50.00", "1280", "1e+04", "200", "20.2", "1.500",
    ]  # fmt: skip
    assert cells[9:] == ["2.5"] * 5


def test_the_script_starts_without_other_packages(tmp_path):
    """What is missing is installed by `run` itself."""
    blocked = ("jax", "numpy", "ml_collections", "facecycle_jax")
    code = "import launch.ten_minutes.__main__, launch.ten_minutes.running"
    result = run_without(blocked, code, cwd=ROOT)
    assert result.returncode == 0, result.stderr


# Flags that make the networks tiny and a step quick.
_TINY = {
    "model.width": 0.0625,
    "model.code_dim": 16,
    "model.dtype": "float32",
    "batch_size": 2,
    "data.decode_size": 64,
    "eval_batches": 1,
    "panel_rows": 2,
    "log_every": 1,
    "compile_quickly": True,
}


@pytest.mark.slow
def test_ten_minutes_in_miniature(tmp_path):
    """Everything from the images to the joined model, on the CPU in some minutes."""
    videos = tmp_path / "videos"
    photos = tmp_path / "photos"
    write_images(videos, [f"v{number:02}" for number in range(12)], frames=3, side=64)
    write_images(photos, [f"p{number:02}" for number in range(12)], frames=2, side=64)
    upload = tmp_path / "upload"
    assert main(["pack", "--data", f"{videos},{photos}", "--out", str(upload)]) == 0

    # A stage ends with its first step after a second.
    fields = {**_TINY, "data.eval_fraction": 0.3, "max_minutes": 1 / 60}
    flags = [
        f"--train=--config.{stage}.{name}={value}"
        for stage in running.STAGES
        for name, value in fields.items()
    ]
    measure = ["--device", "cpu", "--width", "0.0625", "--batch", "1", "--torch", ""]
    measure += ["--budget", "1", "--repeats", "1"]
    command = [sys.executable, "-m", "launch.ten_minutes", "run"]
    places = [f"--upload={upload}", f"--out={tmp_path}/out", f"--work={tmp_path}/work"]
    limits = ["--minutes=10", "--part=0.2"]
    result = subprocess.run(
        [
            *command,
            *places,
            *limits,
            *flags,
            *[f"--measure={word}" for word in measure],
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    logs = "\n".join(
        path.read_text()[-2000:] for path in (tmp_path / "work" / "logs").iterdir()
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}{logs}"

    out = tmp_path / "out"
    parts_of_model = list(out.glob("model.*"))
    assert len(parts_of_model) > 1
    assert all(path.stat().st_size <= 0.2 * 2**20 for path in parts_of_model)
    # Logs and panels are not cut, but few.
    assert all(path.stat().st_size <= 0.5 * 2**20 for path in out.iterdir())
    text = (out / "report.md").read_text()
    for stage in running.STAGES:
        assert f"| {stage} |" in text
    assert json.loads((out / "gpu.json").read_text())["rows"]

    assert main(["join", "--back", str(out), "--out", str(tmp_path)]) == 0
    model = facecycle_jax.load(tmp_path / "model")
    assert model.has_identity
