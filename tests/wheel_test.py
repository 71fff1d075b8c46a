"""The wheel, installed outside of the checkout: it trains, evaluates and translates."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
# Folders of files, without code.
FILES = {
    "facecycle_jax.commands.portraits",
    "facecycle_jax.commands.web_page",
    "facecycle_jax.weights",
}


def test_setup_names_every_package():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    named = set(parser["options"]["packages"].split())

    files = (ROOT / "facecycle_jax").rglob("__init__.py")
    folders = {file.parent.relative_to(ROOT) for file in files}
    found = {".".join(folder.parts) for folder in folders}
    assert named == found | {"facecycle_jax.configs"} | FILES


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel installs, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")

    # A copy, because building leaves files next to the sources and packs those of
    # earlier builds.
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("facecycle_jax", "configs"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(sources)], check=True, cwd=folder)

    [wheel] = folder.glob("facecycle_jax-*.whl")
    target = folder / "site"
    install = ["install", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *install, str(wheel)], check=True, cwd=folder)
    return target


def run(installed, *arguments, cwd):
    """Runs Python with the installed package, away from the checkout."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "JAX_PLATFORMS": "cpu",
        "FACECYCLE_COMPILATION_CACHE": "",
    }
    command = [sys.executable, "-P", *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_configs_and_weights(installed):
    names = {path.name for path in installed.iterdir() if "dist-info" not in path.name}
    assert names - {"bin"} == {"facecycle_jax"}
    assert (installed / "facecycle_jax/configs/motion_cycle.py").is_file()
    assert list(installed.glob("facecycle_jax/weights/*/weights.safetensors"))
    assert (installed / "facecycle_jax/commands/web_page/page.js").is_file()
    assert (installed / "facecycle_jax/commands/portraits/obama.jpg").is_file()


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_translates(installed, tmp_path):
    where = "import facecycle_jax; print(facecycle_jax.__file__)"
    assert str(installed) in run(installed, "-c", where, cwd=tmp_path)

    program = ("-m", "facecycle_jax.cli")
    shorter = ("--set", "num_steps=2", "--set", "panel_every=2")
    train = ("train", "debug", *shorter, "--workdir", "run")
    run(installed, *program, *train, cwd=tmp_path)
    assert (tmp_path / "run/panels/00000002.png").is_file()

    rng = np.random.default_rng(0)
    for name in ("ann.png", "bob.png"):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    translate = ("translate", "ann.png", "--driver", "bob.png", "--out", "panels")
    run(installed, *program, *translate, cwd=tmp_path)
    assert list((tmp_path / "panels").glob("*.png"))

    evaluate = ("evaluate", "--task", "synthetic", "--limit", "8", "--out", "report")
    run(installed, *program, *evaluate, "--model", "facecycle-small", cwd=tmp_path)
    assert (tmp_path / "report/results.md").is_file()
