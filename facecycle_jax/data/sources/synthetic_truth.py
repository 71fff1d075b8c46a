"""Comparison of generated faces with the truth, which only synthetic faces have.

Errors are mean absolute differences of pixel values in 0..1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from facecycle_jax.data import synthetic_tracks
from facecycle_jax.data.sources.synthetic import render_each

Draw = Callable[[np.ndarray], Mapping[str, Any]]
# Images of sources and drivers to the sources with the motion of the drivers.
Reexpress = Callable[[np.ndarray, np.ndarray], Any]
# Added to a run's seed. No run trains on these people, because its seed is small.
UNSEEN = 1_000_003
# People of a comparison, unless it says otherwise.
PEOPLE = 32

# Row of the table: figure without a model, figure of the model, what it means.
_ROWS = {
    "neutral face, error": (
        "neutral_before",
        "neutral_after",
        "Distance to the person's true face, at rest and from the front; without a "
        "model: of the input.",
    ),
    "neutral faces, difference": (
        "frames_apart",
        "neutral_apart",
        "Two images of one person should give the same neutral face; without a model: "
        "the two inputs.",
    ),
    "mean face, error": (
        "mean_true_neutral",
        "mean_after",
        "Distance to the true mean face; without a model: of the person's true neutral "
        "face.",
    ),
    "mean faces, difference": (
        "neutral_people_apart",
        "mean_people_apart",
        "Two people should give the same mean face; without a model: their true "
        "neutral faces.",
    ),
    "exchanged motion, error": (
        "exchange_before",
        "exchange_after",
        "Distance to the person in another's pose and expression; without a model: of "
        "the input.",
    ),
}


def compare_with_truth(
    draw: Draw,
    *,
    seed: int,
    size: int,
    people: int = PEOPLE,
    scene_variation: float = 1.0,
    motion_variation: float = 1.0,
    reexpress: Reexpress | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compares generated faces with the true ones of people never trained on.

    Args:
      draw: maps images, uint8 [N, S, S, 3], to `neutral` and, in stage 2, `mean_face`
        of the same shape.
      seed: seed of the training run; the people rendered here are others.
      size: side of the images in pixels.
      people: number of people, with two frames each.
      scene_variation: variation of lighting and background, see `synthetic_tracks`.
      motion_variation: variation of poses and expressions.
      reexpress: maps sources and drivers, both uint8 [N, S, S, 3], to sources with the
        motion of the drivers; None: no exchange of motion.

    Returns:
      Figures by name, and images, uint8 [people, S, S, 3], by name. Figures are mean
      absolute differences, as fractions of full brightness:

      neutral_before: from a frame to the person's true neutral face.
      neutral_after: from the generated neutral face to it.
      frames_apart: between two frames of a person.
      neutral_apart: between the neutral faces generated from them.
      mean_before: from the generated neutral face to the true mean face in that
        person's scene. This and the next four need stage 2.
      mean_true_neutral: from the true neutral face to the true mean face.
      mean_after: from the generated mean face to the true mean face.
      neutral_people_apart: between the true neutral faces of two people.
      mean_people_apart: between the mean faces generated from them.
      exchange_before: from a frame to the true face with another person's motion. This
        and the following one need `reexpress`.
      exchange_after: from the generated face to it.

      Images are input, neutral and true neutral, in stage 2 mean and true mean, and
      with `reexpress` other, other's motion and true other's motion.
    """
    truth = synthetic_tracks(
        seed + UNSEEN,
        identities=people,
        frames_per_track=2,
        size=size,
        scene_variation=scene_variation,
        motion_variation=motion_variation,
    )
    frames = truth["frames"]
    drawn = {name: np.asarray(image) for name, image in draw(frames).items()}
    neutral = drawn["neutral"]

    # One true face for each of the two frames of a person.
    true_neutral = np.repeat(truth["neutral"], 2, axis=0)

    figures = {
        "neutral_before": difference(frames, true_neutral),
        "neutral_after": difference(neutral, true_neutral),
        "frames_apart": difference(frames[0::2], frames[1::2]),
        "neutral_apart": difference(neutral[0::2], neutral[1::2]),
    }
    images = {
        "input": frames[0::2],
        "neutral": neutral[0::2],
        "true neutral": truth["neutral"],
    }

    if "mean_face" in drawn:
        true_mean = np.repeat(truth["mean"], 2, axis=0)
        mean = drawn["mean_face"][0::2]
        figures["mean_before"] = difference(neutral, true_mean)
        figures["mean_true_neutral"] = difference(true_neutral, true_mean)
        figures["mean_after"] = difference(drawn["mean_face"], true_mean)
        figures["neutral_people_apart"] = difference(
            truth["neutral"], _next(truth["neutral"])
        )
        figures["mean_people_apart"] = difference(mean, _next(mean))
        images |= {"mean": mean, "true mean": truth["mean"]}

    if reexpress is not None:
        # Everyone takes the pose and expression of the next person.
        sources = frames[0::2]
        drivers = _next(sources)
        moved = np.asarray(reexpress(sources, drivers))

        motion = {name: _next(value[0::2]) for name, value in truth["motion"].items()}
        true_moved = render_each(
            truth["identity_parameters"], motion, truth["scene"], size=size
        )

        figures["exchange_before"] = difference(sources, true_moved)
        figures["exchange_after"] = difference(moved, true_moved)
        images |= {
            "other": drivers,
            "other's motion": moved,
            "true other's motion": true_moved,
        }

    return figures, images


def describe_truth(figures: Mapping[str, float]) -> str:
    """Formats the figures of `compare_with_truth` as a table.

    Args:
      figures: figures by the names given there.

    Returns:
      A heading, and a line for each row whose figures are given, with a sentence that
      explains it.
    """
    rows = {name: row for name, row in _ROWS.items() if row[1] in figures}
    width = max(len(name) for name in rows)

    lines = [f"{'':<{width}}  no model  model"]
    for name, (before, after, meaning) in rows.items():
        lines.append(
            f"{name:<{width}}  {figures[before]:8.3f}  {figures[after]:5.3f}  {meaning}"
        )

    return "\n".join(lines)


def difference(one: Any, other: Any) -> float:
    """Computes the mean absolute difference of images of one shape.

    Args:
      one: uint8 [...].
      other: uint8 of the same shape.

    Returns:
      A fraction of full brightness.
    """
    signed = np.asarray(one, np.float32) - np.asarray(other, np.float32)
    return float(np.abs(signed).mean() / 255)


def _next(of_people: np.ndarray) -> np.ndarray:
    """Assigns every person the values of the next one."""
    return np.roll(of_people, -1, axis=0)
