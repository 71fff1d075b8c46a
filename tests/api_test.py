"""The shape of the public interface: names, signatures and docstrings."""

import importlib
import inspect
import pkgutil
import re

import pytest

import facecycle_jax

PURE = ("ops", "losses")


def public_functions(package):
    module = importlib.import_module(f"facecycle_jax.{package}")
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield pytest.param(value, id=f"{package}.{name}")


def all_modules():
    for info in pkgutil.walk_packages(facecycle_jax.__path__, "facecycle_jax."):
        if ".builders" not in info.name:
            yield info.name


@pytest.mark.parametrize("function", [f for p in PURE for f in public_functions(p)])
def test_arrays_first_then_options_by_keyword(function):
    """Positional parameters have no default.

    Everything with a default is keyword-only.
    """
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name
    names = [p.name for p in parameters]
    if "key" in names:
        assert names[0] == "key"


@pytest.mark.parametrize("function", [f for p in PURE for f in public_functions(p)])
def test_docstrings_name_every_argument_and_the_result(function):
    doc = inspect.getdoc(function)
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^\s+{name}:", doc, re.MULTILINE), f"{name} is not described"
    assert "Returns:" in doc
    assert re.match(r"[A-Z][a-z]+s\b", doc), (
        "a docstring starts with what the function does"
    )


@pytest.mark.parametrize("name", list(all_modules()))
def test_all_names_exist_and_are_documented(name):
    if ".torch_" in name and "benchmark" in name:
        pytest.importorskip("torch", reason="PyTorch is not a dependency")
    module = importlib.import_module(name)
    assert module.__doc__ or name.endswith("_version"), f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, f"{name}.{public} has no docstring"
