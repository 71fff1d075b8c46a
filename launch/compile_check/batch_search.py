"""Finds the largest batch that fits, in few trials, as each compiles a program."""

from collections.abc import Callable

from facecycle_jax.errors import UserError

# Whether a batch of this size fits, and the bytes that it needs (0 if not known).
Trial = Callable[[int], tuple[bool, int]]


def largest_batch(
    trial: Trial, *, start: int, limit: int, precision: float = 0.05
) -> int:
    """Finds the largest batch that fits.

    Memory grows roughly in proportion to the batch, which gives the second trial. From
    there the search goes on in steps of `precision`. A step that would leave the range
    of sizes not yet decided halves that range instead.

    Args:
      trial: tries a batch, see `Trial`.
      start: the first batch to try, at least 1.
      limit: bytes of memory.
      precision: how far below the smallest batch that does not fit the result may be,
        as a fraction of the result. 0 finds the largest batch exactly.

    Returns:
      A batch that fits; 0 if not even 1 does.

    Raises:
      UserError: If `start` is below 1.
    """
    if start < 1:
        raise UserError(f"the first batch to try must be at least 1, got {start}.")
    fits, size = trial(start)

    # The largest batch known to fit, and the smallest known not to; 0 means none yet.
    low = start if fits else 0
    high = 0 if fits else start

    # In proportion to memory, if that is known.
    guess = max(1, start * limit // size) if size else start // 2

    while not high or high - low > max(1, precision * low):
        # The guess must lie between what is known to fit and what is known not to.
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
