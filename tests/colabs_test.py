"""The notebooks of colabs/: their content, and full runs with small settings."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile

import nbclient
import nbformat
import numpy as np
import pytest
import tiny_model
from etils import epath
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

import facecycle_jax
from facecycle_jax.commands.codes_file import read_motion_codes

ROOT = pathlib.Path(__file__).parents[1]
BOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def read(name):
    return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


def execute(name, folder, **parameters):
    """Runs a notebook in an empty folder, its parameters replaced.

    Returns all it printed.
    """
    book = read(name)
    place = [
        i
        for i, cell in enumerate(book.cells)
        if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(place) == 1, "one cell holds the parameters"
    cell = book.cells[place[0]]
    known = {line.split(" = ")[0] for line in cell.source.splitlines() if " = " in line}
    assert set(parameters) <= known
    lines = [f"{key} = {value!r}" for key, value in parameters.items()]
    book.cells.insert(place[0] + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    environment = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        # A notebook that trains twice compiles much of it once.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    client = nbclient.NotebookClient(
        book,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.delenv(
            "MPLBACKEND", raising=False
        )  # the notebook's own, which draws inline
        client.execute()
    texts = [
        out.get("text", "") + out.get("data", {}).get("text/markdown", "")
        for c in book.cells
        if c.cell_type == "code"
        for out in c.outputs
    ]
    images = sum(
        "image/png" in out.get("data", {})
        for c in book.cells
        if c.cell_type == "code"
        for out in c.outputs
    )
    return "".join(texts), images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")


def test_the_notebooks_are_those_that_the_documentation_lists():
    index = (ROOT / "docs/README.md").read_text()
    listed = re.findall(r"\(\.\./colabs/(\w+)\.ipynb\)", index)
    assert sorted(listed) == [book.stem for book in BOOKS]


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_outputs_are_stripped(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_badge_and_install_cell_name_one_repository(path):
    book = nbformat.read(path, as_version=4)
    badge, install = book.cells[0].source, book.cells[1].source
    [source] = re.findall(r'^SOURCE = "(.+)"$', install, re.MULTILINE)
    repository = source.removeprefix("https://github.com/")
    assert (
        f"https://colab.research.google.com/github/{repository}/blob/main/colabs/"
        f"{path.name}" in badge
    )

    # No other address of a repository anywhere.
    everything = "".join(cell.source for cell in book.cells)
    addresses = re.findall(r"https://github\.com/[\w-]+/[\w-]+", everything)
    assert addresses == [source]


def test_notebooks_share_one_install_cell():
    assert len({read(path.stem).cells[1].source for path in BOOKS}) == 1


class RecordingShell:
    """Stands in for IPython's shell; records what is installed."""

    def __init__(self, variables):
        self.variables, self.installed = variables, []

    def run_line_magic(self, name, line):
        assert name == "pip"
        self.installed.append(line.format(**self.variables))

    def system(self, command):
        words = shlex.split(command.format(**self.variables))
        subprocess.run(words, check=True)


