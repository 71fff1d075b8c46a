"""Eight fake devices, set before anything uses JAX; tests of one device name it.

Nearly all the time of the suite is compilation, and nothing in it is timed: XLA's
optimisation is off, which halves that time, and fusions are made by XLA's older code
generator where it still has one, which takes a third of the rest. Programs that several
tests compile are compiled once: they are kept in a folder that goes when the suite
ends. Processes that tests start inherit this.
"""

import contextlib
import gc
import importlib.metadata
import logging
import os
import pathlib
import shutil
import tempfile
import time

os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        # XLA ends the process for a flag that it does not know.
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
        os.environ.get("XLA_FLAGS", ""),
    )
)
# The processes that share the tests share the programs, too.
os.environ["FACECYCLE_PROGRAMS_OF_TESTS"] = os.environ.get(
    "FACECYCLE_PROGRAMS_OF_TESTS"
) or tempfile.mkdtemp(prefix="facecycle_tests_")
# Nothing is kept in the user's cache.
os.environ["FACECYCLE_COMPILATION_CACHE"] = os.environ["FACECYCLE_PROGRAMS_OF_TESTS"]
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["FACECYCLE_PROGRAMS_OF_TESTS"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_of_a_module_end_with_it():
    """Clears JAX's caches after each module, as compiled programs hold memory maps.

    Linux grants a process 65,530 maps. Without this, one process for the whole suite
    would reach that limit, and XLA would die inside a compilation, of SIGSEGV or
    SIGABRT.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def garbage_of_a_module_ends_with_it():
    """Frees what a module has left, while the module's filters of warnings hold."""
    yield
    gc.collect()


@pytest.fixture
def log(caplog):
    """The package's log, which does not propagate where the program has set it up."""
    package = logging.getLogger("facecycle_jax")
    before = package.propagate
    package.propagate = True
    caplog.set_level(logging.INFO, logger="facecycle_jax")
    yield caplog
    package.propagate = before


def pytest_sessionfinish(session):
    """Removes the compiled programs, once no process needs them.

    Sessions that were interrupted leave theirs, which go when they are a day old.
    """
    if hasattr(session.config, "workerinput"):
        return

    shutil.rmtree(os.environ["FACECYCLE_PROGRAMS_OF_TESTS"], ignore_errors=True)
    for folder in pathlib.Path(tempfile.gettempdir()).glob("facecycle_tests_*"):
        # Another session may remove it meanwhile.
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)
