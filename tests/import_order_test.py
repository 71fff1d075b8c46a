"""The layers.

Imports go downward only, and tensorflow stays in data/ and training/metrics.
"""

import ast
import pathlib

import pytest
from blocked_imports import run_without

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "facecycle_jax"
LAYERS = {
    "_version": 0,
    "errors": 0,
    "jax_names": 0,
    "file_lock": 1,
    "files": 1,
    "paths": 1,
    "compilation_cache": 1,
    "configs": 1,
    "config_files": 2,
    "devices": 1,
    "ops": 1,
    "losses": 2,
    "networks": 2,
    "data": 2,
    "methods": 3,
    "storage": 4,  # training may start from a model folder
    "interop": 5,
    "viz": 5,
    "training": 6,
    "inference": 7,
    "evaluation": 8,
    "main": 9,
    "commands": 10,
    "cli": 11,
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """(name, line, at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = set(ast.walk(ast.Module(tree.body, [])))
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in top:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node not in inner
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, node not in inner


def place(path):
    """First folder or module below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    here = place(path)
    if here == "__init__":
        return
    assert here in LAYERS, f"{here} has no layer; give it one in this test"
    for name, line, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "facecycle_jax" or len(parts) < 2:
            continue
        there = parts[1]
        if there == here:
            continue
        assert there in LAYERS, f"{path.name}:{line} imports {name}"
        assert LAYERS[there] < LAYERS[here], (
            f"{path.name}:{line} imports {name}, not below {here}"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tensorflow_is_imported_only_where_it_may(path):
    relative = path.relative_to(PACKAGE)
    may = relative.parts[0] == "data" or str(relative) == "training/metrics.py"
    for name, line, at_top in imports(path):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            assert may, f"{relative}:{line} imports {name}"
            lazy = not at_top or relative.parts[:3] == ("data", "prepare", "builders")
            assert lazy, f"{relative}:{line} imports {name} at module level"


def test_networks_are_the_only_place_with_linen_modules():
    for path in modules():
        for name, line, _ in imports(path):
            if name.startswith("flax.linen"):
                assert place(path) == "networks", f"{path.name}:{line}"


def test_configs_import_ml_collections_only():
    for path in sorted((ROOT / "configs").glob("*.py")):
        for name, line, _ in imports(path):
            allowed = name == "ml_collections" or name.startswith(
                "facecycle_jax.configs."
            )
            assert allowed, f"{path.name}:{line} imports {name}"


def test_package_imports_without_tensorflow():
    code = (
        "import importlib, pkgutil, facecycle_jax\n"
        "for m in pkgutil.walk_packages(facecycle_jax.__path__, 'facecycle_jax.'):\n"
        "    if '.builders' not in m.name:\n"
        "        importlib.import_module(m.name)\n"
    )
    blocked = ("tensorflow", "torch", "tensorboard")
    result = run_without(blocked, code, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_benchmark_runs_on_a_bare_machine():
    """A machine may have JAX, Flax and Optax but neither clu nor ml_collections."""
    blocked = ("tensorflow", "torch", "clu", "ml_collections")
    result = run_without(blocked, "import benchmarks.__main__", cwd=ROOT)
    assert result.returncode == 0, result.stderr
