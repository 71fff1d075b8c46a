"""The training command on real networks: stage 1, then stage 2 from it."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from facecycle_jax import training

ROOT = pathlib.Path(__file__).parents[1]


def run(workdir, *flags):
    command = [sys.executable, "-m", "facecycle_jax.main", "--config=configs/debug.py"]
    return subprocess.run(
        [*command, f"--workdir={workdir}", *flags],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def assert_trained(workdir):
    lines = training.read_metrics(workdir)
    totals = [line["train/total"] for line in lines if "train/total" in line]
    assert totals
    assert np.isfinite(totals).all()
    assert any("eval/total" in line for line in lines)
    assert list((workdir / "panels").glob("*.png"))


def test_flows_are_trained_from_the_command_line(tmp_path):
    result = run(tmp_path, "--config.loss.generator=False")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert set(training.load_trees(tmp_path)) == {"motion_encoder", "flow_decoder"}
    assert_trained(tmp_path)


@pytest.mark.slow
def test_both_stages_from_the_command_line(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    result = run(one)
    assert result.returncode == 0, result.stderr
    result = run(two, "--config.method=identity_cycle", f"--config.init_from={one}")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    motion, both = training.load_trees(one), training.load_trees(two)
    assert set(both) == {*motion, "identity_encoder", "normaliser"}
    # Stage 2 leaves the networks of stage 1 as they are.
    for name in motion:
        jax.tree.map(np.testing.assert_array_equal, motion[name], both[name])
    for workdir in (one, two):
        assert_trained(workdir)


def test_a_batch_size_that_does_not_fit_is_one_line(tmp_path):
    result = run(tmp_path, "--config.batch_size=3", "--config.optimiser.accumulate=2")
    assert result.returncode == 2
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("facecycle_jax: batch_size 3 must be")
    )
    assert "Traceback" not in result.stderr
