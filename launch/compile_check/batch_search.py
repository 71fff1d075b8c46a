"""Finds the largest batch that fits, in few trials, as each compiles a program."""

from collections.abc import Callable

from facecycle_jax.errors import UserError

Trial = Callable[[int], tuple[bool, int]]


def largest_batch(
    trial: Trial, *, start: int, limit: int, precision: float = 0.05
) -> int:
    """Finds the largest number that fits.

    Memory grows about in proportion, which gives the second trial; from there it goes
    on in steps of `precision`, and where that leads out of what is known, the interval
    is halved.

    Args:
      trial: `trial(n) -> (whether n fits, bytes needed or 0 where that is not known)`.
      start: the first trial, at least 1.
      limit: bytes there are.
      precision: width of the last interval, parts of its lower end; 0: to the unit.

    Returns:
      A number that fits, within `precision` of one that does not; 0 if 1 does not fit.

    Raises:
      ValueError: if `start` is below 1.
    """
    if start < 1:
        raise UserError(f"the first batch to try must be at least 1, got {start}.")
    fits, size = trial(start)
    # The largest batch known to fit, and the smallest known not to; 0: none yet.
    low = start if fits else 0
    high = 0 if fits else start

    # Memory grows about in proportion.
    guess = max(1, start * limit // size) if size else start // 2
    while not high or high - low > max(1, precision * low):
        # A step from the last trial may lead out of what is still open.
        if high and not low < guess < high:
            guess = (low + high) // 2
        elif guess <= low:
            guess = low + 1

        fits, _ = trial(guess)
        step = max(1, int(precision * guess))
        if fits:
            low = guess
            guess += step
        else:
            high = guess
            guess -= step

    return low
