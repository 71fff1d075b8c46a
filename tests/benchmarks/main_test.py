"""The benchmark runs, compares like with like, and reports errors in one sentence.

No time is asserted.
"""

import json

import numpy as np
import pytest
from drawn import drawn_with_vgg

from benchmarks import ours, timing
from benchmarks.__main__ import main
from facecycle_jax.inference import face_cycle as model

TINY = ("--batch", "1", "--width", "0.0625", "--repeats", "1", "--device", "cpu")


@pytest.mark.slow
def test_the_table_and_the_json_have_the_same_rows(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert (
        main([*TINY, "--cases", "inference", "--torch", "eager", "--json", str(file)])
        == 0
    )
    out = capsys.readouterr().out
    for call in ("neutral", "reconstruct", "flow", "motion_code"):
        assert f"| inference {call} |" in out
    rows = json.loads(file.read_text())["rows"]
    assert rows[0]["program"] == "ours"
    assert rows[0]["ratio"] == 1
    # Cold and warm: the first call compiles.
    assert all(row["median_ms"] > 0 and row["first_call_s"] > 0 for row in rows)
    assert rows[0]["first_ratio"] == 1
    assert main([*TINY, "--cases", "inference", "--json", str(file)]) == 2
    assert "exists; choose another name" in capsys.readouterr().err


def test_inference_times_the_calls_of_a_loaded_model(monkeypatch):
    called = []

    def record(self, images, names):
        called.append(tuple(names))
        return outputs(self, images, names)

    outputs = model.FaceCycle.outputs
    monkeypatch.setattr(model.FaceCycle, "outputs", record)

    def draw(stage, setting):
        return None, drawn_with_vgg(ours.forward_of(setting))

    monkeypatch.setattr(ours, "initial_trees", draw)
    setting = ours.Setting(batch=1, width=0.0625, precision="float32", device="cpu")
    for call in ours.CALLS:
        assert isinstance(ours.Inference(call, setting)(), np.ndarray)

    names = {"reconstruct": "reconstruction"}
    assert called == [(names.get(call, call),) for call in ours.CALLS]


@pytest.mark.slow
def test_both_programs_of_a_step_compute_the_same_loss(capsys):
    pytest.importorskip("torch")
    # A difference would be a RuntimeError.
    assert main([*TINY, "--cases", "train-motion", "--torch", "eager"]) == 0
    assert "torch eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "speed"], "--cases takes"),
        (["--torch", "jit"], "--torch takes"),
        (["--batch", "0"], "must be at least 1"),
        (["--json", "/nowhere/x.json"], "is no folder"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_medians_and_ratios_are_of_the_interleaved_calls():
    calls = []
    rows = timing.measure(
        "a case",
        {
            "a": lambda: calls.append("a"),
            "b": "has no device",
            "c": lambda: calls.append("c"),
        },
        settings={"batch": 1},
        repeats=3,
        pause=0.0,
    )
    assert [row.program for row in rows] == ["a", "b", "c"]
    assert rows[0].ratio == 1
    assert rows[1].median_ms is None
    assert "has no device" in timing.table(rows)
    # Both are warmed up, then called interleaved.
    assert calls == ["a", "a", "c", "c"] + ["a", "c"] * 3


def test_a_spent_budget_is_reported_for_every_entry_of_the_suite(capsys):
    """Nothing is built or compiled for what is not measured."""
    assert main([*TINY, "--suite", "gpu", "--budget", "0", "--torch", "eager"]) == 0
    out = capsys.readouterr().out
    assert out.count("| ours | not run: the time was spent |") == 14
    assert "median ms" in out


def test_running_out_of_memory_leaves_a_row():
    def starved():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    rows = timing.measure(
        "a case", {"a": starved, "b": lambda: None}, settings={}, repeats=1, pause=0.0
    )
    assert rows[0].note == "not run: not enough memory"
    assert rows[1].ratio == 1


def test_rates():
    work = timing.Work(images=32, flops=1e9, peak=1e12)
    row = timing.measure(
        "a case", {"a": lambda: None}, settings={}, repeats=1, work=work, pause=0.0
    )[0]
    assert row.images_per_s == pytest.approx(32 / (row.median_ms / 1e3))
    assert row.share_of_peak == pytest.approx(1e-3 / (row.median_ms / 1e3))
