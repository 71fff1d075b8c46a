"""The SLURM launcher on a real cluster of one machine, with and without a requeue."""

import os
import pathlib
import subprocess

import pytest
import slurm_cluster

from facecycle_jax import training

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]


def submit(cluster, workdir, *flags):
    command = [
        ROOT / "launch" / "run.sh",
        "slurm",
        "--gpus-per-node=0",
        "--time=60",
        "--sbatch=--parsable",
        f"--config={ROOT}/configs/debug.py",
        f"--workdir={workdir}",
        *flags,
    ]
    env = {**cluster.env, "JAX_COMPILATION_CACHE_DIR": str(cluster.root / "xla")}
    result = subprocess.run(
        command, env=env, cwd=cluster.root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_job_runs_to_the_end_and_through_a_requeue(tmp_path):
    workdir = tmp_path / "run"
    with slurm_cluster.cluster(tmp_path) as cluster:
        job = submit(
            cluster,
            workdir,
            "--config.num_steps=600",
            "--config.checkpoint_every=200",
            "--config.log_every=20",
            "--config.eval_every=600",
            "--config.panel_every=600",
        )
        log = tmp_path / f"facecycle-{job}.log"
        slurm_cluster.wait_for(lambda: len(steps(workdir)) > 2, seconds=1500)
        cluster.run("scontrol", "requeue", job)
        slurm_cluster.wait_for(
            lambda: cluster.state(job)[:2] == ("PENDING", 1), seconds=300
        )
        # SLURM lets a requeued job wait for two minutes, else.
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        slurm_cluster.wait_for(
            lambda: cluster.state(job)[:2] == ("RUNNING", 1), seconds=300
        )
        stopped = int(training.find_checkpoint(workdir).name)
        slurm_cluster.wait_for(
            lambda: cluster.state(job)[0] == "COMPLETED", seconds=1500
        )
        assert cluster.state(job)[1:] == (1, "0:0")
        text = log.read_text()
    assert "is saved in" in text
    assert "start 1," in text
    assert "0: " in text, "lines do not carry their task"
    # It went on where it was stopped, and saw every step once.
    assert f"Continuing at step {stopped} of 600" in text
    assert steps(workdir)[-1] == 600
    assert len(set(steps(workdir))) == len(steps(workdir))


def steps(workdir):
    if not (workdir / "metrics.jsonl").exists():
        return []
    return [
        line["step"] for line in training.read_metrics(workdir) if "train/total" in line
    ]


def test_the_log_is_where_the_job_was_submitted(tmp_path):
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    command = [
        ROOT / "launch" / "run.sh",
        "slurm",
        "--dry-run",
        "--config=a",
        "--workdir=b",
    ]
    result = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"--output={tmp_path}/facecycle-%j.log" in result.stdout
