"""The script that measures a GPU, with a stand-in for Python."""

import os
import subprocess

import pytest
from launch_stand_ins import LAUNCH, ROOT, stand_in

SCRIPT = LAUNCH / "measure_gpu.sh"


@pytest.fixture
def measure(tmp_path):
    """Runs the script in a folder of its own; returns what it would have started."""
    stand_in(tmp_path, "timeout", 'echo "$PYTHONPATH" "$@"')

    def run(*arguments):
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            cwd=tmp_path,
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "PYTHON": "some/python",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ([], 478),
        (["there.json", "--width", "0.5"], 478),
        (["there.json", "--budget", "900"], 938),
        (["there.json", "--budget=0.5"], 38),
        (["there.json", "--budget=100", "--repeats=1", "--budget", "60"], 98),
    ],
)
def test_the_benchmark_starts_from_any_folder_with_a_limit(measure, arguments, seconds):
    result = measure(*arguments)
    assert result.returncode == 0, result.stderr
    words = result.stdout.split()
    assert words[:6] == [
        str(ROOT),
        f"{seconds}",
        "some/python",
        "-P",
        "-m",
        "benchmarks",
    ]
    # The file stays relative to the caller's folder.
    file = words.index("--json") + 1
    assert words[file] == (arguments or ["gpu.json"])[0]
    assert words[file + 1 :] == arguments[1:]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budget", "60"], "the first argument is the file"),
        (["gpu.json", "--budget=long"], "--budget must be a number of seconds"),
        (["gpu.json", "--budget", "-5"], "--budget must be a number of seconds"),
        (["gpu.json", "--budget="], "--budget must be a number of seconds"),
    ],
)
def test_a_mistake_is_one_sentence(measure, arguments, sentence):
    result = measure(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert not result.stdout


def test_help_is_the_head_of_the_script(measure):
    result = measure("--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout
    assert "set -eu" not in result.stdout
