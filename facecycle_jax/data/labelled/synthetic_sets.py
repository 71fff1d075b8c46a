"""Synthetic faces for evaluation: free combinations of identity, motion and scene.

Every true answer is therefore known. Images are uint8 [N, S, S, 3], RGB. Parameters are
dicts of float32 [N] by name, as in `synthetic`.
"""

import functools
from typing import Any

import jax
import numpy as np

from facecycle_jax.data.sources.synthetic import (
    Parameters,
    mean_identity,
    neutral_motion,
    render_each,
    repeat_each,
    sample_identity,
    sample_motion,
    sample_scene,
)

Arrays = dict[str, np.ndarray]


@functools.partial(jax.jit, static_argnames=("kind", "count"))
def _sample(key: jax.Array, *, kind: str, count: int) -> Parameters:
    """Draws parameters, {name: [count]}."""
    draw = {
        "identity": sample_identity,
        "motion": sample_motion,
        "scene": sample_scene,
    }[kind]
    return jax.vmap(draw)(jax.random.split(key, count))


def _others(parameters: Arrays | Parameters) -> Arrays:
    """Exchanges both halves of [2 N] parameters, so that partners swap places."""
    return {
        name: np.roll(np.asarray(value), len(value) // 2)
        for name, value in parameters.items()
    }


def synthetic_labelled(
    seed: int, *, people: int, frames: int, size: int
) -> dict[str, Any]:
    """Renders people in frames with their own motion, lighting and background each.

    Only the face shows who a person is. In a track the background would, too.

    Args:
      seed: another seed gives other people.
      people: number of people.
      frames: number of frames of each.
      size: side in pixels.

    Returns:
      frames, uint8 [F, S, S, 3], and identity, int32 [F], person by person; motion,
      {name: [F]}.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    count = people * frames

    identity = repeat_each(_sample(keys[0], kind="identity", count=people), frames)
    motion = _sample(keys[1], kind="motion", count=count)
    scene = _sample(keys[2], kind="scene", count=count)

    return {
        "frames": render_each(identity, motion, scene, size=size),
        "identity": np.repeat(np.arange(people, dtype=np.int32), frames),
        "motion": {name: np.asarray(value) for name, value in motion.items()},
    }


def synthetic_exchange(seed: int, *, pairs: int, size: int) -> dict[str, np.ndarray]:
    """Renders pairs of people and the true results of exchanging motion or identity.

    Args:
      seed: another seed gives other people.
      pairs: number of pairs.
      size: side in pixels.

    Returns:
      uint8 [2 pairs, S, S, 3] by name. The second half are the partners of the first.
      `frames` are the people, `neutral` their neutral faces, `reexpressed` the people
      with the partner's motion in their own scene, `reidentified` their neutral faces
      in the partner's scene, `reidentified_reexpressed` those with the partner's
      motion, and `partner_neutral` the partner's neutral faces.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    identity, motion, scene = (
        _sample(key, kind=kind, count=2 * pairs)
        for key, kind in zip(keys, ("identity", "motion", "scene"), strict=True)
    )
    still = repeat_each(neutral_motion(), 2 * pairs)

    # Identity, motion and scene of every result.
    wanted = {
        "frames": (identity, motion, scene),
        "neutral": (identity, still, scene),
        "reexpressed": (identity, _others(motion), scene),
        "reidentified": (identity, still, _others(scene)),
        "reidentified_reexpressed": (identity, _others(motion), _others(scene)),
    }
    rendered = {
        name: render_each(*parameters, size=size) for name, parameters in wanted.items()
    }
    partner_neutral = np.roll(rendered["neutral"], pairs, axis=0)

    return rendered | {"partner_neutral": partner_neutral}


def synthetic_one_scene(
    seed: int, *, scenes: int, people: int, size: int
) -> dict[str, np.ndarray]:
    """Renders several people under one lighting and before one background, repeatedly.

    Args:
      seed: another seed gives other people.
      scenes: number of scenes.
      people: number of people in each scene; every scene has others.
      size: side in pixels.

    Returns:
      `frames`, each with its own motion, and `neutral`, uint8 [scenes, people, S, S,
      3], and `mean`, uint8 [scenes, S, S, 3], the true mean face.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    count = scenes * people

    identity = _sample(keys[0], kind="identity", count=count)
    motion = _sample(keys[1], kind="motion", count=count)
    scene = _sample(keys[2], kind="scene", count=scenes)
    everyone = repeat_each(scene, people)
    still = repeat_each(neutral_motion(), count)

    # Rendered as one row of images, then grouped by scene.
    shape = (scenes, people, size, size, 3)
    frames = render_each(identity, motion, everyone, size=size)
    neutral = render_each(identity, still, everyone, size=size)

    mean = render_each(
        repeat_each(mean_identity(), scenes),
        repeat_each(neutral_motion(), scenes),
        scene,
        size=size,
    )

    return {
        "frames": frames.reshape(shape),
        "neutral": neutral.reshape(shape),
        "mean": mean,
    }
