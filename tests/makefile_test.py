"""The Makefile: paths may have blanks, and the owner is written everywhere."""

import pathlib
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def test_paths_with_blanks_stay_one_argument():
    given = {
        "LFW": "my faces",
        "FER2013": "fer 2013",
        "WITHOUT": "some names.txt",
        "TABLE": "the table",
        "MODEL": "a model",
        "DEMO_DIR": "a demo",
    }
    printed = subprocess.run(
        [
            "make",
            "--dry-run",
            "table",
            "demo",
            *(f"{name}={value}" for name, value in given.items()),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    commands = [shlex.split(line) for line in printed.replace("\\\n", " ").splitlines()]
    evaluations = [words for words in commands if "evaluate" in words]
    assert len(evaluations) == 5
    for words in evaluations:
        assert words[words.index("--model") + 1] == "a model"
        assert words[words.index("--out") + 1].startswith("the table/")
    assert (
        sum("some names.txt" in words and "my faces" in words for words in evaluations)
        == 2
    )
    assert sum("fer 2013" in words for words in evaluations) == 2
    assert any("--workdir=a demo" in words for words in commands)


@pytest.mark.skipif(not shutil.which("perl"), reason="needs perl")
def test_the_owner_of_the_repository_is_written_by_one_command(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("colabs", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)

    refused = subprocess.run(["make", "address"], cwd=tmp_path, capture_output=True)
    assert b"make address needs OWNER=name" in refused.stderr
    subprocess.run(["make", "address", "OWNER=jane"], cwd=tmp_path, check=True)

    files = [*tmp_path.glob("colabs/*.ipynb"), *tmp_path.glob("docs/*.md")]
    text = "\n".join(file.read_text() for file in files)
    assert "/OWNER/" not in text
    assert text.count("github.com/jane/facecycle_jax") > 4
    assert "`OWNER` stands for" not in text
