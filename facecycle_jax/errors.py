"""Errors that a user can mend.

A `UserError` carries one sentence that names the value or file at fault and says what
to do. Commands print that sentence alone. Every other exception is a defect of this
package and keeps its stack trace.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

# Exit status of a command that met a defect of this package (EX_SOFTWARE of
# sysexits.h).
DEFECT_EXIT = 70
# Of one that met a mistake in the command, the configuration or the data.
MISTAKE_EXIT = 2


class UserError(ValueError):
    """Invalid input: a configuration value, an argument, a file or a data set."""


class MissingExtraError(UserError, ImportError):
    """A function needs an optional package; the message names the extra to install."""


class ConversionError(UserError):
    """A file cannot be converted.

    The message is one sentence naming the file and the reason.
    """


def missing_extra(need: str, *, extra: str) -> MissingExtraError:
    """Returns the error of an optional package that is not installed.

    Args:
      need: what needs which package, such as 'Videos need PyAV'.
      extra: name of the extra that has the package.

    Returns:
      The error, to be raised.
    """
    return MissingExtraError(f"{need}: pip install 'facecycle_jax[{extra}]'.")


@contextlib.contextmanager
def importing(need: str, *, extra: str) -> Iterator[None]:
    """Names the extra in the error of an optional package that cannot be imported.

    Args:
      need: see `missing_extra`.
      extra: see `missing_extra`.

    Yields:
      Nothing, for a block of imports.

    Raises:
      MissingExtraError: If an import in the block fails.
    """
    try:
        yield
    except ImportError as error:
        raise missing_extra(need, extra=extra) from error


def check_installed(package: str, need: str, *, extra: str) -> None:
    """Checks that an optional package is installed, without importing it.

    Args:
      package: its name in an import.
      need: see `missing_extra`.
      extra: see `missing_extra`.

    Raises:
      MissingExtraError: If it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise missing_extra(need, extra=extra)


def shorten(value: object, limit: int = 80) -> str:
    """Quotes a value from a foreign file on one line, cut to a maximum length.

    Args:
      value: a string, bytes or number; for anything else only the type is named.
      limit: number of characters kept.

    Returns:
      Its repr in ASCII, with '...' where it was cut.
    """
    if isinstance(value, (str, bytes)):
        value = value[: limit + 1]
    elif value is not None and not isinstance(value, (int, float)):
        # The repr of a container from a hostile file may have any length.
        return f"a {type(value).__name__}"

    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
