"""Disentanglement of identity and motion, compared with the truth of synthetic faces.

Images are uint8 [N, S, S, 3]. The true neutral, mean and translated faces of synthetic
people are known. Differences are mean absolute ones, as fractions of the pixel range.
Each figure has a reference: the figure that one gets without a model.
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


class GenerativeModel(Protocol):
    """What the evaluation needs of a model; images are uint8 [N, S, S, 3]."""

    has_identity: bool

    def neutral(self, images: Any) -> Any:
        """Generates neutral faces."""

    def mean_face(self, images: Any) -> Any:
        """Generates mean faces."""

    def translate(self, source: Any, driver: Any) -> Any:
        """Exchanges motion and identity of pairs, [N, 2, ...] by name."""


def evaluate_images(
    model: GenerativeModel, *, seed: int, size: int, people: int = 32
) -> tuple[dict[str, Figure], dict[str, np.ndarray]]:
    """Compares generated neutral, mean and translated faces with the true ones.

    Args:
      model: the model.
      seed: of the people, who are in no training data.
      size: side of the images in pixels.
      people: number of people.

    Returns:
      Figures by name, and images uint8 [N, S, S, 3] for a panel.
    """

    def generate(frames: np.ndarray) -> dict[str, np.ndarray]:
        generated = {"neutral": model.neutral(frames)}
        if model.has_identity:
            generated["mean_face"] = model.mean_face(frames)
        return generated

    truth, panel = compare_with_truth(generate, seed=seed, size=size, people=people)
    figures = {
        "neutral face to the true one": Figure(
            value=truth["neutral_after"],
            reference=truth["neutral_before"],
            meaning="the input to the true one",
            unit="difference",
        ),
        "neutral faces of two frames of a person": Figure(
            value=truth["neutral_apart"],
            reference=truth["frames_apart"],
            meaning="the two frames",
            unit="difference",
        ),
    }
    if model.has_identity:
        figures["mean face to the true one"] = Figure(
            value=truth["mean_after"],
            reference=truth["mean_true_neutral"],
            meaning="the true neutral face to it",
            unit="difference",
        )
        figures |= _mean_faces(model, seed, size, people)

    exchanged, images = _exchanges(model, seed, size, people)
    return figures | exchanged, panel | images


def _mean_faces(
    model: GenerativeModel, seed: int, size: int, people: int
) -> dict[str, Figure]:
    """Measures how much mean faces of different people in one scene differ.

    The mean face is that of the scene, so they should be equal.
    """
    scenes = max(2, people // 8)
    truth = synthetic_one_scene(seed + UNSEEN + 1, scenes=scenes, people=8, size=size)

    # [scenes, people, S, S, 3], flat for the model.
    flat = truth["frames"].reshape(-1, size, size, 3)
    mean = np.asarray(model.mean_face(flat)).reshape(truth["frames"].shape)
    return {
        "spread of mean faces over people in one scene": Figure(
            value=_spread(mean),
            reference=_spread(truth["neutral"]),
            meaning="spread of the true neutral faces",
            unit="difference",
        )
    }


def _spread(images: np.ndarray) -> float:
    """Computes the root mean variance over people, a fraction of the pixel range.

    Images are uint8 [scenes, people, S, S, 3].
    """
    variance = (images.astype(np.float32) / 255).var(axis=1, ddof=1)
    return float(np.sqrt(variance.mean()))


def _exchanges(
    model: GenerativeModel, seed: int, size: int, people: int
) -> tuple[dict[str, Figure], dict[str, np.ndarray]]:
    """Compares translated faces with the true ones."""
    pairs = max(2, people // 2)
    truth = synthetic_exchange(seed + UNSEEN + 2, pairs=pairs, size=size)
    frames = truth["frames"]

    # The model returns [pairs, 2, S, S, 3]. The truth has all first faces, then all
    # second ones.
    result = model.translate(frames[:pairs], frames[pairs:])
    generated = {
        name: np.concatenate([value[:, 0], value[:, 1]])
        for name, value in result.items()
        if name in truth
    }

    figures = {
        "face with another's motion to the true one": Figure(
            value=difference(generated["reexpressed"], truth["reexpressed"]),
            reference=difference(frames, truth["reexpressed"]),
            meaning="the input to the true one",
            unit="difference",
        )
    }
    if model.has_identity:
        figures["identity on another's mean face to the true one"] = Figure(
            value=difference(generated["reidentified"], truth["reidentified"]),
            reference=difference(truth["partner_neutral"], truth["reidentified"]),
            meaning="the other's true neutral face to it",
            unit="difference",
        )

        # Rolled by the number of pairs, each frame stands where its partner was.
        both = "reidentified_reexpressed"
        partners = np.roll(frames, pairs, axis=0)
        figures[
            "identity on another's mean face, with the other's motion, to the true one"
        ] = Figure(
            value=difference(generated[both], truth[both]),
            reference=difference(partners, truth[both]),
            meaning="the other's frame to it",
            unit="difference",
        )

    images = {
        "other": frames[pairs:],
        "other's motion": generated["reexpressed"][:pairs],
        "source": frames[:pairs],
        "true, other's motion": truth["reexpressed"][:pairs],
    }
    return figures, images
