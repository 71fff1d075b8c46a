"""The benchmark runs, compares like with like, and reports errors in one sentence.

No time is asserted.
"""

import json

import jax
import numpy as np
import pytest
from drawn import drawn_with_vgg

from benchmarks import __main__ as command
from benchmarks import ours, suites, timing
from benchmarks.__main__ import main
from facecycle_jax.inference import face_cycle as model

TINY = ("--batch", "1", "--width", "0.0625", "--repeats", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def jax_in_use():
    """Otherwise `main` would split the CPU for itself and all later tests."""
    jax.devices()


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
        return None, drawn_with_vgg(ours.networks_of(setting))

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
        (["--cases", ""], "--cases names nothing"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--repeats", "-1"], "--repeats must be at least 1, got -1"),
        (["--width", "0"], "--width must be above 0, got 0"),
        (["--width", "nan"], "--width must be above 0, got nan"),
        (["--json", "/nowhere/x.json"], "is not a folder"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "9"], "--budget has no effect with --cases"),
        (["--suite", "gpu", "--cases", "start"], "--cases has no effect with --suite"),
        (["--suite", "gpu", "--precision", "tf32"], "--precision has no effect"),
        (["--suite", "growth", "--cases", "start"], "--cases has no effect"),
        (["--suite", "growth", "--torch", "eager"], "--torch has no effect"),
        (["--suite", "growth", "--budget", "9"], "--budget has no effect"),
        (["--suite", "growth", "--size", "256"], "choose 64 or 128"),
        (["--profile", "x", "--json", "y"], "--json has no effect with --profile"),
        (["--profile", "x", "--suite", "gpu"], "--suite has no effect"),
        (["--profile", "x", "--torch", "eager"], "--torch has no effect"),
    ],
)
def test_options_without_effect_are_refused(arguments, words, capsys):
    assert main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("size", ["64", "128"])
def test_the_growth_suite_varies_one_thing_at_a_time(monkeypatch, size):
    entries = []
    monkeypatch.setattr(command, "_run", lambda plan, *_, **__: entries.extend(plan))
    assert main([*TINY, "--suite", "growth", "--size", size]) == 0
    assert max(entry.setting.size for entry in entries) == 2 * int(size)


@pytest.mark.parametrize("suite", [None, *suites.NAMES])
def test_the_cpu_is_split_for_the_largest_batch(suite):
    setting = ours.Setting(batch=3, width=1.0, precision="float32", device="cpu")
    plan = suites.plan(suite, setting, ["train-motion"], [], repeats=1)
    largest = max(entry.setting.batch for entry in plan)
    assert suites.largest_batch(suite, 3) == largest


def test_a_missing_pytorch_is_reported_if_it_was_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "has_torch", lambda: False)
    monkeypatch.setattr(command, "_run", lambda *_, **__: None)
    assert main([*TINY, "--torch", "eager"]) == 0
    assert "--torch eager is left out" in capsys.readouterr().err
    assert main([*TINY]) == 0
    assert main([*TINY, "--torch", ""]) == 0
    assert not capsys.readouterr().err


def test_a_defect_keeps_its_stack_trace(monkeypatch):
    def broken(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr(command.suites, "plan", broken)
    with pytest.raises(ValueError, match="a defect"):
        main([*TINY])


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
    # There is nothing to hold the other against, and its time is stated all the same.
    assert rows[1].ratio is None
    assert rows[1].first_ratio is None
    assert rows[1].median_ms is not None
    assert timing.table(rows).count("|  |") >= 1


def test_rates():
    work = timing.Work(images=32, flops=1e9, peak=1e12)
    row = timing.measure(
        "a case", {"a": lambda: None}, settings={}, repeats=1, work=work, pause=0.0
    )[0]
    assert row.images_per_s == pytest.approx(32 / (row.median_ms / 1e3))
    assert row.share_of_peak == pytest.approx(1e-3 / (row.median_ms / 1e3))
