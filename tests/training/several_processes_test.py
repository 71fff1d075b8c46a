"""Several processes on the real loop.

As one, killed, stopped, continued by another number of them.
"""

import re
import shutil

import jax
import numpy as np
import pytest
import toy_training
from damage import damage
from PIL import Image
from several import TOY, codes, start

from facecycle_jax import training
from facecycle_jax.training import processes

FIELDS = ("num_steps=9", "optimiser__ema_decay=0.9")


def run(workdir, *fields, count=2, devices=2, **environment):
    # Only a kill is waited for; processes of a busy machine may be silent for seconds.
    seconds = 6 if "TOY_KILL" in environment else 30
    given = {
        "TOY_DEVICES": str(devices),
        "TOY_FLAGS": f"--peer_timeout={seconds}",
        **environment,
    }
    return start(count, TOY, str(workdir), *(fields or FIELDS), **given)


def assert_equal(one, other, *, exactly):
    a, b = (
        jax.tree_util.tree_leaves_with_path(training.load_trees(w))
        for w in (one, other)
    )
    assert [path for path, _ in a] == [path for path, _ in b]
    for (path, x), (_, y) in zip(a, b, strict=True):
        # Sums over the batch are taken in another order; Adam's steps are 1e-3 to 2e-3.
        tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(
            x, y, **tolerance, err_msg=jax.tree_util.keystr(path)
        )


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process with eight devices."""
    workdir = tmp_path_factory.mktemp("one")
    toy_training.train(workdir, num_steps=9, optimiser__ema_decay=0.9)
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes with two devices each, and what they said."""
    workdir = tmp_path_factory.mktemp("two")
    ended = run(workdir)
    assert codes(ended) == [0, 0], ended
    return workdir, ended


def test_two_processes_end_where_one_does(one, two):
    workdir, _ = two
    assert_equal(one, workdir, exactly=False)
    lines = training.read_metrics(workdir)
    for kind in ("train/total", "eval/total"):
        expected = {m["step"]: m[kind] for m in training.read_metrics(one) if kind in m}
        found = [(m["step"], m[kind]) for m in lines if kind in m]
        # Once each: process 0 alone writes.
        assert [step for step, _ in found] == list(expected)
        for step, value in found:
            assert value == pytest.approx(expected[step], rel=1e-5)
    panels = sorted(p.name for p in (workdir / "panels").iterdir())
    assert panels == [f"{n:08}.png" for n in (4, 8, 9)]
    names = {
        ".lock",
        "config.json",
        "checkpoints",
        "fingerprint.json",
        "goodput.json",
        "losses.json",
        "metrics.jsonl",
        "panels",
        "parameters.txt",
    }
    assert {p.name for p in workdir.iterdir()} == names


def test_lines_say_whose_they_are_and_a_table_what_runs_where(two):
    _, ended = two
    for index, process in enumerate(ended):
        ours = [
            line
            for line in process.stderr.splitlines()
            if re.search(r"\d\d:\d\d:\d\d ", line)
        ]
        assert ours
        assert all(line.startswith(f"[{index}] ") for line in ours)
        rows = [
            line.split(maxsplit=1)
            for line in process.stderr.splitlines()
            if line.startswith("  ") and len(line.split()) > 1
        ]
        table = dict(rows)
        assert table["process"] == f"{index} of 2"
        assert table["hosts"].startswith("1 (")
        assert table["devices"].startswith("4 (cpu cpu), 2 here")
        assert table["mesh"] == "data=4"
        assert table["batch"] == "8 items in all, 4 per process, 2 per device"


