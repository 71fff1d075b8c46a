"""The upload is small, what comes back can be joined, and all of it runs in between."""

import errno
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from blocked_imports import run_without
from launch_stand_ins import stand_in
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


def test_images_that_differ_in_their_suffix_only_are_all_packed(tmp_path):
    write_images(tmp_path / "faces", ["ann"], frames=2)
    original = tmp_path / "faces" / "ann" / "000.jpg"
    Image.open(original).save(original.with_suffix(".png"))

    out = tmp_path / "frames.zip"
    packed = packing.pack([str(tmp_path / "faces")], out, limit=10**6, side=16)
    names = names_in(out)
    assert packed.frames == len(set(names)) == 3
    assert {"0/ann/000.jpg", "0/ann/001.jpg"} <= set(names)


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
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"parts are missing: {files[0].name};"):
        parts.join(files[1:], out)
    # Without the last one, the others would be a tar file that ends early.
    with pytest.raises(UserError, match=f"parts are missing: {files[-1].name};"):
        parts.join(files[:-1], out)
    with pytest.raises(UserError, match="no model came back"):
        parts.join([], out)
    with pytest.raises(UserError, match="has not the name of a part"):
        parts.join([tmp_path / "model.00.xz"], out)
    with pytest.raises(UserError, match="parts of different models"):
        parts.join([*files, tmp_path / "model.00-of-01.xz"], out)
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-20])
    with pytest.raises(UserError, match="are damaged"):
        parts.join(files, out)

    # Nothing is left of what failed, so the next try succeeds.
    assert not list(out.iterdir())
    files[0].write_bytes(whole)
    assert parts.join(files, out).name == "model"
    assert [path.name for path in out.iterdir()] == ["model"]
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


def call(program, folder, clock=None, *, seconds=30.0, grace=0.2):
    return running._call(
        ["sh", "-c", program],
        folder / "log",
        clock or running.Clock(1.0),
        environment=dict(os.environ),
        seconds=seconds,
        grace=grace,
    )


