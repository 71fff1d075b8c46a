"""Compiled programs kept on disk, so that the next start of the same program need not compile."""

import logging
import os
import pathlib

import jax

log = logging.getLogger(__name__)
# Overrides the default directory; empty: no cache.
VARIABLE = "FACECYCLE_COMPILATION_CACHE"


def default_directory() -> str:
    """Returns what the environment says (our variable, then JAX's), else a folder of the user's."""
    for name in (VARIABLE, "JAX_COMPILATION_CACHE_DIR"):
        if name in os.environ:
            return os.environ[name]
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return str(pathlib.Path(root) / "facecycle_jax" / "xla")


def enable(directory: str) -> bool:
    """Keeps programs that take over a second to compile in a directory.

    Call it before anything compiles.

    What a program is looked up by includes the program, JAX's version, the compiler's
    options and the device, so a changed configuration or machine compiles anew. Nothing
    is ever removed: delete the directory to free its room.

    Args:
      directory: local or gs://; created. Empty: programs are not kept.

    Returns:
      Whether programs are kept: not where the directory cannot be written, which is
      logged.
    """
    if not directory:
        jax.config.update("jax_compilation_cache_dir", None)
        return False
    if "://" not in directory:
        path = pathlib.Path(directory).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            writable = os.access(path, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            log.warning("Compiled programs are not kept: %s cannot be written.", path)
            return False
        directory = str(path)
    jax.config.update("jax_compilation_cache_dir", directory)
    return True
