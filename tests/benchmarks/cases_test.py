"""A case without enough memory has rows that say so, and the other cases go on.

Programs are stubs; no time is asserted.
"""

import functools
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import cases, ours, suites, timing

SETTING = ours.Setting(batch=1, width=0.0625, precision="float32", device="cpu")


def no_memory(*_, **__):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")


class Step:
    """A train step that runs, until tests replace parts of it."""

    ahead_s = 0.0

    def __init__(self, stage="", setting=SETTING):
        self.trees = {}

    def __call__(self):
        pass

    def total(self):
        return 1.0

    def compiled(self):
        memory = types.SimpleNamespace(temp_size_in_bytes=2e9)
        return types.SimpleNamespace(memory_analysis=lambda: memory)


class Call:
    """An inference call that runs and counts how often it does."""

    def __init__(self, call="", setting=SETTING):
        self.trees = {}
        self.images = np.zeros((2, 64, 64, 3), np.uint8)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return np.ones(3)


class Starved(Call):
    def __call__(self):
        super().__call__()
        no_memory()


@pytest.fixture
def torch_side(monkeypatch):
    """Stands for PyTorch's programs; tests replace parts of it."""
    side = types.SimpleNamespace(
        TorchTrainStep=lambda *_, **__: Step(),
        TorchInference=lambda *_, **__: Call(),
        release=lambda: None,
    )
    monkeypatch.setattr(benchmarks, "torch_programs", side, raising=False)
    monkeypatch.setattr(cases, "_peak", lambda precision, device: 1e12)
    return side


def measured(case, modes=("eager",)):
    return cases.measure(case, SETTING, list(modes), repeats=1)


def test_a_train_step_that_runs_reports_its_memory(torch_side, monkeypatch):
    monkeypatch.setattr(ours, "TrainStep", Step)
    mine, other = measured("train-motion")
    assert mine.note == "2.00 GB in addition to the state"
    assert other.ratio > 0


@pytest.mark.parametrize("where", ["compiling", "running"])
def test_a_train_step_without_memory_leaves_its_reason(torch_side, monkeypatch, where):
    class Large(Step):
        def __call__(self):
            if where == "compiling":
                self.compiled()
            no_memory()

        def compiled(self):
            # Asked again after it failed, it fails again.
            return no_memory() if where == "compiling" else super().compiled()

    monkeypatch.setattr(ours, "TrainStep", Large)
    mine, other = measured("train-motion")
    assert mine.note == "not run: not enough memory"
    assert other.median_ms is not None
    assert other.ratio is None


def test_a_train_step_whose_state_does_not_fit_leaves_a_row(torch_side, monkeypatch):
    monkeypatch.setattr(ours, "TrainStep", no_memory)
    mine, other = measured("train-motion")
    assert mine.note == "not run: not enough memory"
    assert "could not be built" in other.note


def test_a_torch_step_without_memory_leaves_a_row(torch_side, monkeypatch):
    monkeypatch.setattr(ours, "TrainStep", Step)
    torch_side.TorchTrainStep = no_memory
    mine, other = measured("train-motion")
    assert mine.ratio == 1
    assert other.note == "not run: not enough memory"


def test_different_losses_end_the_run(torch_side, monkeypatch):
    monkeypatch.setattr(ours, "TrainStep", Step)
    monkeypatch.setattr(Step, "total", lambda self, seen=[1.0, 2.0]: seen.pop())
    with pytest.raises(RuntimeError, match="the two programs differ"):
        measured("train-motion")


def test_a_loss_that_is_no_number_ends_the_run(torch_side, monkeypatch):
    monkeypatch.setattr(ours, "TrainStep", Step)
    monkeypatch.setattr(Step, "total", lambda self: float("nan"))
    with pytest.raises(RuntimeError, match="the two programs differ"):
        measured("train-motion")


def test_losses_are_compared_after_the_first_calls(torch_side, monkeypatch):
    """Otherwise the first call of PyTorch would be its second one."""
    done = []

    class Recorded(Step):
        def __call__(self):
            done.append("call")

        def total(self):
            done.append("total")
            return 1.0

    monkeypatch.setattr(ours, "TrainStep", Recorded)
    torch_side.TorchTrainStep = lambda *_, **__: Recorded()
    measured("train-motion")
    assert done == ["call"] * 6 + ["total"] * 2


