"""The input benchmark counts what it states and reports errors in one sentence.

No time is asserted.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks import input_pipeline, input_programs
from benchmarks.input_pipeline import Target, main, torch_tracks, waiting
from benchmarks.input_programs import Setting, _loader, measure
from facecycle_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]

pytest.importorskip("cv2", reason="needs the extra `fast`")
needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's /proc"
)


@pytest.fixture
def tree(tmp_path):
    for person in range(3):
        folder = tmp_path / "tree" / f"p{person}" / "t"
        folder.mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (24, 24), (person * 60, frame * 60, 0)).save(
                folder / f"{frame}.jpg"
            )
    return tmp_path / "tree"


def setting_of(tree):
    return Setting(
        program="folder",
        folder=str(tree),
        records="",
        tracks="",
        batch=2,
        size=16,
        images=40,
        workers=0,
    )


@needs_proc
def test_every_figure_of_our_program_is_measured(tree):
    figures = measure(setting_of(tree))
    assert set(figures) == {
        "first_batch_s",
        "images_per_s",
        "images_per_core_s",
        "memory_mb",
        "interpreter_us",
        "resume_ms",
    }
    assert all(value > 0 for name, value in figures.items() if name != "resume_ms")
    assert set(figures["resume_ms"]) == {"0", "1000000"}


@needs_proc
@pytest.mark.slow
def test_the_table_and_the_json_have_the_same_rows(tree, tmp_path, capsys):
    pytest.importorskip("torch")
    file = tmp_path / "figures.json"
    options = ["--batch", "2", "--images", "40", "--repeats", "1", "--workers", "1"]
    options += ["--data", str(tree), "--json", str(file)]
    assert main([*options, "--programs", "folder;torch"]) == 0
    out = capsys.readouterr().out
    assert "| torch | " in out
    assert "(computed)" in out
    assert set(json.loads(file.read_text())["medians"]) == {"folder", "torch"}


def test_both_sides_decode_two_images_a_pair(tree):
    alone = tree / "alone"
    alone.mkdir()
    Image.new("RGB", (24, 24)).save(alone / "0.jpg")

    loader = _loader(setting_of(tree))
    # A track of one image would be paired with its mirror image, and read once.
    assert all(len(frames) > 1 for frames in loader.tracks.frames)
    batches = loader.batches(0)
    assert not any(next(batches)["mirror"].any() for _ in range(10))
    batches.close()

    assert len(torch_tracks(str(tree), batch=2)) == loader.num_tracks == 3


def test_fewer_tracks_than_a_batch_are_a_sentence(tree):
    with pytest.raises(UserError, match=r"has 3 tracks .* --batch 4 needs 4"):
        torch_tracks(str(tree), batch=4)


def test_pytorch_s_process_imports_neither_jax_nor_this_package():
    """They would count in its time to the first batch and in its memory."""
    code = (
        "import sys, benchmarks.input_programs as programs\n"
        "programs.measure = lambda setting: {}\n"
        "fields = dict.fromkeys(programs.Setting.__dataclass_fields__, '')\n"
        "programs.main(programs.Setting(**{**fields, 'program': 'torch'}))\n"
        "sys.exit(bool({'jax', 'facecycle_jax'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_program_s_own_sentence_is_passed_on(tree, monkeypatch, capsys):
    def measure(setting):
        raise UserError(f"{setting.folder} is no good.")

    monkeypatch.setattr(input_programs, "measure", measure)
    assert input_programs.main(setting_of(tree)) == 2
    assert capsys.readouterr().err == f"{tree} is no good.\n"


def test_a_program_without_its_package_is_a_sentence_if_named(
    tree, monkeypatch, capsys
):
    monkeypatch.setattr(input_pipeline, "has_torch", lambda: False)
    assert main(["--data", str(tree), "--programs", "folder;torch"]) == 2
    assert "PyTorch is not installed" in capsys.readouterr().err

    # None was named: those that can run are measured.
    measured = []

    def run(setting):
        measured.append(setting.program)
        return {
            "first_batch_s": 1.0,
            "images_per_s": 1.0,
            "images_per_core_s": 1.0,
            "memory_mb": 1.0,
        }

    monkeypatch.setattr(input_pipeline, "_run", run)
    assert main(["--data", str(tree), "--repeats", "1"]) == 0
    assert measured == ["folder", "folder, pillow"]


def test_waiting_is_what_reading_falls_short_of():
    target = Target("x", 4, 10.0, 100)
    assert waiting({"images_per_core_s": 300.0}, target) == 0
    assert waiting({"images_per_core_s": 125.0}, target) == pytest.approx(0.5)
    assert waiting(
        {"images_per_core_s": 300.0, "interpreter_us": 4000.0}, target
    ) == pytest.approx(0.75)
    row = {
        "images_per_core_s": 300.0,
        "images_per_s": 1.0,
        "first_batch_s": 1.0,
        "memory_mb": 1.0,
    }
    text = input_pipeline.table(
        {"folder": row, "torch": {**row, "images_per_core_s": 100.0}}
    )
    assert "| folder | 300 | 3.00 |" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/nowhere"], "--data: there is no folder"),
        (["--data", "{tree}", "--programs", "fast"], "--programs takes"),
        (["--data", "{tree}", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["--data", "{tree}", "--workers", "-1"], "--workers must be at least 0"),
        (["--data", "{tree}", "--programs", "records"], "it needs --records FOLDER"),
        (["--data", "{tree}", "--targets", "a:b"], "--targets takes"),
        (["--data", "{tree}", "--targets", "a:1:0:1"], "numbers above 0"),
        (["--data", "{tree}", "--json", "/nowhere/x.json"], "is not a folder"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(tree, arguments, words, capsys):
    assert main([part.format(tree=tree) for part in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