@pytest.mark.parametrize("who", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_when_one_is_killed_the_others_end_and_a_restart_continues(two, tmp_path, who):
    ended = run(tmp_path, TOY_KILL="6", TOY_WHO=who)
    killed, left = ended[int(who)], ended[1 - int(who)]
    assert killed.returncode == -9
    assert left.returncode == training.PEER_LOST_EXIT == 69, left.stderr
    last = left.stderr.strip().splitlines()[-1]
    assert last.startswith(f"facecycle_jax: process {1 - int(who)} of 2 (")
    assert "another process of the job has died" in last
    assert max(m["step"] for m in training.read_metrics(tmp_path)) < 6
    if who == "1":
        assert codes(run(tmp_path)) == [0, 0]
        assert_equal(two[0], tmp_path, exactly=True)


def test_processes_that_never_start_are_not_waited_for_forever(tmp_path):
    (alone,) = start(
        2, TOY, str(tmp_path), *FIELDS, present=[1], TOY_FLAGS="--start_timeout=3"
    )
    assert alone.returncode == 69
    assert (
        "did not meet within 3 s at 127.0.0.1:" in alone.stderr.strip().splitlines()[-1]
    )


def test_sigterm_to_one_stops_all_at_one_step(one, tmp_path):
    ended = run(
        tmp_path, "num_steps=16", FIELDS[1], TOY_TERM="3", TOY_WHO="1", TOY_PAUSE="0.3"
    )
    assert codes(ended) == [training.PREEMPTED_EXIT] * 2 == [75, 75], ended
    said = [
        re.search(r"stopped by SIGTERM after step (\d+)", p.stderr).group(1)
        for p in ended
    ]
    assert said[0] == said[1]
    assert training.find_checkpoint(tmp_path).name == said[0]
    assert 3 <= int(said[0]) < 16
    # One process with other devices goes on from there.
    toy_training.train(tmp_path, num_steps=16, optimiser__ema_decay=0.9)
    unbroken = tmp_path / "unbroken"
    shutil.copytree(one, unbroken)
    toy_training.train(unbroken, num_steps=16, optimiser__ema_decay=0.9)
    assert_equal(unbroken, tmp_path, exactly=False)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("missing", "flipped")),
    ],
)
def test_all_pass_over_a_damaged_checkpoint(two, tmp_path, kind):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    damage(tmp_path, 9, kind)
    ended = run(tmp_path)
    assert codes(ended) == [0, 0], ended
    assert "checkpoints/9 IS UNREADABLE" in ended[0].stderr
    for process in ended:
        assert "Continuing at step 8 of 9" in process.stderr
    assert_equal(two[0], tmp_path, exactly=True)
    assert (tmp_path / "checkpoints_unreadable" / "9").is_dir()


@pytest.mark.slow
def test_four_processes_go_on_from_two_with_parameters_sharded(one, two, tmp_path):
    shutil.copytree(two[0], tmp_path / "run")
    ended = run(
        tmp_path / "run", "num_steps=12", FIELDS[1], "fsdp=True", count=4, devices=2
    )
    assert codes(ended) == [0] * 4, ended
    shutil.copytree(one, tmp_path / "one")
    toy_training.train(tmp_path / "one", num_steps=12, optimiser__ema_decay=0.9)
    assert_equal(tmp_path / "one", tmp_path / "run", exactly=False)


@pytest.mark.slow
def test_two_processes_that_stand_for_slices_end_where_one_does(one, tmp_path):
    ended = run(tmp_path, *FIELDS, "fsdp=True", TOY_SLICES="1")
    assert codes(ended) == [0, 0], ended
    assert "mesh          slice=2, data=2" in ended[0].stderr
    assert_equal(one, tmp_path, exactly=False)


@pytest.mark.slow
def test_two_processes_start_from_another_run(one, tmp_path):
    fields = ("num_steps=2", FIELDS[1], f"init_from={one}")
    assert codes(run(tmp_path / "two", *fields)) == [0, 0]
    toy_training.train(
        tmp_path / "one", num_steps=2, optimiser__ema_decay=0.9, init_from=str(one)
    )
    assert_equal(tmp_path / "one", tmp_path / "two", exactly=False)


def test_a_mistake_ends_all_with_its_code(tmp_path):
    ended = run(tmp_path, "num_steps=2", "batch_size=6")
    assert codes(ended) == [2, 2], ended
    for index, process in enumerate(ended):
        (line,) = [
            line for line in process.stderr.splitlines() if "facecycle_jax: " in line
        ]
        assert line.startswith(f"[{index}] facecycle_jax: batch_size 6")


