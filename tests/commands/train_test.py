"""`facecycle train` runs configs by name and path, with fields set as options."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def facecycle(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "facecycle_jax.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment
    )


def test_a_dry_run_prints_the_resolved_config_and_makes_nothing(tmp_path):
    ended = facecycle(
        "train", "debug", "--set", "num_steps=7", "--dry-run", cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert "num_steps = 7" in ended.stdout.splitlines()
    assert "method = 'motion_cycle'" in ended.stdout.splitlines()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "debug"], "--workdir is missing"),
        (["train", "debug", "--workdir", ""], "--workdir is empty"),
        (["train", "nothere", "--workdir", "w"], "there is no config 'nothere'"),
        (
            ["train", "debug", "--set", "nofield=1", "--workdir", "w"],
            "has no field config.nofield",
        ),
    ],
)
def test_a_user_error_is_one_sentence_and_status_2(tmp_path, arguments, sentence):
    ended = facecycle(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_trains_and_the_same_command_finds_it_done(tmp_path):
    command = ["train", "debug", "--workdir", tmp_path / "run", "--set", "num_steps=2"]
    ended = facecycle(*command)
    assert ended.returncode == 0, ended.stderr
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2

    again = facecycle(*command)
    assert again.returncode == 0, again.stderr
    assert "Continuing at step 2 of 2" in again.stderr
