"""Which form of an operation is traced: that of the platform, or one for all.

Several operations have one form for CPUs and one for other platforms, chosen when the
program is compiled. A program that leaves JAX is not compiled by JAX, so it is traced
with the portable forms alone. These consist of JAX's own operations, without rules for
derivatives.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_forms() -> Iterator[None]:
    """Lets operations be traced in their portable form, while the context lasts.

    Functions that `jax.jit` has traced before keep their form, so trace new ones.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Checks whether operations are to be traced in their portable form."""
    return _PORTABLE.get()


def by_platform(
    *operands: Any,
    default: Callable[..., Any],
    portable: Callable[..., Any] | None = None,
    **platforms: Callable[..., Any],
) -> Any:
    """Calls the form of the platform, or the portable one within `portable_forms`.

    Args:
      *operands: arguments of the forms.
      default: the form of all other platforms.
      portable: the portable form; None: the default.
      **platforms: forms by platform, as in `jax.lax.platform_dependent`.

    Returns:
      What the form returns.
    """
    if is_portable():
        return (portable or default)(*operands)
    return lax.platform_dependent(*operands, default=default, **platforms)
