"""What a run prints.

Plain lines without a terminal, a bar with the time left on one, no tables.
"""

import sys

import ml_collections
import toy_training

from facecycle_jax import training
from facecycle_jax.configs import debug, demo


def test_without_a_terminal_a_report_is_one_plain_line_with_the_time_left(log):
    progress = training.Progress(step=0, total=100, images=8)
    progress.restart(0)
    figures = progress.report(25, {"total": 1.23456, "l1/reconstruction": 0.5})
    (line,) = log.messages
    assert line.startswith("step 25/100 (25 %), loss 1.235, ")
    assert line.endswith(" left")
    assert "l1/reconstruction" not in line
    assert figures["images_per_second"] == 8 * figures["steps_per_second"]


def test_on_a_terminal_the_bar_replaces_the_lines(log, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = training.Progress(step=0, total=4, images=8, name="motion")
    with progress.showing():
        for step in (1, 2, 3, 4):
            progress.tick()
            progress.report(step, {"total": 0.5})
    assert log.messages == []
    shown = capsys.readouterr().err
    assert "motion: 100%" in shown
    assert "4/4 steps" in shown
    assert "left" in shown


def test_parameter_tables_are_in_a_file_and_not_in_the_log(log, tmp_path):
    toy_training.train(tmp_path, num_steps=1)
    table = (tmp_path / "parameters.txt").read_text()
    assert "generator/kernel" in table
    assert "devices" in table
    assert "generator/kernel" not in log.text
    assert "trained parameters, listed in" in log.text
    assert len(log.text.splitlines()) < 15


def test_stages_are_announced_and_only_the_last_one_is_reported(log, tmp_path):
    from facecycle_jax.training import loop

    reported = []

    def report(config, workdir):
        reported.append(workdir.name)
        return {}

    config = ml_collections.ConfigDict(
        {"about": "Two short stages.", "stages": ("first", "second")}
    )
    config.first = toy_training.toy_config(num_steps=1, data__source="synthetic")
    config.second = toy_training.toy_config(num_steps=1, data__source="synthetic")
    loop.train_and_evaluate(config, tmp_path, report=report, **toy_training.seams())
    assert log.messages[0] == "Two short stages."
    assert "Stage 2 of 2, second" in log.text
    assert reported == ["second"]


def test_the_demo_says_what_it_does_and_how_long_it_takes():
    config = demo.get_config()
    assert "minutes" in config.about
    assert "two idle CPU cores" in config.about
    assert config.flow.loss.generator is False
    models = [config[name].model.to_dict() for name in config.stages]
    assert models[0] == models[1] == models[2]


def test_debug_has_the_fields_of_both_stages():
    from facecycle_jax.configs import identity_cycle, motion_cycle

    fields = set(debug.get_config().loss)
    assert fields >= set(motion_cycle.get_config().loss)
    assert fields >= set(identity_cycle.get_config().loss)
