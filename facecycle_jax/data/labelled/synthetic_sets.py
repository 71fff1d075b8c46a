"""Drawn faces for evaluation, where identity, motion and scene are combined freely, with every true answer.

Pictures are uint8 [N, S, S, 3], RGB; parameters are dicts of float32 [N] by name, as in
`synthetic`.
"""

import functools
from typing import Any

import jax
import numpy as np

from facecycle_jax.data.sources.synthetic import (
    Parameters,
    mean_identity,
    neutral_motion,
    render,
    sample_identity,
    sample_motion,
    sample_scene,
)

Arrays = dict[str, np.ndarray]


# Pictures drawn at once: one compilation for sets of any number.
_BATCH = 8


@functools.partial(jax.jit, static_argnames=("size",))
def _draw_batch(identity: Any, motion: Any, scene: Any, *, size: int) -> jax.Array:
    """Draws one picture for each set of parameters."""
    return jax.vmap(functools.partial(render, size=size))(identity, motion, scene)


def render_each(identity: Any, motion: Any, scene: Any, *, size: int) -> np.ndarray:
    """Renders one image uint8 [N, S, S, 3] for each of N sets of parameters (dicts of [N])."""
    parameters = jax.tree.map(np.asarray, (identity, motion, scene))
    count = len(jax.tree.leaves(parameters)[0])
    drawn = []
    for start in range(0, count, _BATCH):
        places = np.minimum(np.arange(start, start + _BATCH), count - 1)
        batch = jax.tree.map(lambda value, places=places: value[places], parameters)
        drawn.append(np.asarray(_draw_batch(*batch, size=size)))
    return np.concatenate(drawn)[:count]


@functools.partial(jax.jit, static_argnames=("kind", "count"))
def _sample(key: jax.Array, *, kind: str, count: int) -> Parameters:
    """Draws parameters [count]."""
    draw = {
        "identity": sample_identity,
        "motion": sample_motion,
        "scene": sample_scene,
    }[kind]
    return jax.vmap(draw)(jax.random.split(key, count))


def _repeat(parameters: Parameters, count: int) -> Arrays:
    """Repeats single parameters `count` times."""
    return {
        name: np.repeat(np.asarray(value)[None], count)
        for name, value in parameters.items()
    }


def _each(parameters: Arrays | Parameters, times: int) -> Arrays:
    """Repeats every element of [N] parameters `times` times, [N * times]."""
    return {
        name: np.repeat(np.asarray(value), times) for name, value in parameters.items()
    }


def _others(parameters: Arrays | Parameters) -> Arrays:
    """Exchanges both halves of [2 N] parameters."""
    return {
        name: np.roll(np.asarray(value), len(value) // 2)
        for name, value in parameters.items()
    }


def synthetic_labelled(
    seed: int, *, people: int, frames: int, size: int
) -> dict[str, Any]:
    """Draws people in frames that each have their own motion, light and background.

    Nothing but the face tells who it is, unlike in a track, whose background does.

    Args:
      seed: another seed gives other people.
      people: how many.
      frames: of each.
      size: side in pixels.

    Returns:
      frames uint8 [F, S, S, 3] and identity int32 [F], person by person; motion {name:
      [F]}.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    count = people * frames
    identity = _each(_sample(keys[0], kind="identity", count=people), frames)
    motion = _sample(keys[1], kind="motion", count=count)
    drawn = render_each(
        identity, motion, _sample(keys[2], kind="scene", count=count), size=size
    )
    return {
        "frames": drawn,
        "identity": np.repeat(np.arange(people, dtype=np.int32), frames),
        "motion": {name: np.asarray(value) for name, value in motion.items()},
    }


def synthetic_exchange(seed: int, *, pairs: int, size: int) -> dict[str, np.ndarray]:
    """Draws pairs of people, and the pictures that exchanging motion or identity between them should give.

    Args:
      seed: another seed gives other people.
      pairs: how many.
      size: side in pixels.

    Returns:
      uint8 [2 pairs, S, S, 3] by name, the second half the partners of the first:
      frames; neutral, each person's neutral face; reexpressed, the person with the
      partner's motion in the own scene; reidentified, the person's neutral face in the
      partner's scene; reidentified_reexpressed, that with the partner's motion; and
      partner_neutral, the partner's neutral face.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    identity, motion, scene = (
        _sample(key, kind=kind, count=2 * pairs)
        for key, kind in zip(keys, ("identity", "motion", "scene"), strict=True)
    )
    still = _repeat(neutral_motion(), 2 * pairs)
    wanted = {
        "frames": (identity, motion, scene),
        "neutral": (identity, still, scene),
        "reexpressed": (identity, _others(motion), scene),
        "reidentified": (identity, still, _others(scene)),
        "reidentified_reexpressed": (identity, _others(motion), _others(scene)),
    }
    drawn = {
        name: render_each(*parameters, size=size) for name, parameters in wanted.items()
    }
    return drawn | {"partner_neutral": np.roll(drawn["neutral"], pairs, axis=0)}


def synthetic_one_scene(
    seed: int, *, scenes: int, people: int, size: int
) -> dict[str, np.ndarray]:
    """Draws several people in one light and before one background, for several scenes.

    Args:
      seed: another seed gives other people.
      scenes: how many.
      people: in each scene, others in every one.
      size: side in pixels.

    Returns:
      uint8 [scenes, people, S, S, 3] by name: frames, each with its own motion, and
      neutral; and mean uint8 [scenes, S, S, 3], the true mean face.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    count = scenes * people
    identity = _sample(keys[0], kind="identity", count=count)
    motion = _sample(keys[1], kind="motion", count=count)
    scene = _sample(keys[2], kind="scene", count=scenes)
    everyone = _each(scene, people)
    shape = (scenes, people, size, size, 3)
    still = _repeat(neutral_motion(), count)
    return {
        "frames": render_each(identity, motion, everyone, size=size).reshape(shape),
        "neutral": render_each(identity, still, everyone, size=size).reshape(shape),
        "mean": render_each(
            _repeat(mean_identity(), scenes),
            _repeat(neutral_motion(), scenes),
            scene,
            size=size,
        ),
    }
