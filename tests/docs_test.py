"""README and docs are true.

Links lead somewhere, options and fields exist, commands run or say why not.
"""

import ast
import pathlib
import re
import subprocess
import sys

import docs_commands
import pytest
import tiny_model
import yaml
from docs_commands import ROOT
from PIL import Image

import facecycle_jax
from facecycle_jax import cli

# Run below, in this order, in a folder with the images, folders and models that pages
# speak of.
RUN = (
    "facecycle translate ann.jpg --driver bob.jpg --crop --out panels",
    "facecycle frontalize photos/ --crop --out frontal",
    "facecycle reconstruct photos/ --crop --out reconstructed",
    "facecycle encode photos/ --crop --model MODEL --out my_codes.npz",
    "facecycle interpolate ann.jpg bob.jpg --model MODEL --out strip.png",
)
# Commands that are not run here, by how they begin, and why. Options and fields of all
# are checked.
NOT_RUN = {
    "make test": "this is it; CI runs it",
    "make demo": "8 minutes; see end_to_end_test.py",
    "make docs": "half a minute; the slow test of the documentation site runs the same",
    "make address": "writes into this folder; makefile_test.py runs it on a copy",
    "make table": "needs the published sets; see makefile_test.py",
    "git clone": "needs a network",
    "cd ": "follows git clone",
    ". ": "activates an environment",
    "python3 -m venv": "makes an environment; every CI run does by make",
    "pip install": "needs a network; make installs the extras of dev",
    "pip download": "needs a network",
    "uv ": "needs a network, as pip does",
    'python -c "import jax': "prints the devices of the machine",
    "facecycle train": "minutes to days; see commands/train_test.py",
    "python -m facecycle_jax.main": "minutes to days; see end_to_end_test.py",
    "python -m benchmarks": "times the machine; tests/benchmarks runs it",
    "facecycle frame": "needs dlib; see commands/frame_test.py",
    "facecycle prepare": "needs the published sets; see commands/ and data/",
    "export JAX_": "sets what processes find each other by",
    "python -m pytest": "runs tests, as this does",
    "python -m launch.compile_check": "compiles for TPUs; see launch/compile_check/",
    "python -m launch.ten_minutes": "minutes; see launch/ten_minutes_test.py",
    "python3 -m launch.ten_minutes": "minutes; see launch/ten_minutes_test.py",
    "facecycle compare": "minutes to days; see commands/compare_test.py",
    "facecycle evaluate": "needs the published sets; see evaluation/",
    "facecycle export": "needs a run; see storage/ and commands/exported_test.py",
    "facecycle push": "needs a network; see storage/hub_test.py",
    "python -m http.server": "serves until it is stopped; see commands/web_test.py",
    "facecycle encode photos/ --model hf://": "needs a network, as push does",
    "facecycle import-torch": "needs the authors' weights; see interop/",
    "facecycle import-vgg": "needs torchvision's weights; see interop/",
    "facecycle demo": "serves until it is stopped; see commands/",
    "facecycle translate ann.jpg --driver clip.mp4": "needs a video; see commands/",
    "facecycle translate clip.mp4": "needs a video and dlib; see commands/",
    "facecycle frontalize group.jpg": "needs dlib; see commands/",
    "facecycle encode photos/ --out cropped.npz --crop": "needs dlib",
    "facecycle encode photos/ --crop": "needs dlib; see commands/",
}
# Options of other programs that pages speak of.
FOREIGN = {
    "--imports": "tfds build",
    "--runner": "Beam",
    "--manual_dir": "tfds build",
    "--cpus-per-task": "sbatch",
    "--signal": "sbatch",
    "--repo-type": "hf upload",
}
PLACEHOLDERS = {"config.FIELD", "config.STAGE.FIELD"}

PAGES = docs_commands.pages()
NAMES = [path.name if path.parent == ROOT else f"docs/{path.name}" for path in PAGES]


