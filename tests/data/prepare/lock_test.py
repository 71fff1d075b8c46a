"""One run at a time prepares a configuration of a set."""

import errno
import fcntl

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

    with locked("gs://bucket/set/default") as is_locked:
        assert not is_locked

    monkeypatch.setattr(fcntl, "flock", refusing)
    with locked(tmp_path) as is_locked:
        assert not is_locked
