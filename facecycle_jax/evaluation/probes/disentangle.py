"""How near drawn faces come to the truth where identity and motion are parted and exchanged.

Pictures uint8 [N, S, S, 3] of drawn faces whose every true answer is known; differences
are mean absolute ones of pixel values in parts of 1. Each figure has a reference beside
it: what one gets without a model.
"""

from typing import Any, Protocol

import numpy as np

from facecycle_jax.data.labelled.synthetic_sets import (
    synthetic_exchange,
    synthetic_one_scene,
)
from facecycle_jax.data.sources.synthetic_truth import (
    UNSEEN,
    compare_with_truth,
    difference,
)
from facecycle_jax.evaluation.quantity import Figure


class DrawingModel(Protocol):
    """What is judged; pictures uint8 [N, S, S, 3]."""

    has_identity: bool

    def neutral(self, pictures: Any) -> Any:
        """Draws neutral faces."""

    def mean_face(self, pictures: Any) -> Any:
        """Draws mean faces."""

    def translate(self, source: Any, driver: Any) -> Any:
        """Exchanges motion and identity of pairs, [N, 2, ...] by name."""


def judge_pictures(
    model: DrawingModel, *, seed: int, size: int, people: int = 32
) -> tuple[dict[str, Figure], dict[str, np.ndarray]]:
    """Compares drawn neutral, mean and translated faces with the true ones.

    Args:
      model: what draws.
      seed: of the people, who are in no training data.
      size: side of the pictures in pixels.
      people: how many.

    Returns:
      Figures by name, and pictures uint8 [N, S, S, 3] for a panel.
    """

    def draw(frames: np.ndarray) -> dict[str, np.ndarray]:
        drawn = {"neutral": model.neutral(frames)}
        return drawn | (
            {"mean_face": model.mean_face(frames)} if model.has_identity else {}
        )

    truth, panel = compare_with_truth(draw, seed=seed, size=size, people=people)
    figures = {
        "neutral face to the true one": Figure(
            truth["neutral_after"],
            truth["neutral_before"],
            "the input to the true one",
            "difference",
        ),
        "neutral faces of two frames of a person": Figure(
            truth["neutral_apart"],
            truth["frames_apart"],
            "the two frames",
            "difference",
        ),
    }
    if model.has_identity:
        figures["mean face to the true one"] = Figure(
            truth["mean_after"],
            truth["mean_true_neutral"],
            "the true neutral face to it",
            "difference",
        )
        figures |= _mean_faces(model, seed, size, people)
    moved, pictures = _exchanges(model, seed, size, people)
    return figures | moved, panel | pictures


def _mean_faces(
    model: DrawingModel, seed: int, size: int, people: int
) -> dict[str, Figure]:
    """Measures how much mean faces of different people in one scene differ, where they should not."""
    scenes = max(2, people // 8)
    truth = synthetic_one_scene(seed + UNSEEN + 1, scenes=scenes, people=8, size=size)
    flat = truth["frames"].reshape(-1, size, size, 3)
    mean = np.asarray(model.mean_face(flat)).reshape(truth["frames"].shape)
    return {
        "spread of mean faces over people in one scene": Figure(
            _spread(mean),
            _spread(truth["neutral"]),
            "spread of the true neutral faces",
            "difference",
        )
    }


def _spread(pictures: np.ndarray) -> float:
    """Root mean variance over people [scenes, people, S, S, 3], parts of 1."""
    return float(
        np.sqrt((pictures.astype(np.float32) / 255).var(axis=1, ddof=1).mean())
    )


def _exchanges(
    model: DrawingModel, seed: int, size: int, people: int
) -> tuple[dict[str, Figure], dict[str, np.ndarray]]:
    """Compares translated faces with the truly drawn ones."""
    pairs = max(2, people // 2)
    truth = synthetic_exchange(seed + UNSEEN + 2, pairs=pairs, size=size)
    frames = truth["frames"]
    result = model.translate(frames[:pairs], frames[pairs:])
    drawn = {
        name: np.concatenate([value[:, 0], value[:, 1]])
        for name, value in result.items()
        if name in truth
    }
    figures = {
        "face with another's motion to the true one": Figure(
            difference(drawn["reexpressed"], truth["reexpressed"]),
            difference(frames, truth["reexpressed"]),
            "the input to the true one",
            "difference",
        )
    }
    if model.has_identity:
        figures["identity on another's mean face to the true one"] = Figure(
            difference(drawn["reidentified"], truth["reidentified"]),
            difference(truth["partner_neutral"], truth["reidentified"]),
            "the other's true neutral face to it",
            "difference",
        )
        both = "reidentified_reexpressed"
        figures[
            "identity on another's mean face, with the other's motion, to the true one"
        ] = Figure(
            difference(drawn[both], truth[both]),
            difference(np.roll(frames, pairs, axis=0), truth[both]),
            "the other's frame to it",
            "difference",
        )
    pictures = {"other": frames[pairs:], "other's motion": drawn["reexpressed"][:pairs]}
    pictures |= {
        "source": frames[:pairs],
        "true, other's motion": truth["reexpressed"][:pairs],
    }
    return figures, pictures
