"""How near drawn faces come to the truth, which only the synthetic faces know.

Errors are mean absolute differences of pixel values in 0..1.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.data import synthetic_tracks
from facecycle_jax.methods import Forward
from facecycle_jax.methods.base import Tree
from facecycle_jax.ops import denormalise, normalise

# People of this seed offset are in no run's training data, whose seeds are small.
_UNSEEN = 1_000_003


def compare_with_truth(
    forward: Forward, trees: Tree, *, seed: int, size: int, people: int = 32
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compares neutral and mean faces with the true ones of people never trained on.

    Args:
      forward: the forward passes.
      trees: networks by name; with identity_encoder and normaliser the mean face is judged too.
      seed: of the training run; the people drawn here are others.
      size: side of the pictures in pixels.
      people: how many, with two frames each.

    Returns:
      Mean absolute differences, parts of 1. neutral_before: a frame to the person's true neutral face;
      neutral_after: the drawn neutral face to it; frames_apart: two frames of a person; neutral_apart:
      the neutral faces drawn from them; and of stage 2 mean_before: the drawn neutral face to the true
      mean face in that person's light; mean_after: the drawn mean face to it. And
      uint8 pictures [people, S, S, 3] by name: input, neutral, true_neutral, and mean, true_mean.
    """
    truth = synthetic_tracks(seed + _UNSEEN, identities=people, frames_per_track=2, size=size)

    @jax.jit
    def draw(trees: Tree, frames: jax.Array) -> dict[str, jax.Array]:
        pictures = normalise(frames)
        _, flow, _ = forward.motion(trees, pictures)
        neutral = forward.draw(trees, forward.features(trees, pictures), flow)
        drawn = {"neutral": neutral}
        if "normaliser" in trees:
            code = forward.identity_code(trees, pictures)
            drawn["mean"] = forward.remove_identity(trees, forward.features(trees, neutral), code)
        return {name: denormalise(picture.astype(jnp.float32)) for name, picture in drawn.items()}

    frames = truth["frames"]
    drawn = {name: np.asarray(picture) for name, picture in draw(trees, frames).items()}
    neutral, true_neutral = drawn["neutral"], np.repeat(truth["neutral"], 2, axis=0)
    figures = {
        "neutral_before": _error(frames, true_neutral),
        "neutral_after": _error(neutral, true_neutral),
        "frames_apart": _error(frames[0::2], frames[1::2]),
        "neutral_apart": _error(neutral[0::2], neutral[1::2]),
    }
    pictures = {"input": frames[0::2], "neutral": neutral[0::2], "true neutral": truth["neutral"]}
    if "mean" in drawn:
        true_mean = np.repeat(truth["mean"], 2, axis=0)
        figures["mean_before"] = _error(neutral, true_mean)
        figures["mean_after"] = _error(drawn["mean"], true_mean)
        pictures |= {"mean": drawn["mean"][0::2], "true mean": truth["mean"]}
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


def _error(one: Any, other: Any) -> float:
    """Mean absolute difference of uint8 pictures, parts of 1."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean() / 255)
