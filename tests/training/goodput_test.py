"""What the wall time of a run goes into, over kills and restarts; steps that lag."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import jax
import pytest
import toy_training
from several import ROOT, TOY, environment

from facecycle_jax import training
from facecycle_jax.training.step_times import StartedStep, StepTimes


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class Output:
    """The output of a step, there once `done` is set."""

    def __init__(self):
        self.done = threading.Event()

    def block_until_ready(self):
        assert self.done.wait(20)
        return self


def recorded(workdir):
    return json.loads((workdir / "goodput.json").read_text())


def test_every_second_belongs_to_the_innermost_category(tmp_path):
    clock = Clock()
    goodput = training.Goodput(tmp_path, clock=clock)
    clock.pass_(5)
    goodput.continue_at(0)
    with goodput.spent("steps"):
        clock.pass_(20)
        with goodput.spent("evaluation"):
            clock.pass_(3)
            with goodput.spent("compilation"):
                clock.pass_(7)
            clock.pass_(1)
        clock.pass_(10)
    clock.pass_(4)

    assert goodput.fractions() == {
        "goodput/steps": 0.6,
        "goodput/start": 0.18,
        "goodput/compilation": 0.14,
        "goodput/data": 0.0,
        "goodput/evaluation": 0.08,
        "goodput/checkpoint": 0.0,
        "goodput/lost": 0.0,
    }
    assert goodput.summary() == (
        "Wall time 0:50 in 1 start: steps 60.0 %, start-up 18.0 %, compilation 14.0 %, "
        "evaluation 8.0 %"
    )


def test_an_error_within_a_context_ends_it(tmp_path):
    clock = Clock()
    goodput = training.Goodput(tmp_path, clock=clock)

    def fail():
        with goodput.spent("evaluation"):
            clock.pass_(1)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    clock.pass_(3)
    assert goodput.fractions()["goodput/evaluation"] == 0.25


def test_a_wait_for_data_counts_only_while_the_devices_have_nothing_to_do(tmp_path):
    clock = Clock()
    goodput = training.Goodput(tmp_path, clock=clock)
    goodput.continue_at(0)
    first, second = Output(), Output()
    with goodput.spent("steps"):
        with goodput.spent("data"):
            clock.pass_(0.0)
        goodput.stepped(1, first)

        # Of 3 seconds, the devices compute step 1 for 2.
        with goodput.spent("data"):
            clock.pass_(2)
            first.done.set()
            deadline = time.monotonic() + 20
            while goodput._times.last_step < 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            clock.pass_(1)
        goodput.stepped(2, second)
        clock.pass_(1)
        second.done.set()
        goodput.close()

    assert recorded(tmp_path)["seconds"]["data"] == 1.0
    assert recorded(tmp_path)["seconds"]["steps"] == 3.0
    assert recorded(tmp_path)["step"] == 2


def test_steps_after_the_last_checkpoint_are_lost_by_a_kill(tmp_path, log):
    clock = Clock()
    goodput = training.Goodput(tmp_path, clock=clock)
    goodput.continue_at(0)
    with goodput.spent("steps"):
        for step, saves in ((2, True), (4, True), (6, False)):
            clock.pass_(10)
            with goodput.spent("evaluation"):
                clock.pass_(1)
            if saves:
                goodput.saved(step)
            else:
                goodput.reached(step)
        # Not written any more.
        clock.pass_(1000)

    again = training.Goodput(tmp_path, clock=clock)
    again.continue_at(4)
    found = recorded(tmp_path)
    assert (found["starts"], found["step"], found["lost_steps"]) == (2, 4, 2)
    assert found["seconds"]["lost"] == 10
    assert found["seconds"]["steps"] == 20
    assert found["seconds"]["evaluation"] == 3
    assert "2 steps done after the checkpoint of step 4 are done again" in log.messages

    # The checkpoint of step 4 turns out to be damaged.
    with again.spent("steps"):
        clock.pass_(2)
        again.reached(5)
    last = training.Goodput(tmp_path, clock=clock)
    last.continue_at(2)
    found = recorded(tmp_path)
    assert (found["lost_steps"], list(found["saved"])) == (5, ["2"])
    assert found["seconds"]["lost"] == 10 + 12
    assert found["seconds"]["steps"] == 10
    assert "steps lost to restarts 62.9 % (5 steps)" in last.summary()


def test_the_file_is_written_between_logs_too(tmp_path):
    clock = Clock()
    goodput = training.Goodput(tmp_path, clock=clock)
    goodput.continue_at(0)
    with goodput.spent("steps"):
        for step in range(1, 8):
            clock.pass_(3)
            goodput.stepped(step, ())
    assert recorded(tmp_path)["seconds"]["steps"] >= 12
    goodput.close()


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": {"steps": "x"}}', "\x00"])
def test_a_broken_record_is_forgotten(tmp_path, log, text):
    (tmp_path / "goodput.json").write_text(text)
    goodput = training.Goodput(tmp_path, clock=Clock())
    goodput.continue_at(3)
    assert "goodput.json is broken" in log.text
    assert recorded(tmp_path)["starts"] == 1


def test_a_record_that_cannot_be_written_ends_no_run(tmp_path, log):
    (tmp_path / "file").write_text("")
    goodput = training.Goodput(tmp_path / "file", clock=Clock())
    goodput.continue_at(0)
    goodput.saved(1)
    goodput.close()
    assert log.text.count("The record of wall time cannot be written") == 1


def times(durations, *, waits=None):
    """Records steps that begin as soon as those before them have ended.

    Args:
      durations: of the steps, in seconds.
      waits: (seconds in the host's program, seconds for data) within each, by index.
    """
    found = StepTimes(clock=Clock(), computed=lambda seconds: None)
    now = 0.0
    for number, seconds in enumerate(durations):
        host, data = (waits or {}).get(number, (0.0, 0.0))
        asked = now + host
        ready = asked + data
        now += seconds
        found.finished(StartedStep(number + 1, 0.0, asked, ready), now)
    return found


@pytest.mark.parametrize(
    ("waits", "cause"),
    [
        ((0.1, 4.0), "4 s of it waiting for data"),
        ((4.0, 0.1), "4 s of it in the host's program"),
        ((0.1, 0.1), "4.8 s of it on the devices"),
    ],
)
def test_a_step_that_lags_is_reported_with_what_it_waited_for(log, waits, cause):
    durations = [1.0] * 20 + [5.0] + [1.0] * 20
    times(durations, waits={20: waits})
    assert log.messages == [f"step 21 took 5 s, the median is 1 s: {cause}"]


@pytest.mark.parametrize(
    "durations",
    [
        [1.0] * 20 + [2.9],
        # Milliseconds vary by chance.
        [0.001] * 20 + [0.05],
        # The first steps are not compared with anything.
        [1.0] * 9 + [10.0],
    ],
)
def test_usual_steps_are_not_reported(log, durations):
    times(durations)
    assert log.messages == []


def test_an_evaluation_between_steps_belongs_to_none_of_them(log):
    found = times([1.0] * 20)
    found.finished(StartedStep(21, resumed=60.0, asked=60.0, ready=60.0), 61.0)
    assert log.messages == []


def test_an_error_on_the_devices_is_left_to_the_loop(tmp_path):
    class Failing:
        def block_until_ready(self):
            raise RuntimeError("on the devices")

    goodput = training.Goodput(tmp_path, clock=Clock())
    goodput.continue_at(0)
    goodput.stepped(1, Failing())
    goodput.close()
    assert recorded(tmp_path)["step"] == 0


def test_the_categories_of_a_run_killed_twice_add_up_to_its_wall_time(tmp_path, log):
    fields = ("num_steps=12", "checkpoint_every=4", "log_every=1", "eval_every=100")
    pause = 0.1
    span = 0.0

    def add_start():
        # The lock is taken at the start of a run. Both files have the time of their
        # last write.
        nonlocal span
        began = (tmp_path / ".lock").stat().st_mtime
        ended = (tmp_path / "goodput.json").stat().st_mtime
        span += ended - began
        return ended

    done = []
    for killed_in in (7, 11):
        result = subprocess.run(
            [sys.executable, TOY, str(tmp_path), *fields],
            env=environment(TOY_KILL=str(killed_in), TOY_PAUSE=str(pause)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        now = time.time()
        assert result.returncode == -9, result.stderr
        # Written until the kill; a busy machine takes seconds to report that.
        assert now - add_start() < 30
        done.append((killed_in - 1, result.stderr))
        assert recorded(tmp_path)["step"] == killed_in - 1

    os.environ["TOY_PAUSE"] = str(pause)
    try:
        toy_training.train(
            tmp_path, num_steps=12, checkpoint_every=4, log_every=1, eval_every=100
        )
    finally:
        del os.environ["TOY_PAUSE"]
    add_start()

    found = recorded(tmp_path)
    assert found["starts"] == 3
    assert sum(found["seconds"].values()) == pytest.approx(span, rel=0.1, abs=0.5)
    assert all(value >= 0 for value in found["seconds"].values())

    # A save in the background may not have ended before the kill.
    texts = [done[1][1], log.text]
    starts = [re.search(r"Continuing at step (\d+)", text) for text in texts]
    continued = [int(match[1]) if match else 0 for match in starts]
    lost = sum(step - at for (step, _), at in zip(done, continued, strict=True))
    assert found["lost_steps"] == lost >= 4
    assert found["seconds"]["lost"] > 0

    # The devices of the toy wait for every batch, on a busy machine less long.
    assert found["seconds"]["data"] > 0.4 * pause * (12 + lost)
    assert found["seconds"]["compilation"] > 0
    assert found["seconds"]["evaluation"] > 0
    assert found["seconds"]["checkpoint"] > 0

    (line,) = [line for line in log.messages if line.startswith("Wall time ")]
    share = 100 * found["seconds"]["steps"] / sum(found["seconds"].values())
    assert f" in 3 starts: steps {share:.1f} %, start-up " in line
    last = [m for m in training.read_metrics(tmp_path) if "goodput/steps" in m][-1]
    parts = [value for name, value in last.items() if name.startswith("goodput/")]
    assert sum(parts) == pytest.approx(1.0)


def traces(workdir):
    return [path.name for path in workdir.rglob("profile/**/*.xplane.pb")]


def test_a_trace_of_the_requested_steps_is_written(tmp_path, log):
    toy_training.train(tmp_path, num_steps=4, profile_steps=(2, 3))
    assert len(traces(tmp_path)) == 1
    assert f"The trace of the steps is in {tmp_path}/profile" in log.messages


def test_a_trace_goes_to_a_bucket_and_ends_with_the_run(tmp_path):
    from fake_bucket import bucket

    with bucket(tmp_path):
        profiler = training.Profiler("gs://bucket/run", (2, 9))

        def interrupted():
            with profiler:
                for step in (1, 2, 3):
                    profiler.before(step)
                    profiler.after(step, jax.numpy.ones(3))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert len(traces(tmp_path / "bucket" / "run")) == 1
