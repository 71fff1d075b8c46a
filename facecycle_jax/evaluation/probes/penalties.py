"""The choice of a probe's penalty from a growing grid.

The grid grows while its best value is at an end. A grid that ends too early makes a
probe worse than it could be, baselines in particular.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from facecycle_jax.errors import UserError

# Factor between the end of a grid and the next value.
STEP = 10.0
# Values beyond which no grid grows.
WEAKEST = 1e-6
STRONGEST = 1e4


class Choice(NamedTuple):
    """A chosen penalty.

    Attributes:
      strength: the penalty.
      validation: score by penalty, the strongest first. Empty if there was no choice.
      at_edge: whether the penalty is at an end of the grid, so that a value beyond it
        may be better.
    """

    strength: float
    validation: dict[float, float]
    at_edge: bool


def choose_penalty(
    strengths: Sequence[float],
    score: Callable[[Sequence[float]], Mapping[float, float]],
    *,
    grow: bool = True,
) -> Choice:
    """Chooses the penalty of the highest score.

    Args:
      strengths: initial penalties, above 0. A single one is returned without a score.
      score: computes the score of each given penalty; higher is better.
      grow: whether to try penalties beyond an end of the grid while the end is the
        best.

    Returns:
      The choice. Among equally good penalties, those inside the grid are preferred, and
      of these the strongest.

    Raises:
      UserError: If there are no penalties, or one is 0 or less.
    """
    if not strengths or min(strengths) <= 0:
        raise UserError(f"penalties must be above 0, got {tuple(strengths)}.")
    path = sorted(set(strengths), reverse=True)
    if len(path) == 1:
        return Choice(strength=path[0], validation={}, at_edge=False)

    # The grid grows by one value at a time, until that one is no better.
    scores = dict(score(path))
    while grow:
        best = max(scores, key=lambda strength: (scores[strength], strength))
        following = _beyond(best, scores)
        if following is None:
            break
        scores |= score([following])
        if scores[following] <= scores[best]:
            break

    # A value at an end is chosen only if it is strictly better than all inside.
    ends = (min(scores), max(scores))
    best = max(
        scores, key=lambda strength: (scores[strength], strength not in ends, strength)
    )
    ordered = {strength: scores[strength] for strength in sorted(scores, reverse=True)}
    return Choice(strength=best, validation=ordered, at_edge=best in ends)


def _beyond(strength: float, grid: Mapping[float, float]) -> float | None:
    """Computes the next penalty beyond an end of the grid.

    Returns:
      The penalty, or None if `strength` is not an end or the grid may not grow further.
    """
    if strength == max(grid):
        following = strength * STEP
    elif strength == min(grid):
        following = strength / STEP
    else:
        return None

    # Rounded, so that 1e-5 / 10 is 1e-6.
    following = float(f"{following:.9g}")
    return following if WEAKEST <= following <= STRONGEST else None


def edge_warnings(details: Mapping[str, Mapping[str, object]]) -> tuple[str, ...]:
    """Warns of rows whose penalty is at an end of its grid.

    Args:
      details: by row, with `strength` and `at_edge` if a penalty was chosen.

    Returns:
      One sentence for the report, or none.
    """
    names = [
        f"{row} ({chosen['strength']:g})"
        for row, chosen in details.items()
        if chosen.get("at_edge")
    ]
    if not names:
        return ()
    return (
        f"The penalty of {', '.join(names)} is at an end of those tried: "
        "a value beyond it may be better.",
    )
