"""A run ends when its minutes are over, as at its last step, and can be continued."""

import itertools

import numpy as np
import pytest
import toy_training

from facecycle_jax import training
from facecycle_jax.errors import UserError
from facecycle_jax.training import loop


@pytest.fixture
def clock(monkeypatch):
    """Half a minute more each time that the loop looks."""
    looks = itertools.count(1)
    monkeypatch.setattr(training.Goodput, "seconds", lambda self: 30.0 * next(looks))
    return looks


def steps_of(workdir, name):
    return [line["step"] for line in training.read_metrics(workdir) if name in line]


def test_a_run_out_of_time_ends_with_evaluation_and_checkpoint(clock, tmp_path):
    state = toy_training.train(tmp_path, num_steps=9, max_minutes=2.5)
    assert int(state.step) == 5
    assert training.find_checkpoint(tmp_path).name == "5"
    assert steps_of(tmp_path, "train/total")[-1] == 5
    assert steps_of(tmp_path, "eval/total")[-1] == 5
    assert (tmp_path / "panels" / "00000005.png").exists()

    # The same command trains no further and evaluates nothing again.
    again = toy_training.train(tmp_path, num_steps=9, max_minutes=2.5)
    assert int(again.step) == 5
    assert steps_of(tmp_path, "eval/total")[-1] == 5


def test_more_minutes_continue_a_run_to_the_same_end(tmp_path, monkeypatch):
    unbroken = toy_training.train(tmp_path / "unbroken", num_steps=9)

    seconds = 60.0
    monkeypatch.setattr(training.Goodput, "seconds", lambda self: seconds)
    early = toy_training.train(tmp_path / "run", num_steps=9, max_minutes=1.0)
    assert int(early.step) == 1
    ended = toy_training.train(tmp_path / "run", num_steps=9, max_minutes=2.0)
    assert int(ended.step) == 9

    for name, tree in unbroken.params.items():
        np.testing.assert_array_equal(tree["kernel"], ended.params[name]["kernel"])


def test_the_next_stage_starts_from_one_that_ran_out_of_time(clock, tmp_path):
    config = toy_training.toy_config(num_steps=9).to_dict()
    stages = {
        "stages": ("first", "second"),
        "first": {**config, "max_minutes": 1.0},
        "second": {**config, "num_steps": 3},
    }
    loop.train_and_evaluate(stages, tmp_path, **toy_training.seams())
    assert training.find_checkpoint(tmp_path / "first").name == "2"
    assert training.find_checkpoint(tmp_path / "second").name == "3"


def test_time_is_that_of_all_starts(tmp_path):
    """The record of wall time is kept in the workdir."""
    toy_training.train(tmp_path, num_steps=1)
    spent = training.Goodput(tmp_path).seconds()
    assert spent > 0

    record = tmp_path / "goodput.json"
    longer = record.read_text().replace('"start": ', '"start": 100')
    record.write_text(longer)
    state = toy_training.train(tmp_path, num_steps=9, max_minutes=1.0)
    assert int(state.step) == 1


def test_negative_minutes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.max_minutes must be"):
        toy_training.train(tmp_path, max_minutes=-1.0)
