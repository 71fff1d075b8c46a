"""Both sides of the start-up case run where the setting says, or say why not."""

import subprocess

import pytest

from benchmarks import cases, ours, starting, suites

SETTING = ours.Setting(batch=1, width=0.0625, precision="float32", device="cpu")
NETWORKS = ("motion_encoder", "flow_decoder", "generator", "vgg")
TREES = {name: {} for name in NETWORKS}


@pytest.fixture
def started(monkeypatch):
    """Commands and environments of processes, which are not started."""
    found = []

    def run(command, *, env, **_):
        found.append((command, env))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(starting.subprocess, "run", run)
    monkeypatch.setattr(starting, "write_model", lambda *_, **__: None)
    monkeypatch.setattr(ours, "initial_trees", lambda stage, setting: (None, TREES))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return found


@pytest.mark.parametrize(("device", "platforms"), [("cpu", "cpu"), ("gpu", None)])
def test_our_process_computes_on_the_device_of_the_setting(
    started, tmp_path, device, platforms
):
    setting = SETTING._replace(device=device, size=128)
    for program in starting.our_starts(tmp_path, TREES, setting).values():
        program()

    for command, environment in started:
        assert command[3:] == [str(tmp_path / "model"), device, "128"]
        assert environment.get("JAX_PLATFORMS") == platforms


def test_a_failed_process_ends_with_its_own_trace():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        starting._run("1 / 0")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"precision": "bfloat16"}, "float32 only"),
        ({"device": "tpu"}, "a TPU serves one process"),
    ],
)
def test_what_a_new_process_cannot_measure_is_not_started(started, changed, words):
    rows = cases.measure("start", SETTING._replace(**changed), ["eager"], repeats=1)
    assert [row.program for row in rows] == ["ours", "torch eager"]
    assert all(words in row.note for row in rows)
    assert not started


def test_torch_starts_with_64_pixels_only(started):
    rows = cases.measure("start", SETTING._replace(size=128), ["eager"], repeats=1)
    assert "supports 64-pixel images only" in rows[-1].note
    # What is not used is not stated.
    assert rows[0].settings == {
        "images": 1,
        "width": 0.0625,
        "device": "cpu",
        "size": 128,
    }


def test_the_suite_starts_few_processes():
    setting = SETTING._replace(device="gpu")
    plan = suites.plan("gpu", setting, [], ["eager"], repeats=10)
    assert [entry.repeats for entry in plan if entry.case == "start"] == [2]


@pytest.mark.slow
def test_a_process_loads_the_model_and_encodes(tmp_path):
    _, trees = ours.initial_trees("motion_cycle", SETTING)
    for program in starting.our_starts(tmp_path, trees, SETTING).values():
        program()
    assert any((tmp_path / "cache").iterdir())