@pytest.mark.parametrize("starved", ["ours", "torch"])
def test_a_call_without_memory_is_not_called_again(torch_side, monkeypatch, starved):
    made = []

    def make(*_, **__):
        made.append(Starved())
        return made[-1]

    monkeypatch.setattr(ours, "Inference", make if starved == "ours" else Call)
    if starved == "torch":
        torch_side.TorchInference = make

    rows = measured("inference")
    assert len(rows) == 2 * len(ours.CALLS)
    for mine, other in zip(rows[::2], rows[1::2], strict=True):
        failed, ran = (mine, other) if starved == "ours" else (other, mine)
        assert failed.note == "not run: not enough memory"
        assert ran.median_ms is not None
    assert [program.calls for program in made] == [1] * len(ours.CALLS)


@pytest.mark.parametrize("output", [np.zeros(3), np.full(3, np.nan), np.ones((2, 2))])
def test_different_outputs_end_the_run(torch_side, monkeypatch, output):
    class Other(Call):
        def __call__(self):
            return output

    monkeypatch.setattr(ours, "Inference", Call)
    torch_side.TorchInference = lambda *_, **__: Other()
    with pytest.raises(RuntimeError, match="the two programs differ"):
        measured("inference")


@pytest.mark.parametrize("batch", [16, 64])
def test_every_row_states_its_batch(batch):
    described = cases.describe(SETTING._replace(batch=batch))
    assert described == {
        "batch": batch,
        "width": 0.0625,
        "precision": "float32",
        "device": "cpu",
    }
    large = cases.describe(SETTING._replace(size=128, remat=True))
    assert large["size"] == 128
    assert large["remat"] is True


def test_processor_time_includes_that_of_started_processes():
    code = "import time\nwhile time.process_time() < 0.2: pass"
    program = functools.partial(subprocess.run, [sys.executable, "-c", code])
    [row] = timing.measure("a case", {"a": program}, settings={}, repeats=1)
    assert row.cpu_ms >= 200


def test_memory_that_ends_among_the_others_leaves_a_row():
    calls = []

    def third():
        calls.append(1)
        if len(calls) == 3:
            no_memory()

    rows = timing.measure(
        "a case", {"a": lambda: None, "b": third}, settings={}, repeats=2, pause=0.0
    )
    assert rows[0].ratio == 1
    assert rows[1].note == "not run: not enough memory"
    assert len(calls) == 3


def test_a_defect_ends_the_run():
    def broken():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        timing.measure("a case", {"a": broken}, settings={}, repeats=1, pause=0.0)
    with pytest.raises(RuntimeError, match="a defect"):
        timing.built(broken)


def test_memory_that_ends_while_compiling_ahead_does_not_end_the_suite(
    monkeypatch, capsys
):
    monkeypatch.setattr(ours, "compile_step", no_memory)
    monkeypatch.setattr(ours, "TrainStep", no_memory)
    monkeypatch.setattr(cases, "_peak", lambda precision, device: 1e12)
    # Of few cores nothing is compiled ahead.
    monkeypatch.setattr(command.os, "cpu_count", lambda: 16)
    plan = [suites.Entry("train-motion", SETTING, modes=[], repeats=1)]
    command._run(plan, SETTING, None, budget=float("inf"), ahead=True)
    assert "not run: not enough memory" in capsys.readouterr().out


def test_compiling_ahead_counts_as_part_of_the_first_call(monkeypatch):
    class Prepared(Step):
        ahead_s = 5.0

    monkeypatch.setattr(ours, "TrainStep", Prepared)
    monkeypatch.setattr(cases, "_peak", lambda precision, device: 1e12)
    [row] = measured("train-motion", modes=())
    assert 5.0 <= row.first_call_s < 10.0


def test_a_step_is_compiled_once_by_several_threads(monkeypatch):
    compiled = []

    class Lowered:
        def compile(self):
            time.sleep(0.05)
            compiled.append(1)
            return object()

    monkeypatch.setattr(ours, "lower_step", lambda stage, setting, mesh: Lowered())
    monkeypatch.setattr(ours, "_COMPILED", {})
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(ours.compile_step("motion_cycle", SETTING))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(compiled) == 1
    assert len({id(step.program) for step in found}) == 1
    assert found[0].seconds >= 0.05


@pytest.mark.slow
def test_a_compiled_step_serves_a_fresh_state():
    setting = SETTING._replace(width=1 / 32)
    first = ours.TrainStep("motion_cycle", setting)
    assert first.ahead_s == 0
    first()
    second = ours.TrainStep("motion_cycle", setting)
    assert second.ahead_s > 0
    assert second.compiled() is first.compiled()
    second()
