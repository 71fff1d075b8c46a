"""The one exception of the converters."""

from facecycle_jax.errors import UserError


class ConversionError(UserError):
    """A file cannot be converted; the message is one sentence naming the file and the reason."""


def shorten(value: object, limit: int = 80) -> str:
    """Quotes a value that comes from a foreign file, on one line and cut to a bearable length.

    Args:
      value: a string, bytes or number; of anything else only the type is named.
      limit: characters kept.

    Returns:
      Its repr in ASCII, with '...' where it was cut.
    """
    if isinstance(value, (str, bytes)):
        value = value[: limit + 1]
    elif value is not None and not isinstance(value, (int, float)):
        # The repr of a container out of a hostile file may be of any length.
        return f"a {type(value).__name__}"
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
