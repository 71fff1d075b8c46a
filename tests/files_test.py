"""Files appear whole or not at all; what killed processes leave is removed later."""

import os
import time

import pytest

from facecycle_jax import files
from facecycle_jax.files import remove_leftovers, under_another_name

HOURS = 3600


def aged(path, seconds):
    """Makes a file last changed so many seconds ago."""
    path.write_bytes(b"half")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    # A process that is killed leaves the file under the name it was writing to.
    with under_another_name(tmp_path / "x") as path:
        path.write_bytes(b"all of it")
    left = aged(tmp_path / path.name, 2 * HOURS)

    kept = [
        tmp_path / "x",
        aged(tmp_path / "x.part", 2 * HOURS),
        aged(tmp_path / ".hidden", 2 * HOURS),
        # Still being written, perhaps by a process that needs no lock.
        aged(tmp_path / ".0123456789ab.part", HOURS / 2),
    ]
    (tmp_path / ".ba9876543210.part").mkdir()
    below = tmp_path / "below"
    below.mkdir()
    kept.append(aged(below / ".0123456789ab.part", 2 * HOURS))

    remove_leftovers(tmp_path)
    assert not left.exists()
    assert all(path.exists() for path in kept)
    assert (tmp_path / ".ba9876543210.part").is_dir()


def test_nothing_is_removed_where_there_is_no_folder_to_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remove_leftovers("gs://bucket/run")
    remove_leftovers(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_an_error_names_the_file_and_not_the_one_it_is_written_to(tmp_path):
    path = tmp_path / "codes.npz"
    partial = tmp_path / ".0123456789ab.part"
    with (
        pytest.raises(PermissionError, match=r"codes\.npz'$"),
        files.named_in_errors(path),
    ):
        raise PermissionError(13, "Permission denied", str(partial))

    # Any other file keeps its name.
    with pytest.raises(PermissionError, match=r"other'$"), files.named_in_errors(path):
        raise PermissionError(13, "Permission denied", "other")