def run_install_cell(monkeypatch, *, source):
    """Runs the install cell as on Colab; returns the arguments of %pip."""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    cell = re.sub(
        r'^SOURCE = ".+"$',
        f"SOURCE = {source!r}",
        read("quickstart").cells[1].source,
        flags=re.MULTILINE,
    )
    variables = {}
    shell = RecordingShell(variables)
    variables["get_ipython"] = lambda: shell
    exec(TransformerManager().transform_cell(cell), variables)
    return shell.installed


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        (
            "https://github.com/me/mine",
            "facecycle_jax[eval] @ git+https://github.com/me/mine",
        ),
        ("facecycle_jax", "facecycle_jax[eval]"),
        ("facecycle_jax-0.1.0.tar.gz", "facecycle_jax-0.1.0.tar.gz[eval]"),
        (
            "dist/facecycle_jax-0.1.0-py3-none-any.whl",
            "dist/facecycle_jax-0.1.0-py3-none-any.whl[eval]",
        ),
    ],
)
def test_install_cell_accepts_address_name_and_archive(
    source, requirement, monkeypatch
):
    assert run_install_cell(monkeypatch, source=source) == [
        f'install --quiet "{requirement}"'
    ]


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip, as on Colab")
# Browsers number the second download of a name.
@pytest.mark.parametrize("name", ["mine.zip", "mine (1).zip"])
def test_install_cell_unpacks_an_uploaded_zip(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("facecycle_jax-main/setup.cfg", "")

    [line] = run_install_cell(monkeypatch, source=name)
    assert line == 'install --quiet "unpacked/facecycle_jax-main[eval]"'


def test_quickstart(model, tmp_path):
    text, images = execute("quickstart", tmp_path, MODEL=model)
    assert "codes (6, 16) (6, 16)" in text
    assert re.search(r"identity: cosine of faces 0 and 1 is -?[01]\.\d{3}", text)
    assert images == 2

    file = epath.Path(tmp_path / "codes.npz")
    assert np.load(file)["identity_code"].shape == (6, 16)
    # The driver of `facecycle translate`.
    names, motion = read_motion_codes(file, facecycle_jax.load(model))
    assert len(names) == 6
    assert motion.shape == (6, 16)


@pytest.mark.slow
def test_anatomy(model, tmp_path):
    text, images = execute("anatomy", tmp_path, MODEL=model)
    assert images == 8
    by_hand, sampled = (
        np.array([float(x) for x in re.search(rf"{name}\s*\[(.*?)\]", text)[1].split()])
        for name in ("by hand", "grid_sample")
    )
    np.testing.assert_allclose(by_hand, sampled, atol=1e-4)
    for term in ("l1/autoencoded", "symmetry/neutral", "l1/restored", "margin"):
        assert re.search(rf"{term}\s+-?\d+\.\d+", text)


def lfw_set(folder):
    """A few people in LFW's layout, as view 2 with two folds."""
    rng = np.random.default_rng(0)
    lines = ["2\t2"]
    for person in ("A", "B", "C", "D"):
        (folder / person).mkdir(parents=True)
        for number in (1, 2):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / person / f"{person}_{number:04}.jpg")
    for one, two in ("AB", "CD"):
        lines += [
            f"{one}\t1\t2",
            f"{two}\t1\t2",
            f"{one}\t1\t{two}\t1",
            f"{one}\t2\t{two}\t2",
        ]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.mark.slow
def test_evaluation(model, tmp_path):
    lfw = lfw_set(tmp_path / "lfw")
    names = tmp_path / "names.txt"
    names.write_text("A\n")
    text, images = execute(
        "evaluation",
        tmp_path,
        MODEL=model,
        PEOPLE=20,
        LFW=lfw,
        WITHOUT=str(names),
    )
    assert re.search(r"identity code: accuracy \d+\.\d %, AUC 0\.\d{3}", text)
    assert re.search(r"motion code: accuracy \d+\.\d %, macro F1", text)
    assert "3 of 8 test pairs are left out" in text
    assert images == 2


@pytest.mark.slow
def test_training_and_the_quickstart_on_what_it_trained(tmp_path):
    frames = tmp_path / "frames"
    rng = np.random.default_rng(0)
    for person in range(8):
        (frames / f"p{person}").mkdir(parents=True)
        for number in range(4):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(frames / f"p{person}" / f"{number}.jpg")
    small = {"WIDTH": 0.0625, "STEPS": (3, 3, 4, 3), "PEOPLE": 24, "PANELS": 1}
    text, images = execute(
        "training",
        tmp_path,
        **small,
        WORKDIR="runs/demo",
        FRAMES=str(frames),
        OWN_STEPS=2,
    )
    assert "00000003.png" in text
    assert "mean face, error" in text
    assert images >= 3
    assert (tmp_path / "runs/demo_own/identity/panels/00000002.png").is_file()
    text, images = execute("quickstart", tmp_path, MODEL="runs/demo/identity")
    assert "codes (6, 256)" in text
