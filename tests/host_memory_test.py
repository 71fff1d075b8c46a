"""Freed memory is kept where the CPU is all there is, and nowhere else."""

import os
import platform
import subprocess
import sys
import types

import pytest

from facecycle_jax import host_memory

# Counts the pages that the system hands out for four calls of a program that needs 128 MB within it. The heap
# may grow for some calls before, until what was freed fits.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from facecycle_jax import host_memory
jax.config.update("jax_num_cpu_devices", 2)
kept = host_memory.keep()
# A product is not fused away, so that its result has a place.
run = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x.T) @ x))
x = jnp.ones((5792, 2))
for _ in range(8):
    run(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    run(x).block_until_ready()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
IN_CONTROL = (host_memory.VARIABLE, "GLIBC_TUNABLES", "LD_PRELOAD")
glibc_alone = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def pages(**environment):
    plain = {k: v for k, v in os.environ.items() if k not in IN_CONTROL and not k.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**plain, "JAX_PLATFORMS": "cpu", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept, count = map(int, result.stdout.split())
    return bool(kept), count


@glibc_alone
def test_a_step_gets_the_memory_of_the_one_before():
    kept, count = pages()
    untouched, many = pages(FACECYCLE_KEEP_MEMORY="0")
    assert (kept, untouched) == (True, False)
    # At least 128 MB in pages of 4 kB to 64 kB each time; a background thread's few are allowed.
    assert many > 4 * 1500 > 20 * count


def asks_for(monkeypatch, platforms):
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(host_memory, "jax", types.SimpleNamespace(config=config))


@pytest.fixture
def alone(monkeypatch):
    """A process that would keep memory, and the options that it would set."""
    for name in [n for n in os.environ if n in IN_CONTROL or n.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    asks_for(monkeypatch, "cpu")
    found = []

    class Library:
        def __init__(self, _):
            pass

        def mallopt(self, option, value):
            found.append((option, value))
            return 1

    monkeypatch.setattr(host_memory.ctypes, "CDLL", Library)
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    return found


def test_all_that_is_needed_is_set(alone):
    assert host_memory.keep()
    assert len(alone) == len(set(alone)) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (host_memory.VARIABLE, "0"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        ("LD_PRELOAD", "/usr/lib/libjemalloc.so.2"),
    ],
)
def test_what_the_environment_says_stands(alone, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not host_memory.keep()
    assert not alone


def test_other_c_libraries_are_left_alone(alone, monkeypatch):
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: ("", ""))
    assert not host_memory.keep()
    assert not alone


@pytest.mark.parametrize("platforms", ["cuda,cpu", "tpu"])
def test_where_an_accelerator_is_asked_for_nothing_changes(alone, monkeypatch, platforms):
    asks_for(monkeypatch, platforms)
    assert not host_memory.keep()
    assert not alone


def test_where_an_accelerator_may_be_found_nothing_changes(alone, monkeypatch):
    asks_for(monkeypatch, None)
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: ["xla_cuda12"])
    assert not host_memory.keep()
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: object())
    assert not host_memory.keep()
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: None)
    assert host_memory.keep()


def test_a_library_that_refuses_is_told(alone, monkeypatch, caplog):
    monkeypatch.setattr(host_memory, "_OPTIONS", ())
    assert host_memory.keep()

    class Refuses:
        def __init__(self, _):
            pass

        def mallopt(self, option, value):
            return 0

    monkeypatch.setattr(host_memory, "_OPTIONS", ((-4, 0),))
    monkeypatch.setattr(host_memory.ctypes, "CDLL", Refuses)
    assert not host_memory.keep()
    assert "does not keep freed memory" in caplog.text
