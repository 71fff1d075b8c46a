"""The command line of the compile check, its sentences and its exit statuses."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = "--config=configs/debug.py"
TOPOLOGY = "--topology=v5e:2x2"

# Runs the command with a stand-in for the compilation. A process of its own, because
# its flags have the names of those of training.
STAND_IN = """
from absl import app
from launch import compile_check
from launch.compile_check import __main__ as command

def check(config, topology, *, effort):
    batch = config["batch_size"]
    print("compiled", batch)
    {body}

compile_check.check = check
app.run(command.main, flags_parser=command.parse)
"""
REFUSES = """return compile_check.Report(
        topology, {"batch_size": batch}, refused="XLA: too large"
    )"""


def run(*flags, body=""):
    """Runs the command; `body` is that of the stand-in for compile_check.check."""
    code = STAND_IN.replace("{body}", body or "raise AssertionError")
    return subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([CONFIG, TOPOLOGY, "--nix=1"], "Unknown command line flag 'nix'"),
        ([CONFIG], "--topology is missing, as in"),
        (["--config=", TOPOLOGY], "--config is missing, as in"),
        (["--config=configs/nothere.py", TOPOLOGY], "nothere.py cannot be read"),
        ([CONFIG, TOPOLOGY, "quick"], "unexpected argument 'quick'"),
        ([CONFIG, TOPOLOGY, "--json=nothere/report.json"], "no folder nothere"),
        ([CONFIG, TOPOLOGY, "--json=configs"], "configs is a folder"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2_before_compiling(flags, sentence):
    """Status 1 means that the step does not fit."""
    result = run(*flags)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("compile_check: ")
    assert sentence in line
    assert not result.stdout


def test_a_defect_keeps_its_trace_and_has_a_status_of_its_own():
    result = run(CONFIG, TOPOLOGY, body="raise TypeError('a defect')")
    assert result.returncode == 70
    assert "Traceback" in result.stderr
    assert "TypeError: a defect" in result.stderr


def test_a_search_without_a_fit_writes_the_report_of_the_smallest_batch(tmp_path):
    file = tmp_path / "report.json"
    result = run(CONFIG, TOPOLOGY, "--largest_batch", f"--json={file}", body=REFUSES)
    assert result.returncode == 1, result.stderr
    assert "DOES NOT FIT: not even one pair per chip does." in result.stdout
    report = json.loads(file.read_text())
    assert report["fits"] is False
    assert report["settings"] == {"batch_size": 4}


def test_a_search_with_micro_batches_names_them_if_nothing_fits():
    flags = ["--largest_batch", "--config.optimiser.accumulate=2"]
    result = run("--config=debug", TOPOLOGY, *flags, body=REFUSES)
    assert result.returncode == 1, result.stderr
    assert "not even one pair per chip and micro-batch does." in result.stdout


def test_help_is_no_error():
    result = run("--help")
    assert result.returncode == 0, result.stderr
    assert "USAGE" in result.stdout


def test_a_search_with_no_micro_batch_is_refused_by_its_first_trial():
    flags = ["--largest_batch", "--config.optimiser.accumulate=0"]
    refuses = "from facecycle_jax.errors import UserError; raise UserError('refused')"
    result = run(CONFIG, TOPOLOGY, *flags, body=refuses)
    assert result.returncode == 2, result.stderr
    assert result.stderr == "compile_check: refused\n"
