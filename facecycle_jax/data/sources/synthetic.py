"""Synthetic faces with exact labels.

Identity, motion and scene are separate parameters of one renderer. Images are uint8 [S,
S, 3], RGB. Parameters are dicts of float32 scalars by name. Yaw above 0 turns the face
to the image's right, pitch above 0 down, and roll above 0 clockwise, all in degrees.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.data.sources.synthetic_renderer import render_float
from facecycle_jax.devices import cpu_compiler_options
from facecycle_jax.errors import UserError

log = logging.getLogger(__name__)

Parameters = dict[str, jax.Array]
# Images rendered at once; a fixed number needs one compilation for sets of any size.
_BATCH = 8

# Name: (mean, standard deviation). Draws are truncated at two standard deviations.
IDENTITY = {
    "skin_tone": (0.42, 0.24),
    "skin_warmth": (0.0, 0.5),
    "hair_tone": (0.35, 0.3),
    "hair_red": (0.0, 0.4),
    "hair_length": (0.3, 0.55),
    "hair_volume": (0.11, 0.035),
    "hairline": (-0.5, 0.07),
    "parting": (0.0, 0.3),
    "iris_hue": (0.5, 0.3),
    "face_width": (0.6, 0.04),
    "face_height": (0.8, 0.035),
    "jaw": (0.2, 0.09),
    "eye_spacing": (0.235, 0.02),
    "eye_height": (-0.1, 0.025),
    "eye_size": (0.105, 0.012),
    "eye_tilt": (0.0, 0.12),
    "brow_thickness": (0.03, 0.01),
    "brow_gap": (0.15, 0.02),
    "nose_length": (0.3, 0.035),
    "nose_width": (0.1, 0.018),
    "mouth_height": (0.4, 0.025),
    "mouth_width": (0.2, 0.025),
    "lip_thickness": (0.045, 0.012),
    "lip_red": (0.5, 0.3),
    "beard": (-0.3, 0.5),
}
MOTION = {
    "smile": (0.15, 0.5),
    "mouth_open": (0.25, 0.3),
    "brow_raise": (0.0, 0.5),
    "brow_frown": (0.0, 0.5),
    "eye_open": (0.9, 0.25),
    "gaze": (0.0, 0.4),
    "yaw": (0.0, 22.0),
    "pitch": (0.0, 10.0),
    "roll": (0.0, 7.0),
}
SCENE = {
    "light_x": (0.0, 0.45),
    "light_y": (-0.35, 0.2),
    "ambient": (0.6, 0.08),
    "back_red": (0.5, 0.22),
    "back_green": (0.5, 0.22),
    "back_blue": (0.5, 0.22),
    "back_slope": (0.0, 0.2),
}
# The face at rest, from the front. Everything else in an image is identity or scene.
NEUTRAL = {name: 1.0 if name == "eye_open" else 0.0 for name in MOTION}


def _sample(
    key: jax.Array,
    table: dict[str, tuple[float, float]],
    *,
    variation: float | jax.Array = 1.0,
) -> Parameters:
    values = jax.random.truncated_normal(key, -2.0, 2.0, (len(table),))
    return {
        name: mean + variation * std * values[i]
        for i, (name, (mean, std)) in enumerate(table.items())
    }


def sample_identity(key: jax.Array) -> Parameters:
    """Draws a person."""
    return _sample(key, IDENTITY)


def sample_motion(key: jax.Array, *, variation: float | jax.Array = 1.0) -> Parameters:
    """Draws an expression and a head pose.

    Args:
      key: random key.
      variation: factor of the standard deviations of `MOTION`, 0 or more.

    Returns:
      Parameters by name.
    """
    motion = _sample(key, MOTION, variation=variation)
    return motion | {
        "mouth_open": jnp.maximum(motion["mouth_open"], 0.0),
        "eye_open": jnp.clip(motion["eye_open"], 0.1, 1.2),
    }


def sample_scene(key: jax.Array, *, variation: float | jax.Array = 1.0) -> Parameters:
    """Draws lighting and background.

    Args:
      key: random key.
      variation: factor of the standard deviations of `SCENE`, 0 or more.

    Returns:
      Parameters by name.
    """
    return _sample(key, SCENE, variation=variation)


def neutral_motion() -> Parameters:
    """Returns the motion of a neutral, frontal face."""
    return {name: jnp.float32(value) for name, value in NEUTRAL.items()}


def mean_identity() -> Parameters:
    """Returns the mean of the people that `sample_identity` draws."""
    return {name: jnp.float32(mean) for name, (mean, _) in IDENTITY.items()}


def render(
    identity: Parameters, motion: Parameters, scene: Parameters, *, size: int = 64
) -> jax.Array:
    """Renders a face.

    Args:
      identity: parameters named as in `IDENTITY`.
      motion: parameters named as in `MOTION`.
      scene: parameters named as in `SCENE`.
      size: side in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    image = render_float(identity, motion, scene, size=size)
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _sample_tracks(
    keys: jax.Array,
    *,
    frames: int,
    scene_variation: jax.Array,
    motion_variation: jax.Array,
) -> tuple[Parameters, Parameters, Parameters]:
    """Draws people [N], a scene for each [N], and their motions [N, frames]."""

    def sample_track(key: jax.Array) -> tuple[Parameters, Parameters, Parameters]:
        of_person, of_scene, of_motion = jax.random.split(key, 3)
        sample = functools.partial(sample_motion, variation=motion_variation)
        return (
            sample_identity(of_person),
            sample_scene(of_scene, variation=scene_variation),
            jax.vmap(sample)(jax.random.split(of_motion, frames)),
        )

    return jax.vmap(sample_track)(keys)


