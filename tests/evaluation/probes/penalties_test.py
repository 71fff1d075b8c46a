"""The choice of a penalty, inside a growing grid or reported at its end."""

import math

import pytest

from facecycle_jax.evaluation.probes.penalties import (
    WEAKEST,
    choose_penalty,
    edge_warnings,
)

GRID = (1.0, 0.1, 0.01)


def scored(function):
    """Returns a score, and the list of penalties that it was computed of."""
    calls = []

    def score(path):
        calls.extend(path)
        return {strength: function(strength) for strength in path}

    return score, calls


@pytest.mark.parametrize("best", [100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4])
def test_the_grid_grows_until_the_best_is_inside(best):
    score, calls = scored(lambda strength: -abs(math.log10(strength / best)))
    choice = choose_penalty(GRID, score)
    assert choice.strength == best
    assert not choice.at_edge
    assert min(choice.validation) < best < max(choice.validation)
    assert list(choice.validation) == sorted(choice.validation, reverse=True)
    # None is computed twice.
    assert len(calls) == len(set(calls)) == len(choice.validation)


def test_a_choice_at_the_limit_of_the_grid_is_marked():
    score, calls = scored(lambda strength: -strength)
    choice = choose_penalty(GRID, score)
    assert choice.strength == WEAKEST
    assert choice.at_edge
    assert len(calls) == 7
    assert choose_penalty(GRID, score, grow=False).at_edge


def test_of_equally_good_penalties_one_inside_is_taken_and_the_strongest_of_these():
    score, calls = scored(lambda strength: 0.5)
    choice = choose_penalty(GRID, score)
    assert choice.strength == 1.0
    assert not choice.at_edge
    # The grid grows only once on a plateau.
    assert calls == [1.0, 0.1, 0.01, 10.0]


def test_a_single_penalty_is_used_without_a_score():
    score, calls = scored(lambda strength: 0.0)
    assert choose_penalty((0.1,), score) == (0.1, {}, False)
    assert not calls
    for wrong in ((), (0.1, 0.0)):
        with pytest.raises(ValueError, match="penalties must be above 0"):
            choose_penalty(wrong, score)


def test_rows_at_an_end_of_the_grid_have_a_warning():
    details = {
        "lbp": {"strength": 1e4, "at_edge": True},
        "hog": {"strength": 0.1, "at_edge": False},
        "x": {},
    }
    (sentence,) = edge_warnings(details)
    assert sentence.startswith("The penalty of lbp (10000) is at an end of those tried")
    assert edge_warnings({"hog": details["hog"]}) == ()
