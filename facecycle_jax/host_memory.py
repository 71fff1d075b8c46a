"""Memory that a step on the CPU frees, kept for the next step.

XLA's CPU backend asks for a step's memory anew each time and frees it at the end. glibc then gives arrays
of this size back to the system, which hands them out again page by page: 8 % of a train step.
"""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import platform
from collections.abc import Mapping

import jax

log = logging.getLogger(__name__)
# 0 leaves the C library's memory as it is.
VARIABLE = "FACECYCLE_KEEP_MEMORY"
# Parameters of mallopt (malloc.h) and what is asked for: nothing by mmap, which is undone by every free;
# a heap that never shrinks; one heap for all threads, since those of single threads hold 64 MB at most.
_OPTIONS = ((-4, 0), (-1, -1), (-8, 1))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


def keep() -> bool:
    """Has the C library keep freed memory for this process; call it before JAX is first used.

    The process then holds the most memory that it ever needed at a time until it ends. Nothing is changed
    where JAX can find an accelerator, which has memory of its own; where the C library is not glibc; where
    the environment sets glibc's allocator (MALLOC_..., GLIBC_TUNABLES) or puts another in its place
    (LD_PRELOAD), or FACECYCLE_KEEP_MEMORY is 0.

    Returns:
      Whether freed memory is kept.
    """
    if os.environ.get(VARIABLE) == "0" or _is_set(os.environ) or not _cpu_alone():
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = all(libc.mallopt(option, value) for option, value in _OPTIONS)
    if not kept:
        log.warning("The C library does not keep freed memory: steps on the CPU are a few percent slower.")
    return kept


def _is_set(environment: Mapping[str, str]) -> bool:
    """Returns whether someone chose an allocator or its ways."""
    return (
        any(name.startswith("MALLOC_") for name in environment)
        or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
        or "malloc" in environment.get("LD_PRELOAD", "")
    )


def _cpu_alone() -> bool:
    """Returns whether JAX will find nothing but the CPU; asking JAX itself would start it."""
    named = jax.config.jax_platforms  # type: ignore[attr-defined]
    if named:
        return set(named.split(",")) == {"cpu"}
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
