"""One run at a time prepares a configuration of a set."""

import errno
import fcntl
import os
import time

import pytest

from facecycle_jax.data.prepare.lock import locked
from facecycle_jax.errors import UserError


def test_a_second_run_is_refused_until_the_first_one_ends(tmp_path):
    folder = tmp_path / "set" / "default"
    with locked(folder) as is_locked:
        assert is_locked
        words = r"another run \(process \d+ on"
        with pytest.raises(UserError, match=words), locked(folder):
            pass
        with locked(tmp_path / "set" / "other") as is_locked:
            assert is_locked

    with locked(folder) as is_locked:
        assert is_locked


def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch):
    def refusing(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refusing)
    with locked(tmp_path) as is_locked:
        assert not is_locked


def test_a_folder_in_a_bucket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "in gs://bucket/set/default: prepare them in a local --out, then copy"
    with pytest.raises(UserError, match=words), locked("gs://bucket/set/default"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_killed_runs_left_is_removed_under_the_lock(tmp_path, monkeypatch):
    folder = tmp_path / "set" / "default"
    version = folder / "1.0.0"
    version.mkdir(parents=True)
    left = version / ".0123456789ab.part"
    left.write_bytes(b"half an index")
    os.utime(left, (time.time() - 7200,) * 2)

    # Without a lock, its writer may be alive.
    def refusing(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refusing)
        with locked(folder):
            assert left.exists()

    with locked(folder):
        assert not left.exists()
