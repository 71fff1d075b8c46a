"""The `facecycle` command itself: set-up, signals and exit statuses."""

import io
import os
import signal
import sys
import threading
import time

import pytest

from facecycle_jax import __version__, cli, compilation_cache
from facecycle_jax.commands import images
from facecycle_jax.files import under_another_name


@pytest.fixture
def own_process(monkeypatch):
    """Runs a function as the command of a process of its own."""
    monkeypatch.setattr(cli, "split_cpu", lambda config: None)
    monkeypatch.setattr(compilation_cache, "enable", lambda directory: False)
    monkeypatch.setattr(sys, "argv", ["facecycle", "encode", "a", "--out", "b.npz"])

    def run(command):
        monkeypatch.setattr(images, "run_encode", command)
        return cli.main()

    return run


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"facecycle {__version__}\n"


def test_names_that_are_not_utf8_are_printed_byte_for_byte(own_process, monkeypatch):
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert own_process(lambda arguments: print(os.fsdecode(b"th\xe9"))) == 0
    out.flush()
    assert written.getvalue() == b"th\xe9\n"


def test_sigterm_leaves_no_half_file(own_process, tmp_path, capsys):
    def killed(arguments):
        with under_another_name(tmp_path / "x.npz") as partial:
            partial.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    assert own_process(killed) == 143
    assert capsys.readouterr().err == (
        "facecycle: terminated; what is written is whole.\n"
    )
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_is_left_alone_where_it_is_not_the_commands_own(
    own_process, monkeypatch
):
    found = []

    def note(arguments):
        found.append(signal.getsignal(signal.SIGTERM))

    # In a program of somebody else, or in another thread, where it cannot be set.
    monkeypatch.setattr(images, "run_encode", note)
    assert cli.main(["encode", "a", "--out", "b.npz"]) == 0
    thread = threading.Thread(target=own_process, args=(note,))
    thread.start()
    thread.join()

    # A signal that is ignored stays so.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert own_process(note) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]


class OpError(Exception):
    """Stands in for the base of TensorFlow's errors."""


class FailedPreconditionError(OpError):
    """Stands in for one of them."""


def test_storage_that_cannot_be_reached_is_one_sentence(own_process, capsys):
    def fail(arguments):
        raise FailedPreconditionError("no\n  bucket " + "x" * 1000)

    assert own_process(fail) == 2
    error = capsys.readouterr().err
    assert error.startswith("facecycle: a file in the cloud cannot be read or written")
    assert "'no bucket xxx" in error
    assert error.count("\n") == 1
    assert len(error) < 400


def test_an_error_of_the_set_up_has_the_status_of_a_defect(
    own_process, monkeypatch, capsys
):
    def fail(config):
        raise RuntimeError("JAX was used")

    monkeypatch.setattr(cli, "split_cpu", fail)
    assert own_process(lambda arguments: 0) == 70
    assert "JAX was used" in capsys.readouterr().err
