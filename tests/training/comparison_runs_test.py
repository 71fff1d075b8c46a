"""Training runs of a comparison: their commands, their ends, their seconds."""

import json
import os
import signal
import subprocess

import pytest
from etils import epath

from facecycle_jax import training
from facecycle_jax.errors import UserError
from facecycle_jax.training.comparison_plan import make_entry
from facecycle_jax.training.comparison_runs import start_process, training_command

# ml_collections loads configs in this way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def entry(config="fab_net:small", fields=(), data=None):
    return make_entry(config, fields, data=data)


def test_fields_and_data_are_set_in_every_stage_and_win():
    fields = ["data.source=records", "panel_every=4"]
    stages = entry("face_cycle:small", fields, data="RECORDS")
    for stage in stages.stages:
        assert stage.config["data"]["source"] == "records"
        assert stage.config["data"]["path"] == "RECORDS"

    line = training_command(
        stages,
        epath.Path("w"),
        seed=3,
        steps={"motion": 10, "identity": 7},
        checkpoints=5,
    )
    assert "--workdir=w" in line
    assert "--config.motion.seed=3" in line
    assert "--config.identity.num_steps=7" in line
    assert "--config.identity.checkpoint_every=2" in line
    own = line.index("--config.motion.panel_every=10")
    assert own < line.index("--config.motion.panel_every=4")


def test_schedules_are_stretched_to_the_budget_unless_the_user_says_otherwise():
    own = ["optimiser.schedule_length_epochs=0"]
    lines = [
        training_command(
            entry("face_cycle", fields),
            epath.Path("w"),
            seed=0,
            steps={"motion": 10, "identity": 5},
            checkpoints=1,
        )
        for fields in ((), own)
    ]
    plain, changed = lines
    assert "--config.motion.optimiser.schedule_length_epochs=40" in plain
    assert "--config.identity.optimiser.schedule_length_epochs=20" in plain
    last = [x for x in changed if x.startswith("--config.motion.optimiser.sch")][-1]
    assert last == "--config.motion.optimiser.schedule_length_epochs=0"

    small = training_command(
        entry(), epath.Path("w"), seed=0, steps={"": 10}, checkpoints=1
    )
    assert "--config.optimiser.schedule_length_steps=200" in small


def test_the_planned_steps_are_made_however_long_they_take():
    line = training_command(
        entry("facecycle_base:paper"),
        epath.Path("w"),
        seed=0,
        steps={"motion": 10, "contrast": 10, "identity": 5},
        checkpoints=1,
    )
    assert "--config.motion.max_minutes=0.0" in line
    with pytest.raises(UserError, match="max_minutes follows from the configs"):
        entry("fab_net:small", ["max_minutes=5"])


def test_processes_end_with_their_status():
    assert start_process(["sh", "-c", "exit 74"]) == 74
    assert start_process(["sh", "-c", "kill -9 $$"]) == 128 + 9


@pytest.fixture
def surviving():
    """SIGTERM that reaches no handler of the program ends no tests."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("exit 0", training.PREEMPTED_EXIT),
        ("exit 3", training.PREEMPTED_EXIT),
        ("exit 74", 74),
        ("exit 75", training.PREEMPTED_EXIT),
    ],
)
def test_after_sigterm_no_other_run_follows(ending, status, surviving):
    # The child asks its parent to stop, which passes it on, and ends as it likes.
    wait = "for i in $(seq 100); do sleep 0.05; done; exit 1"
    script = f"trap '{ending}' TERM; kill -TERM $PPID; {wait}"
    before = signal.getsignal(signal.SIGTERM)
    assert start_process(["sh", "-c", script]) == status
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_before_the_child_is_there_is_passed_on(monkeypatch, surviving):
    class Late(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Late)
    assert start_process(["sleep", "5"]) == 128 + signal.SIGTERM


def test_seconds_of_training_leave_out_what_was_not_measured(tmp_path):
    lines = [
        {"step": 10, "learning_rate": 1.0, "steps_per_second": 5.0},
        {"step": 10, "eval/total": 1.0},
        # Not measured, so as long as the others.
        {"step": 15, "learning_rate": 1.0},
        {"step": 20, "learning_rate": 1.0, "steps_per_second": 2.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    # 15 steps took 4 seconds.
    assert training.training_seconds(tmp_path) == pytest.approx(20 * 4 / 15)
    assert not training.training_seconds(tmp_path / "none") > 0