def reason(command):
    return next(
        (why for start, why in NOT_RUN.items() if command.startswith(start)), None
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "photos").mkdir()
    (folder / "faces").mkdir()
    portraits = {
        "collins": ("ann.jpg", "photos/1.jpg", "faces/ann.jpg"),
        "obama": ("bob.jpg", "photos/2.png", "faces/bob.jpg"),
    }
    for person, names in portraits.items():
        image = Image.open(ROOT / f"docs/images/portraits/{person}.jpg")
        for name in names:
            image.save(folder / name)
    tiny_model.write(folder / "MODEL")
    return folder


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), f"{path.name}: {target}"
        assert ROOT in (other, *other.parents), (
            f"{path.name}: {target} is outside the repository"
        )
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                for h in headings
            }
            assert anchor in slugs, f"{path.name}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_commands_are_right_and_run_or_not_with_a_reason(path, capsys):
    for command in docs_commands.commands(path.read_text()):
        wrong = docs_commands.check(command)
        assert not wrong, f"{path.name}: {command}: {wrong} {capsys.readouterr().err}"
        assert command in RUN or reason(command), (
            f"{path.name}: neither run nor excused: {command}"
        )


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_options_fields_and_extras_named_in_the_text_exist(path):
    text = path.read_text()
    fields = docs_commands.config_fields()
    for field in re.findall(r"--config\.([\w.]+)", text):
        if f"config.{field}" not in PLACEHOLDERS:
            assert field.rstrip(".") in fields or any(
                f.startswith(f"{field}.") for f in fields
            ), field
    groups = "model|loss|optimiser|data|augment"
    for field in re.findall(rf"`(?:config\.)?((?:{groups})\.[a-z_]+)(?:`|=)", text):
        if not field.endswith((".size", ".info", ".py", ".md")):
            assert field in fields, f"{path.name}: {field}"
    inline = re.sub(r"--config\.[\w.]+", "", text)
    inline = re.sub(r"\\\n\s*", " ", inline)
    others = "pip|uv|python3?|tfds|sbatch|srun|gcloud|kubectl|docker"
    inline = re.sub(rf"^    ({others}) .*$", "", inline, flags=re.MULTILINE)
    foreign = "|".join(FOREIGN)
    # Of a span that begins with such an option nothing is ours.
    inline = re.sub(rf"`(pip |{foreign})[^`]*`", "", inline)
    for option in re.findall(r"(?<![\w-])(--[a-z][\w-]+)", inline):
        assert option in FOREIGN or option in docs_commands.known_options(), (
            f"{path.name}: {option}"
        )
    for name in re.findall(r"`facecycle ([a-z-]+)", text):
        assert name in docs_commands.subcommands(), f"{path.name}: facecycle {name}"
    assert not docs_commands.extras(text)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_python_blocks_run(path, place, monkeypatch):
    monkeypatch.chdir(place)
    for block in docs_commands.blocks(path.read_text()):
        if block.language == "python":
            exec(compile(block.text, str(path), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("command", RUN)
def test_commands_run(command, place, monkeypatch, capsys):
    pages = "".join(path.read_text() for path in PAGES)
    assert command in pages, "no page has this any more"
    monkeypatch.chdir(place)
    words = command.split()
    assert cli.main(words[1:]) == 0, capsys.readouterr().err
    assert (place / words[words.index("--out") + 1]).exists()


def strings():
    """Yields the constant parts of the package's strings, with gaps in f-strings."""
    for path in pathlib.Path(facecycle_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    v.value if isinstance(v, ast.Constant) else "\0"
                    for v in node.values
                )
                # What log calls fill in is a gap, too.
                yield "".join(parts)


def test_messages_of_the_troubleshooting_page_are_the_programs():
    text = (ROOT / "docs/troubleshooting.md").read_text()
    known = [re.sub(r"%[sd]", "\0", value) for value in strings()]
    messages = [
        message
        for row in re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
    ]
    assert len(messages) > 30
    for message in messages:
        if message == "data.path=":
            continue
        pattern = re.compile(
            "[^\0]*\0?".join(
                re.escape(part.strip()) + r"\s*" for part in message.split("...")
            )
        )
        loose = re.compile(
            r".*?".join(re.escape(part) for part in message.split("...")), re.DOTALL
        )
        assert any(pattern.search(value) or loose.search(value) for value in known), (
            message
        )


def test_citation_names_paper_and_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == facecycle_jax.__version__
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Chang",
        "Chen",
        "Chiu",
    ]
    assert paper["year"] == 2021


@pytest.mark.slow
def test_the_documentation_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "grid_sample" in (tmp_path / "reference/ops/index.html").read_text()
    assert (tmp_path / "colabs/quickstart/index.html").is_file()