def people(folder, count):
    """People of three images of noise each.

    Those of a longer count begin with those of a shorter one.
    """
    rng = np.random.default_rng(0)
    for person in range(count):
        (folder / f"p{person:02}").mkdir(parents=True)
        for frame in range(3):
            noise = rng.integers(
                0, 256, (toy_training.SIZE, toy_training.SIZE, 3), dtype=np.uint8
            )
            Image.fromarray(noise).save(folder / f"p{person:02}" / f"{frame}.png")
    return folder


def assert_all_end_with(ended, sentence):
    assert codes(ended) == [2, 2], ended
    for index, process in enumerate(ended):
        # The runtime of the last one to end may have noticed the others' end after
        # that.
        (line,) = [
            line for line in process.stderr.splitlines() if "facecycle_jax: " in line
        ]
        assert line.startswith(f"[{index}] facecycle_jax: process 1 ("), process.stderr
        assert sentence in line


def test_a_setting_that_differs_ends_all_and_is_named(tmp_path):
    ended = run(tmp_path, TOY_WHO="1", TOY_FIELD="num_steps=12")
    assert_all_end_with(ended, "differs from process 0 (")
    assert_all_end_with(
        ended, "in config.num_steps (12, not 9). Give all processes the same command"
    )
    assert not (tmp_path / "checkpoints").exists()


def test_data_that_differ_end_all_and_are_named(tmp_path):
    whole = people(tmp_path / "whole", 12)
    partial = people(tmp_path / "partial", 12)
    shutil.rmtree(next(p for p in sorted(partial.iterdir()) if p.name == "p03"))
    fields = (
        "num_steps=2",
        f"data.path={whole}",
        "data.min_frames=1",
        "data.eval_fraction=0.0",
        "batch_size=4",
    )
    ended = run(
        tmp_path / "run",
        *fields,
        TOY_DATA="1",
        TOY_WHO="1",
        TOY_FIELD=f"data.path={partial}",
    )
    assert_all_end_with(ended, "tracks to train on (11, digest ")
    assert_all_end_with(ended, "frames to train on (33, digest ")


@pytest.mark.slow
def test_the_same_data_in_another_folder_are_no_difference(tmp_path):
    one, other = people(tmp_path / "one", 12), people(tmp_path / "other", 12)
    fields = ("num_steps=2", f"data.path={one}", "data.min_frames=1", "batch_size=4")
    ended = run(
        tmp_path / "run",
        *fields,
        TOY_DATA="1",
        TOY_WHO="1",
        TOY_FIELD=f"data.path={other}",
    )
    assert codes(ended) == [0, 0], ended


def test_the_process_that_differs_from_most_is_named():
    same, other = {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}
    assert processes.first_difference([same, same, same]) is None
    assert processes.first_difference([same, same, other]) == (2, 0, ["b", "c"])
    assert processes.first_difference([other, same, same]) == (0, 1, ["b", "c"])
    # Of two, the first one is the reference.
    assert processes.first_difference([same, other]) == (1, 0, ["b", "c"])


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(tmp_path):
    ended = run(tmp_path, TOY_FAIL="6", TOY_WHO="1")
    assert codes(ended) == [69, 2], ended
    assert (
        ended[1].stderr.strip().splitlines()[-1]
        == "[1] facecycle_jax: the batch of step 6 cannot be read"
    )
    # The save of step 4 may not have ended by then.
    assert training.find_checkpoint(tmp_path).name in ("2", "4")


def test_a_stop_requested_at_the_end_of_a_stage_reaches_the_next(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point",
        lambda number: asked.append(number) or False,
    )
    for _ in range(2):
        stop = training.StopSignal()
        assert not any(stop.reached() for _ in range(3))
    # The runtime's agreement is on a number that all processes have still to come to.
    assert asked == list(range(asked[0], asked[0] + 6))


def test_processes_that_are_named_wrongly_are_a_mistake(monkeypatch):
    for name, value in (
        ("COORDINATOR_ADDRESS", "127.0.0.1:1"),
        ("NUM_PROCESSES", "two"),
        ("PROCESS_ID", "0"),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(
        ValueError, match="JAX_NUM_PROCESSES 'two' and JAX_PROCESS_ID '0'"
    ):
        processes.join()
    with pytest.raises(ValueError, match="--peer_timeout is 1"):
        processes.join(peer_timeout=1)
