"""How near drawn faces come to the truth, which only the synthetic faces know.

Errors are mean absolute differences of pixel values in 0..1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from facecycle_jax.data import synthetic_tracks

Draw = Callable[[np.ndarray], Mapping[str, Any]]
# People of this seed offset are in no run's training data, whose seeds are small.
UNSEEN = 1_000_003


def compare_with_truth(
    draw: Draw, *, seed: int, size: int, people: int = 32
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compares neutral and mean faces with the true ones of people never trained on.

    Args:
      draw: pictures uint8 [N, S, S, 3] to `neutral` and, of stage 2, `mean_face`, likewise.
      seed: of the training run; the people drawn here are others.
      size: side of the pictures in pixels.
      people: how many, with two frames each.

    Returns:
      Mean absolute differences, parts of 1. neutral_before: a frame to the person's true neutral face;
      neutral_after: the drawn neutral face to it; frames_apart: two frames of a person; neutral_apart:
      the neutral faces drawn from them; and of stage 2 mean_before: the drawn neutral face to the true
      mean face in that person's light; mean_true_neutral: the true neutral face to it; mean_after: the drawn
      mean face to it. And uint8 pictures [people, S, S, 3] by name: input, neutral, true neutral, and mean,
      true mean.
    """
    truth = synthetic_tracks(seed + UNSEEN, identities=people, frames_per_track=2, size=size)
    frames = truth["frames"]
    drawn = {name: np.asarray(picture) for name, picture in draw(frames).items()}
    neutral, true_neutral = drawn["neutral"], np.repeat(truth["neutral"], 2, axis=0)
    figures = {
        "neutral_before": difference(frames, true_neutral),
        "neutral_after": difference(neutral, true_neutral),
        "frames_apart": difference(frames[0::2], frames[1::2]),
        "neutral_apart": difference(neutral[0::2], neutral[1::2]),
    }
    pictures = {"input": frames[0::2], "neutral": neutral[0::2], "true neutral": truth["neutral"]}
    if "mean_face" in drawn:
        true_mean = np.repeat(truth["mean"], 2, axis=0)
        figures["mean_before"] = difference(neutral, true_mean)
        figures["mean_true_neutral"] = difference(true_neutral, true_mean)
        figures["mean_after"] = difference(drawn["mean_face"], true_mean)
        pictures |= {"mean": drawn["mean_face"][0::2], "true mean": truth["mean"]}
    return figures, pictures


def describe_truth(figures: Mapping[str, float]) -> str:
    """Words the figures of `compare_with_truth`, one line each.

    Args:
      figures: by the names given there.

    Returns:
      Lines without a final line break.
    """
    lines = [
        f"neutral face, error against the truth: input {figures['neutral_before']:.3f}, "
        f"drawn {figures['neutral_after']:.3f}",
        f"two frames of a person, difference: input {figures['frames_apart']:.3f}, "
        f"neutral faces drawn from them {figures['neutral_apart']:.3f}",
    ]
    if "mean_after" in figures:
        lines.append(
            f"mean face, error against the truth: drawn neutral {figures['mean_before']:.3f}, "
            f"drawn mean {figures['mean_after']:.3f}"
        )
    return "\n".join(lines)


def difference(one: Any, other: Any) -> float:
    """Computes the mean absolute difference of uint8 pictures of one shape, parts of 1."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean() / 255)
