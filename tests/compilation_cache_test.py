"""Compiled programs are kept where they should be, and found again."""

import logging
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from PIL import Image

from facecycle_jax import compilation_cache

ROOT = pathlib.Path(__file__).parents[1]
# A program of its own process: the cache is set before anything compiles.
CODE = """
import sys, jax, jax.numpy as jnp
from facecycle_jax import compilation_cache
assert compilation_cache.enable(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def test_a_second_start_finds_the_programs_of_the_first(tmp_path):
    def start():
        command = [sys.executable, "-c", CODE, str(tmp_path / "kept")]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, check=True
        )
        return int(result.stdout)

    assert start() == 0
    assert start() > 0


def test_a_command_keeps_its_programs(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "face.png")
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "facecycle_jax.cli", "frontalize"]
    subprocess.run(
        [*command, str(tmp_path / "face.png"), "--out", str(tmp_path / "out")],
        env={**os.environ, compilation_cache.VARIABLE: str(kept)},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert list(kept.glob("jit_*"))


@pytest.fixture(autouse=True)
def no_cache_afterwards():
    yield
    compilation_cache.enable("")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    with caplog.at_level(logging.WARNING):
        assert not compilation_cache.enable(str(file / "below"))
    assert "cannot be written" in caplog.text
    assert not compilation_cache.enable("")
    assert jax.config.jax_compilation_cache_dir is None


def test_an_unknown_home_folder_is_a_warning_and_no_error(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        assert not compilation_cache.enable("~nobody_of_that_name/x")
    assert "~nobody_of_that_name/x cannot be written" in caplog.text

    def home(kind):
        raise RuntimeError("Could not determine home directory.")

    for name in (
        compilation_cache.VARIABLE,
        "JAX_COMPILATION_CACHE_DIR",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", classmethod(home))
    monkeypatch.setattr(pathlib.Path, "expanduser", home)
    assert compilation_cache.user_cache() is None
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not compilation_cache.enable(compilation_cache.default_directory())
    assert "~/.cache/facecycle_jax/xla cannot be written" in caplog.text


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert compilation_cache.default_directory() == str(
        tmp_path / "facecycle_jax" / "xla"
    )
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/of/jax")
    assert compilation_cache.default_directory() == "/of/jax"
    monkeypatch.setenv(compilation_cache.VARIABLE, "")
    assert compilation_cache.default_directory() == ""
