"""Checks of the types of numbers that users pass to a model.

Without them, a wrong type fails deep in numpy or JAX with a message that does not name
the argument.
"""

from typing import Any

import numpy as np

from facecycle_jax.errors import UserError, shorten


def check_number(value: Any, *, name: str) -> None:
    """Checks that a value is one real number.

    Args:
      value: of Python, numpy or JAX.
      name: the argument, for the message.

    Raises:
      UserError: If it is a string, a bool, None, an array of several numbers or
        anything else.
    """
    if _kind(value) not in ("i", "u", "f"):
        raise UserError(f"{name} must be one number, got {shorten(value)}.")


def check_whole_number(value: Any, *, name: str) -> None:
    """Checks that a value is one whole number.

    Args:
      value: of Python, numpy or JAX; 2.0 is none.
      name: the argument, for the message.

    Raises:
      UserError: If it is anything else.
    """
    if _kind(value) not in ("i", "u"):
        raise UserError(f"{name} must be a whole number, got {shorten(value)}.")


def _kind(value: Any) -> str:
    """Returns numpy's letter for the kind of a single value, or '' for several."""
    # Lists are refused first, because numpy raises errors for uneven ones.
    if isinstance(value, str | bytes | list | tuple | dict | set):
        return ""

    array = np.asarray(value)
    return array.dtype.kind if array.ndim == 0 else ""
