"""What the command lines of the benchmarks share: lists, ranges and PyTorch."""

from collections.abc import Mapping, Sequence

from facecycle_jax.errors import UserError

INSTALL_TORCH = "PyTorch is not installed: pip install 'facecycle_jax[torch]'"


def split(
    text: str,
    known: Sequence[str],
    option: str,
    *,
    by: str = ",",
    may_be_empty: bool = False,
) -> list[str]:
    """Splits the value of an option that lists names.

    Args:
      text: the value.
      known: the names there are.
      option: its name, for the message.
      by: what separates the names.
      may_be_empty: whether no name is a value too.

    Returns:
      The names in their order, without empty ones.

    Raises:
      UserError: If a name is unknown or there is none.
    """
    chosen = [part.strip() for part in text.split(by) if part.strip()]
    for part in chosen:
        if part not in known:
            raise UserError(
                f"{option} takes {f'{by} '.join(known)}, separated by {by!r}, got "
                f"{part!r}."
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
      UserError: If it is no positive number.
    """
    if not 0 < width < float("inf"):
        raise UserError(f"--width must be above 0, got {width:g}.")


def has_torch() -> bool:
    """Whether PyTorch is installed; imports it if so."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True
