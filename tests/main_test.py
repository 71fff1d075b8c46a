"""The command line of training, its sentences and its exit statuses."""

import errno
import subprocess
import sys
import unittest.mock

import jax
import ml_collections
import pytest
from absl import flags
from several import ROOT, environment

from facecycle_jax import config_files, main, training
from facecycle_jax.errors import DEFECT_EXIT, MissingExtraError, UserError

# ml_collections reads a config in a way that Python 3.12 drops; newer versions of it do
# not.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

DEBUG = str(ROOT / "configs" / "debug.py")


def parse(monkeypatch, *arguments):
    """Parses a command line, whose configs look at sys.argv too."""
    argv = ["main", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.chdir(ROOT)
    # ml_collections reads every config into one module, where names of the one before
    # would stay.
    sys.modules.pop("config_config", None)
    try:
        return main.parse(argv)
    finally:
        flags.FLAGS.unparse_flags()


def config_file(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config=configs/nothere.py", "--workdir=w"],
            "--config=configs/nothere.py cannot be read",
        ),
        (
            ["--config", "configs/nothere.py", "--workdir=w"],
            "--config=configs/nothere.py cannot be read",
        ),
        (
            [f"--config={DEBUG}", "--workdir=w", "--config.nofield=1"],
            "has no field config.nofield",
        ),
        (
            [f"--config={DEBUG}", "--workdir=w", "--config.model.nope=1"],
            "has no field config.model.nope",
        ),
        (
            [f"--config={DEBUG}", "--workdir=w", "--config.keep_last=x"],
            "keep_last=x: this field needs a whole number.",
        ),
        (
            [f"--config={DEBUG}", "--workdir=w", "--config.optimiser.clip_norm=x"],
            "optimiser.clip_norm=x: this field needs a number.",
        ),
        (
            [f"--config={DEBUG}", "--workdir=w", "--config.tensorboard=x"],
            "tensorboard=x: this field needs true or false.",
        ),
        (
            [f"--config={ROOT}/configs/demo.py", "--workdir=w", "--config.no.seed=1"],
            "has no field config.no.seed",
        ),
        (["--config=motion", "--workdir=w"], "there is no config 'motion': name"),
        (["--workdir=w"], "--config is missing"),
        (["--config=", "--workdir=w"], "--config is missing"),
        (["--config=", "--workdir=w", "--config.seed=1"], "--config is missing"),
        ([f"--config={DEBUG}"], "--workdir is missing"),
        ([f"--config={DEBUG}", "--workdir="], "--workdir is missing"),
        ([f"--config={DEBUG}", "--workdir=w", "--workdir="], "--workdir is missing"),
        (["--workdir=w", "--nix=1"], "Unknown command line flag 'nix'"),
    ],
)
def test_a_mistake_in_the_command_is_a_sentence_and_status_2(
    monkeypatch, capsys, arguments, sentence
):
    with pytest.raises(SystemExit) as ended:
        parse(monkeypatch, *arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("facecycle_jax: ")
    assert sentence in line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nothere\n", "line 1: ModuleNotFoundError: No module named 'nothere'"),
        (
            "def get_config():\n    return 1 / 0\n",
            "line 2: ZeroDivisionError: division by zero",
        ),
        (
            "def get_config():\n    return int('x')\n",
            "ValueError: invalid literal for int()",
        ),
        ("def get_config()\n", "expected ':'"),
        ("def get_config():\n    pass\n", "get_config() must return a ConfigDict"),
        ("value = 1\n", "get_config"),
    ],
)
def test_an_error_in_a_config_is_a_sentence_and_status_2(
    monkeypatch, capsys, tmp_path, text, sentence
):
    path = config_file(tmp_path, text)
    with pytest.raises(SystemExit) as ended:
        parse(monkeypatch, f"--config={path}", "--workdir=w")
    assert ended.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert path in line
    assert sentence in line


@pytest.mark.parametrize(
    "config", [["--config=simclr:small"], ["--config", "simclr:small"]]
)
def test_a_config_can_be_named_instead_of_its_path(config, monkeypatch):
    rest = parse(monkeypatch, *config, "--workdir=w", "more")
    assert rest == ["main", "more"]

    resolved = config_files.resolve(["main", *config, "--config.seed=7"])
    assert (resolved["method"], resolved["seed"]) == ("simclr", 7)


def test_the_workdir_is_needed_and_help_is_no_error(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(monkeypatch, f"--config={DEBUG}")
    assert ended.value.code == 2
    assert "--workdir is missing" in capsys.readouterr().err


def test_the_program_ends_with_status_2_for_a_config_that_is_not_there(tmp_path):
    command = [
        sys.executable,
        "-m",
        "facecycle_jax.main",
        "--config=configs/nothere.py",
        f"--workdir={tmp_path}/w",
    ]
    ended = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "w").exists()


def test_a_stage_that_does_not_exist_is_no_defect(monkeypatch, capsys, tmp_path):
    config = ml_collections.ConfigDict({"stages": ("nope",), "own": {}})
    values = {
        "_CONFIG": config,
        "_WORKDIR": str(tmp_path / "run"),
        "_START_ANEW": False,
        "_CACHE": "",
        "_DISTRIBUTED": False,
    }
    for name, value in values.items():
        monkeypatch.setattr(main, name, unittest.mock.Mock(value=value))
    assert training.cpu_devices_for(config, cores=2) >= 1
    assert main._train() == 2
    assert "stages must name some of own, got nope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("batch_size is wrong."), 2),
        (MissingExtraError("tensorflow is missing."), 2),
        (FileNotFoundError(errno.ENOENT, "no such file", "data"), 2),
        (NotADirectoryError(errno.ENOTDIR, "not a directory", "workdir"), 2),
        (training.DivergedError("not finite"), 3),
        (OSError(errno.EIO, "input/output error"), 74),
        # As TensorFlow's and gcsfs's errors of a bucket, which are no OSErrors.
        (type("HttpError", (Exception,), {})("no such bucket"), 74),
        (PermissionError(errno.EACCES, "permission denied"), 74),
        (training.StorageError("no room"), 74),
        (training.PreemptedError("stopped"), 75),
        (KeyboardInterrupt(), 130),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"),
            2,
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), DEFECT_EXIT),
        # A plain ValueError is that of a library, and so a defect of this program.
        (ValueError("operands could not be broadcast together"), DEFECT_EXIT),
        (TypeError("missing argument"), DEFECT_EXIT),
        (MemoryError(), DEFECT_EXIT),
    ],
)
def test_every_end_has_its_status_and_only_a_defect_a_trace(
    monkeypatch, capsys, error, status
):
    for name in ("_CONFIG", "_WORKDIR", "_START_ANEW"):
        value = ml_collections.ConfigDict()
        monkeypatch.setattr(main, name, unittest.mock.Mock(value=value))
    monkeypatch.setattr(main, "_CACHE", unittest.mock.Mock(value=""))
    monkeypatch.setattr(main, "_DISTRIBUTED", unittest.mock.Mock(value=False))
    monkeypatch.setattr(
        main.loop, "train_and_evaluate", unittest.mock.Mock(side_effect=error)
    )
    assert main._train() == status
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == (status == DEFECT_EXIT == 70)
    assert printed.startswith("facecycle_jax: ")