def is_running(process):
    """Whether a process runs, and is more than an entry that nobody has read."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "State:\tZ" not in status


def wait_until(condition, *, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_program_that_takes_too_long_is_stopped(tmp_path):
    assert call("echo done", tmp_path) == ""
    assert call("exit 3", tmp_path) == "ended with status 3"
    stopped = call("exec sleep 30", tmp_path, seconds=1.0)
    assert stopped == "stopped by the clock, status -15"
    assert "done" in (tmp_path / "log").read_text()

    # What it has started ends with it.
    stubborn = f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/child; wait"
    assert call(stubborn, tmp_path, seconds=1.0) == "killed by the clock"
    child = (tmp_path / "child").read_text().strip()
    wait_until(lambda: not is_running(child))


def test_without_time_or_after_a_signal_nothing_is_started(tmp_path):
    program = f"touch {tmp_path}/started"
    found = call(program, tmp_path, seconds=-1.0)
    assert found == "not started, no time was left"
    clock = running.Clock(1.0)
    clock.signal = "SIGTERM"
    found = call(program, tmp_path, clock)
    assert found == "not started because of SIGTERM"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--minutes=-3", "--minutes: must be above 0, got -3."),
        ("--minutes=nan", "--minutes: must be above 0, got nan."),
        ("--minutes=ten", "--minutes: must be a number, got 'ten'."),
        ("--part=0.01", "--part: must be at least 0.1, got 0.01."),
    ],
)
def test_values_out_of_range_are_refused_first(tmp_path, capsys, option, sentence):
    command = ["run", "--upload", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*command, option])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--limit=nan", "--limit: must be above 0, got nan."),
        ("--limit=inf", "--limit: must be above 0, got inf."),
        ("--side=0", "--side: must be above 0, got 0."),
        ("--side=7.5", "--side: must be a whole number, got 7.5."),
    ],
)
def test_a_pack_out_of_range_is_refused_first(
    roots, tmp_path, capsys, option, sentence
):
    command = ["pack", "--data", ",".join(roots), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*command, option])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_upload_without_sound_images_is_refused_first(tmp_path, capsys):
    command = ["run", "--upload", str(tmp_path), "--out", str(tmp_path / "out")]
    frames = tmp_path / "frames.zip"

    def refused():
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{frames} " in line
        assert not (tmp_path / "out").exists()
        return line

    assert "is missing" in refused()
    frames.write_bytes(b"no zip file")
    assert "is damaged" in refused()
    with zipfile.ZipFile(frames, "w"):
        pass
    assert "has no image" in refused()
    with zipfile.ZipFile(frames, "w") as packed:
        packed.writestr("0/a/0.jpg", bytes(100))
    frames.write_bytes(frames.read_bytes().replace(bytes(100), b"1" * 100))
    assert "is damaged" in refused()


def test_a_defect_keeps_its_trace(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "check_upload", lambda *_: 1 / 0)
    command = ["run", "--upload", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 70
    assert "Traceback" in capsys.readouterr().err


def prepared(folder, program):
    """Makes an upload, a checkpoint to export, and a stand-in for Python.

    Returns the path of the stand-in, a program of the shell.
    """
    (folder / "upload").mkdir()
    with zipfile.ZipFile(folder / "upload" / "frames.zip", "w") as packed:
        packed.writestr("0/a/0.jpg", b"image")
    (folder / "work" / "run" / "motion" / "checkpoints" / "7").mkdir(parents=True)
    stand_in(folder, "python", program)
    return str(folder / "python")


def names_in_archive(out):
    with tarfile.open(out / "run.tar.gz") as file:
        return file.getnames()


def test_every_step_is_tried_and_what_there_is_comes_back(
    tmp_path, monkeypatch, capsys
):
    # The export ends well, but the disk is full when the model is cut.
    program = 'echo "$@" >> "${0%/*}/started"; [ "$3" = export ]'
    monkeypatch.setattr(sys, "executable", prepared(tmp_path, program))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts, "cut", full)
    assert running.run(plan(tmp_path)) == 5
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert printed["training"] == printed["measuring"] == "ended with status 1"
    assert printed["counting"] == printed["report"] == "ended with status 1"
    assert "No space left on device" in printed["export"]
    assert printed["gathering"] == "done"

    started = (tmp_path / "started").read_text()
    for module in ("facecycle_jax.main", "benchmarks", "ten_minutes count"):
        assert module in started
    # The tables failed, so what has been gathered before has their log by now.
    assert {"logs/outcomes.txt", "logs/training.log", "logs/report.log"} <= set(
        names_in_archive(tmp_path / "out")
    )


def test_images_that_cannot_be_unpacked_stop_nothing_else(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "executable", prepared(tmp_path, "exit 1"))
    # In the place of the folder of images, and no folder.
    (tmp_path / "work" / "frames.partial").write_text("")
    assert running.run(plan(tmp_path)) > 0
    printed = capsys.readouterr().out
    assert "frames.partial" in printed
    assert "training: not started, there are no images" in printed
    assert "measuring: ended with status 1" in printed
    assert (tmp_path / "out" / "run.tar.gz").exists()


def test_a_defect_of_one_step_keeps_its_trace_and_the_others(capsys):
    assert running._tried(lambda: 1 / 0) == "ZeroDivisionError: division by zero"
    assert "Traceback" in capsys.readouterr().err


def test_the_minutes_are_kept_whatever_hangs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", prepared(tmp_path, "exec sleep 300"))
    minutes = 0.1
    start = time.monotonic()
    assert running.run(plan(tmp_path, minutes=minutes)) > 0
    # A second for a busy machine.
    assert time.monotonic() - start < 60 * minutes + 1
    assert "training: stopped by the clock" in capsys.readouterr().out
    assert (tmp_path / "out" / "run.tar.gz").exists()


def test_a_signal_is_passed_on_and_what_there_is_comes_back(tmp_path):
    program = 'echo $$ > "${0%/*}/process"; exec sleep 300'
    python = prepared(tmp_path, program)
    code = (
        f"import sys; sys.executable = {python!r}\n"
        "from launch.ten_minutes.__main__ import main\n"
        f"sys.exit(main(['run', '--upload={tmp_path}/upload', "
        f"'--out={tmp_path}/out', '--work={tmp_path}/work']))"
    )
    running_ten_minutes = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    process = tmp_path / "process"
    wait_until(lambda: process.exists() and process.read_text())
    running_ten_minutes.terminate()
    printed, _ = running_ten_minutes.communicate(timeout=60)

    assert running_ten_minutes.returncode == 1
    assert "training: stopped by SIGTERM, status -15" in printed
    assert "measuring: not started because of SIGTERM" in printed
    assert not is_running(process.read_text().strip())
    assert "logs/training.log" in names_in_archive(tmp_path / "out")


def test_what_is_gathered_is_no_larger_than_a_file_may_be(tmp_path):
    made = plan(tmp_path, part_bytes=150_000)
    logs = made.work / "logs"
    panels = made.work / "run" / "motion" / "panels"
    for folder in (logs, panels, made.out):
        folder.mkdir(parents=True)
    (logs / "training.log").write_bytes(b"start" + b"x" * 3 * 2**20 + b"end")
    noise = np.random.default_rng(0).bytes(200_000)
    (panels / "1.png").write_bytes(noise[:100_000])
    (panels / "2.png").write_bytes(noise[:120_000])

    left_out = running._gather(made, {})
    assert left_out.endswith("run/motion/panels/2.png")
    assert (made.out / "run.tar.gz").stat().st_size <= 150_000
    assert [path.name for path in made.out.iterdir()] == ["run.tar.gz"]
    names = names_in_archive(made.out)
    assert "run/motion/panels/1.png" in names

    # Of a long log, the end is kept.
    made = made._replace(part_bytes=10**6)
    assert running._gather(made, {}) == ""
    with tarfile.open(made.out / "run.tar.gz") as file:
        log = file.extractfile("logs/training.log").read()
    assert log.endswith(b"xend")
    assert len(log) == running._LOG_BYTES


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
    "panel_rows": 1,
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
    # More minutes than it takes, as a busy machine compiles slowly.
    limits = ["--minutes=20", "--part=0.3"]
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
        timeout=1300,
    )
    logs = "\n".join(
        path.read_text()[-2000:] for path in (tmp_path / "work" / "logs").iterdir()
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}{logs}"

    out = tmp_path / "out"
    parts_of_model = list(out.glob("model.*"))
    assert len(parts_of_model) > 1
    assert all(path.stat().st_size <= 0.3 * 2**20 for path in out.iterdir())
    text = (out / "report.md").read_text()
    for stage in running.STAGES:
        assert f"| {stage} |" in text
    assert json.loads((out / "gpu.json").read_text())["rows"]

    assert main(["join", "--back", str(out), "--out", str(tmp_path)]) == 0
    model = facecycle_jax.load(tmp_path / "model")
    assert model.has_identity
