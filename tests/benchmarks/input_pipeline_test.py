"""The input benchmark counts what it states and reports errors in one sentence.

No time is asserted.
"""

import json
import os

import pytest
from PIL import Image

from benchmarks import input_pipeline
from benchmarks.input_pipeline import Target, main, waiting
from benchmarks.input_programs import Setting, measure

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


@needs_proc
def test_every_figure_of_our_program_is_measured(tree):
    figures = measure(Setting("folder", str(tree), "", 2, 16, 40, 0))
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
    options = (
        "--batch",
        "2",
        "--images",
        "40",
        "--repeats",
        "1",
        "--workers",
        "1",
        "--json",
        str(file),
    )
    assert main(["--data", str(tree), "--programs", "folder;torch", *options]) == 0
    out = capsys.readouterr().out
    assert "| torch | " in out
    assert "(computed)" in out
    assert set(json.loads(file.read_text())["medians"]) == {"folder", "torch"}


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
        (["--data", "{tree}", "--batch", "0"], "must be at least 1"),
        (["--data", "{tree}", "--targets", "a:b"], "--targets takes"),
        (["--data", "{tree}", "--json", "/nowhere/x.json"], "is no folder"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(tree, arguments, words, capsys):
    assert main([part.format(tree=tree) for part in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
