"""Every notebook of colabs/ from start to end, with small settings.

And what is stored in them.
"""

import pathlib
import re

import nbclient
import nbformat
import numpy as np
import pytest
import tiny_model
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
BOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# One place says where the repository is; until it has an address, a placeholder.
PLACEHOLDER = "https://github.com/OWNER/facecycle_jax"


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
        out.get("text", "")
        for c in book.cells
        if c.cell_type == "code"
        for out in c.outputs
    ]
    pictures = sum(
        "image/png" in out.get("data", {})
        for c in book.cells
        if c.cell_type == "code"
        for out in c.outputs
    )
    return "".join(texts), pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")


def test_there_are_four():
    assert [book.stem for book in BOOKS] == [
        "anatomy",
        "evaluation",
        "quickstart",
        "training",
    ]


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
def test_badge_and_install_cell_name_one_address(path):
    book = nbformat.read(path, as_version=4)
    badge, install = book.cells[0].source, book.cells[1].source
    owner = PLACEHOLDER.removeprefix("https://github.com/")
    assert (
        f"https://colab.research.google.com/github/{owner}/blob/main/colabs/{path.name}"
        in badge
    )
    assert f'REPOSITORY = "{PLACEHOLDER}"' in install
    assert 'if "google.colab" in sys.modules:' in install
    # No other address of a repository anywhere.
    everything = "".join(cell.source for cell in book.cells)
    assert set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", everything)) == {
        PLACEHOLDER
    }


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_cells_are_short(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.source.count("\n") < 25, cell.source


def test_quickstart(model, tmp_path):
    text, pictures = execute("quickstart", tmp_path, MODEL=model)
    assert "codes (6, 16) (6, 16)" in text
    assert re.search(r"identity: cosine of faces 0 and 1 is -?[01]\.\d{3}", text)
    assert pictures == 2
    codes = np.load(tmp_path / "codes.npz")
    assert codes["identity_code"].shape == (6, 16)


@pytest.mark.slow
def test_anatomy(model, tmp_path):
    text, pictures = execute("anatomy", tmp_path, MODEL=model)
    assert pictures == 8
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
            picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / person / f"{person}_{number:04}.jpg")
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
    text, pictures = execute("evaluation", tmp_path, MODEL=model, PEOPLE=20, LFW=lfw)
    assert re.search(r"identity code: accuracy \d+\.\d %, AUC 0\.\d{3}", text)
    assert re.search(r"motion code: accuracy \d+\.\d %, macro F1", text)
    assert pictures == 2


@pytest.mark.slow
def test_training_and_the_quickstart_on_what_it_trained(tmp_path):
    frames = tmp_path / "frames"
    rng = np.random.default_rng(0)
    for person in range(8):
        (frames / f"p{person}").mkdir(parents=True)
        for number in range(4):
            picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(frames / f"p{person}" / f"{number}.jpg")
    small = {"WIDTH": 0.0625, "STEPS": (3, 4, 3), "PEOPLE": 24, "PANEL_EVERY": 3}
    text, pictures = execute(
        "training",
        tmp_path,
        **small,
        WORKDIR="runs/demo",
        FRAMES=str(frames),
        OWN_STEPS=2,
    )
    assert "00000003.png" in text
    assert "mean face, error" in text
    assert pictures >= 3
    assert (tmp_path / "runs/demo_own/identity/panels/00000002.png").is_file()
    text, pictures = execute("quickstart", tmp_path, MODEL="runs/demo/identity")
    assert "codes (6, 256)" in text
