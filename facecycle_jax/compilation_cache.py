"""The cache of compiled programs on disk, which speeds up later starts."""

import logging
import os
import pathlib

import jax

log = logging.getLogger(__name__)
# Environment variable that overrides the default directory; empty means no cache.
VARIABLE = "FACECYCLE_COMPILATION_CACHE"
# The default directory of a user without a home folder, as written for messages.
_UNKNOWN_HOME = "~/.cache/facecycle_jax"


def default_directory() -> str:
    """Returns the directory of the cache.

    It is set by this package's environment variable or by JAX's, in this order. Else it
    lies in the user's cache directory. Without a home folder it is a path that `enable`
    refuses with a warning.
    """
    for name in (VARIABLE, "JAX_COMPILATION_CACHE_DIR"):
        if name in os.environ:
            return os.environ[name]

    return str((user_cache() or pathlib.Path(_UNKNOWN_HOME)) / "xla")


def user_cache() -> pathlib.Path | None:
    """Returns this package's directory in the user's cache directory.

    It is None for a user without a home folder, as in some containers.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return pathlib.Path(given) / "facecycle_jax"

    try:
        return pathlib.Path.home() / ".cache" / "facecycle_jax"
    except RuntimeError:
        return None


def enable(directory: str) -> bool:
    """Keeps programs that take over a second to compile in a directory.

    Call it before anything compiles. The key of an entry includes the program, JAX's
    version, the compiler's options and the device, so a changed configuration or
    machine compiles anew. Nothing is ever removed; delete the directory to free its
    space.

    Args:
      directory: local or gs://, created if missing. Empty disables the cache.

    Returns:
      Whether programs are kept. If the directory cannot be written, they are not, and a
      warning is logged.
    """
    if not directory:
        jax.config.update("jax_compilation_cache_dir", None)
        return False

    if "://" not in directory:
        try:
            # An unknown home folder is a RuntimeError, a zero byte a ValueError.
            path = pathlib.Path(directory).expanduser()
            path.mkdir(parents=True, exist_ok=True)
            writable = os.access(path, os.W_OK)
        except (OSError, RuntimeError, ValueError):
            writable = False

        if not writable:
            log.warning(
                "Compiled programs are not kept: %s cannot be written.", directory
            )
            return False
        directory = str(path)

    jax.config.update("jax_compilation_cache_dir", directory)
    return True
