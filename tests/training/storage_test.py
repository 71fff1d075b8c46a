"""Storage of runs: full disks, whole files, and buckets through epath."""

import contextlib
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_training
from etils import epath
from fake_bucket import bucket
from several import ROOT, TOY, codes, environment, start

from facecycle_jax import files, training

# Of several writes that fail, Orbax awaits only the first.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("garbage_of_a_module_ends_with_it"),
]


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many kilobytes; needs root."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("cannot mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def toy(workdir, *fields, **given):
    return subprocess.run(
        [sys.executable, TOY, str(workdir), "num_steps=20", *fields],
        env=environment(**given), cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_full_disk_is_reported_and_old_checkpoints_stay(tmp_path):
    # A checkpoint of the toy takes 0.75 MB; two fit, the third does not.
    with small_disk(tmp_path, 2000) as workdir:
        result = toy(workdir)
        assert result.returncode == training.STORAGE_EXIT == 74, result.stderr
        step = int(training.find_checkpoint(workdir).name)
        # TensorStore's threads print what becomes of their other writes, in rare cases
        # below or before the sentence of the program.
        (sentence,) = [
            line for line in result.stderr.splitlines() if "facecycle_jax: " in line
        ]
        # A checkpoint is written in the background: while it fills the disk, a line of
        # metrics or a panel can be the first that finds no room.
        if "a file cannot be read or written" in sentence:
            assert str(workdir) in sentence
            assert "Checkpoints are intact; make room" in sentence
        else:
            assert "a checkpoint could not be written to" in sentence
            assert f"are intact, the newest is that of step {step}." in sentence
        for _, leaf in jax.tree_util.tree_leaves_with_path(
            training.load_trees(workdir)
        ):
            assert np.isfinite(leaf).all()
        # With room made, the same command continues.
        subprocess.run(["mount", "-o", "remount,size=16000k", str(workdir)], check=True)
        result = toy(workdir)
        assert result.returncode == 0, result.stderr
        assert f"Continuing at step {step} of 20" in result.stderr


def test_a_full_disk_names_the_metrics_it_has_no_room_for(tmp_path):
    with small_disk(tmp_path, 100) as workdir:
        writer = training.MetricWriter(epath.Path(workdir), tensorboard=False)
        (workdir / "filler").write_bytes(bytes(96 * 1024))
        many = {f"metric_{number}": 1.0 for number in range(1000)}
        with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
            writer.scalars(1, many)
        with contextlib.suppress(OSError):
            writer.close()


@pytest.mark.slow
def test_a_full_disk_ends_all_processes(tmp_path):
    with small_disk(tmp_path, 2000) as workdir:
        ended = start(
            2,
            TOY,
            str(workdir),
            "num_steps=200",
            TOY_DEVICES="2",
            TOY_FLAGS="--peer_timeout=30",
        )
        # The process whose write failed says so; the others notice its end.
        assert set(codes(ended)) <= {69, 74}, ended
        assert 74 in codes(ended)
        training.load_trees(workdir)


def test_a_checkpoint_that_cannot_be_written_is_reported(tmp_path):
    state = {"params": {"kernel": jax.numpy.ones((256, 256))}}
    checkpointer = training.Checkpointer(tmp_path)
    checkpointer.save(1, state)
    checkpointer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = {"params": {"kernel": jax.random.normal(jax.random.key(0), (256, 256))}}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpointer.save(2, state)
        with pytest.raises(
            training.StorageError, match=r"step 2; .*the newest is that of step 1"
        ):
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(
        p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()
    ) == ["1"]


def test_a_file_is_whole_or_not_there(tmp_path):
    files.write_whole(tmp_path / "a" / "b.txt", b"one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write_whole(tmp_path / "a" / "b.txt", b"another" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.read_bytes() for p in (tmp_path / "a").iterdir()] == [b"one"]


class Manager:
    """In Orbax's place, which reaches buckets by itself, not through epath."""

    def __init__(self, directory, options):
        self.directory, self._steps = directory, []

    def all_steps(self):
        return self._steps

    def latest_step(self):
        return max(self._steps, default=None)

    def save(self, step, args, force):
        self._steps.append(step)

    def wait_until_finished(self):
        pass

    check_for_errors = close = wait_until_finished


def test_everything_the_loop_writes_goes_through_epath(tmp_path, monkeypatch):
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager", Manager)
    with bucket(tmp_path):
        toy_training.train(epath.Path("gs://bucket/run"), num_steps=4)
        metrics = training.read_metrics("gs://bucket/run")

    root = tmp_path / "bucket" / "run"
    found = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert found == {
        "config.json",
        "fingerprint.json",
        "goodput.json",
        "metrics.jsonl",
        "losses.json",
        "panels/00000004.png",
        "parameters.txt",
    }
    assert [m["step"] for m in metrics] == [2, 4, 4]