@functools.partial(jax.jit, static_argnames=("size",))
def _render_batch(identity: Any, motion: Any, scene: Any, *, size: int) -> jax.Array:
    """Renders one image for each set of parameters."""
    return jax.vmap(functools.partial(render, size=size))(identity, motion, scene)


def render_each(identity: Any, motion: Any, scene: Any, *, size: int) -> np.ndarray:
    """Renders one image for each set of parameters.

    Args:
      identity: parameters of the people, {name: [N]}.
      motion: parameters of pose and expression, {name: [N]}.
      scene: parameters of lighting and background, {name: [N]}.
      size: side in pixels.

    Returns:
      uint8 [N, size, size, 3].
    """
    parameters = jax.tree.map(np.asarray, (identity, motion, scene))
    count = len(jax.tree.leaves(parameters)[0])

    # The last batch is filled up with repetitions of the last image.
    rendered = []
    for start in range(0, count, _BATCH):
        indices = np.minimum(np.arange(start, start + _BATCH), count - 1)
        batch = jax.tree.map(lambda value, indices=indices: value[indices], parameters)
        rendered.append(np.asarray(_render_batch(*batch, size=size)))

    return np.concatenate(rendered)[:count]


def repeat_each(parameters: Mapping[str, Any], times: int) -> dict[str, np.ndarray]:
    """Repeats parameters.

    Args:
      parameters: [N] or scalar, by name.
      times: how often every element is repeated, at least 1.

    Returns:
      Parameters [N * times] by name; the repetitions of an element follow each other.
    """
    return {
        name: np.repeat(np.asarray(value), times) for name, value in parameters.items()
    }


def synthetic_tracks(
    seed: int,
    *,
    identities: int,
    frames_per_track: int,
    size: int,
    scene_variation: float = 1.0,
    motion_variation: float = 1.0,
) -> dict[str, Any]:
    """Renders people, each in one track of one lighting and background.

    Args:
      seed: another seed gives other people. The same seed gives the same bytes on one
        machine.
      identities: number of people, at least 1.
      frames_per_track: number of images of each, at least 1.
      size: side in pixels.
      scene_variation: how much lighting and background differ between people, 0 (not at
        all) or more; 1 is the variation of `SCENE`.
      motion_variation: how much poses and expressions differ, 0 or more; 1 is the
        variation of `MOTION`, whose yaw reaches 44 degrees.

    Returns:
      `frames`, uint8 [F, S, S, 3], and `identity`, int32 [F], person by person;
      `motion`, {name: [F]}; `neutral` and `mean`, uint8 [people, S, S, 3], the true
      neutral face of each person and the true mean face in that person's scene;
      `identity_parameters` and `scene`, {name: [people]}. The arrays are read-only.

    Raises:
      UserError: If a count is below 1 or a variation is negative.
    """
    variations = {"scene": scene_variation, "motion": motion_variation}
    for name, variation in variations.items():
        if variation < 0:
            raise UserError(
                f"data.{name}_variation must be 0 or more, got {variation}."
            )
    if identities < 1 or frames_per_track < 1:
        raise UserError(
            "synthetic faces need data.identities and data.frames_per_track of at "
            f"least 1, got {identities} and {frames_per_track}."
        )

    # New dicts, so that a caller who adds to one changes it for nobody else.
    tracks = _all_tracks(
        seed,
        identities,
        frames_per_track,
        size,
        scene_variation,
        motion_variation,
    )
    return jax.tree.map(lambda leaf: leaf, tracks)


# One set is kept, because the loaders of a run's training and held-out people and its
# next stage need the same one.
@functools.lru_cache(maxsize=1)
def _all_tracks(
    seed: int,
    identities: int,
    frames_per_track: int,
    size: int,
    scene_variation: float,
    motion_variation: float,
) -> dict[str, Any]:
    """Renders all tracks into read-only arrays, because several callers share them."""
    log.info(
        "Rendering %d synthetic people, %d images of each", identities, frames_per_track
    )
    # On CPUs, optimising this program would take far longer than it runs.
    sample = jax.jit(
        _sample_tracks,
        static_argnames=("frames",),
        compiler_options=cpu_compiler_options(jax.default_backend(), level=0),
    )
    sampled = sample(
        jax.random.split(jax.random.key(seed), identities),
        frames=frames_per_track,
        scene_variation=np.float32(scene_variation),
        motion_variation=np.float32(motion_variation),
    )
    identity, scene, motion = jax.device_get(sampled)
    motion = {name: value.reshape(-1) for name, value in motion.items()}
    still = repeat_each(neutral_motion(), identities)

    rendered = {
        "frames": render_each(
            repeat_each(identity, frames_per_track),
            motion,
            repeat_each(scene, frames_per_track),
            size=size,
        ),
        "identity": np.repeat(np.arange(identities, dtype=np.int32), frames_per_track),
        "motion": motion,
        "neutral": render_each(identity, still, scene, size=size),
        "mean": render_each(
            repeat_each(mean_identity(), identities), still, scene, size=size
        ),
        "identity_parameters": identity,
        "scene": scene,
    }
    for leaf in jax.tree.leaves(rendered):
        leaf.setflags(write=False)

    return rendered
