"""One run at a time in a workdir; a lock ends with its process, however that ends."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import toy_training
from etils import epath
from several import ROOT, environment

from facecycle_jax import file_lock, training
from facecycle_jax.errors import UserError

HOLD = """
import sys, time
from etils import epath
from facecycle_jax.training import locked
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_and_the_first_one_named(tmp_path):
    with training.locked(epath.Path(tmp_path)):
        with pytest.raises(
            UserError,
            match=rf"in use by another run \(process {os.getpid()} on .*, started ",
        ):
            toy_training.train(tmp_path, num_steps=2)
        # Nothing of the first run was touched.
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    with training.locked(epath.Path(tmp_path)):
        pass


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(UserError, match=f"process {holder.pid} on "),
                training.locked(epath.Path(tmp_path)),
            ):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    with training.locked(epath.Path(tmp_path)):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_places_that_cannot_be_locked_are_named_in_the_log(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="facecycle_jax")
    monkeypatch.setattr("facecycle_jax.file_lock.log.propagate", True)
    training_log = file_lock.logging.getLogger("facecycle_jax")
    monkeypatch.setattr(training_log, "propagate", True)

    with training.locked(epath.Path("gs://bucket/run")):
        sentence = "gs://bucket/run is not a local folder and cannot be locked"
        assert sentence in caplog.text

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", refuse)
    with training.locked(epath.Path(tmp_path)):
        assert "cannot be locked ([Errno 37] No locks available)" in caplog.text
