"""What the command lines of the benchmarks share: lists, ranges and PyTorch."""

from collections.abc import Mapping, Sequence

from facecycle_jax.errors import UserError

INSTALL_TORCH = "PyTorch is not installed: pip install 'facecycle_jax[torch]'"


def split(
    text: str,
    known: Sequence[str],
    option: str,
    *,
    separator: str = ",",
    may_be_empty: bool = False,
) -> list[str]:
    """Splits the value of an option that lists names.

    Args:
      text: the value.
      known: the names that exist.
      option: the option's name, for the message.
      separator: what stands between the names.
      may_be_empty: whether a value without names is allowed.

    Returns:
      The names in their order, without empty ones.

    Raises:
      UserError: If a name is unknown, or there is none where one is needed.
    """
    stripped = [part.strip() for part in text.split(separator)]
    chosen = [part for part in stripped if part]

    for name in chosen:
        if name not in known:
            names = f"{separator} ".join(known)
            raise UserError(
                f"{option} takes {names}, separated by {separator!r}, got {name!r}."
            )
    if not chosen and not may_be_empty:
        raise UserError(f"{option} names nothing; choose of {', '.join(known)}.")
    return chosen


def check_least(values: Mapping[str, int], *, least: int = 1) -> None:
    """Checks that whole numbers are large enough.

    Args:
      values: the numbers by their options.
      least: smallest value.

    Raises:
      UserError: If one is smaller.
    """
    for option, value in values.items():
        if value < least:
            raise UserError(f"{option} must be at least {least}, got {value}.")


def check_width(width: float) -> None:
    """Checks the width of the networks.

    Args:
      width: multiplier on all channels.

    Raises:
      UserError: If it is not a positive, finite number.
    """
    if not 0 < width < float("inf"):
        raise UserError(f"--width must be above 0, got {width:g}.")


def has_torch() -> bool:
    """Checks whether PyTorch is installed, and imports it if it is."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True
