"""Flows of turned heads, taught by heads that a warp has turned. Not in the paper.

The cycle alone turns heads by a half: two frames of a person seldom differ by much, and
the loss of a flow says little about what would be better far away. Both terms here say
where each place of the face should come from.

- `turned_term`: a frontal face is turned by a warp that is known, so its flow is known.
- `frontal_term`: what a mirror image changes in a motion code is the turn. Codes with
  more of it give other flows, and the most symmetric face has the best one.

Both take their targets from a teacher, the networks at the start of the run: with
targets that follow the training, faces would grow ever wider, which makes them more
symmetric too.
"""

from typing import Any

import jax
import jax.numpy as jnp

from facecycle_jax.networks.face_networks import FaceNetworks, Trees
from facecycle_jax.ops import grid_sample, identity_grid, turned_flow, turned_grid, warp

# Turns are drawn between these, to either side, and up and down with this spread.
_YAW = (5.0, 45.0)
_PITCH_SPREAD = 8.0
_LARGEST_PITCH = 18.0
# Frames are cut by the eyes' distance, up to this.
_MAGNIFICATION = 1.18
# Flows whose asymmetry is below this times the mean are of frontal faces.
_FRONTAL = 0.7
# Weight of the frontal faces themselves, which stay as they are.
_STILL = 0.3
# How much of the turn in a code is tried.
_FACTORS = (1.0, 1.5, 2.0)
# The factors tried are averaged with weights exp(-excess / this). The excess is how
# much more asymmetric the face becomes than with the best factor, as a fraction of it.
_TOLERANCE = 0.03
# Half the width and height of the face, its middle, and the weight far from it.
_FACE = (0.75, 0.85)
_FACE_Y = 0.05
_BESIDE = 0.15


def turned_term(
    networks: FaceNetworks,
    trees: Trees,
    images: jax.Array,
    flow: jax.Array,
    teacher_flow: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Computes how far flows of turned images are from those that undo the turn.

    The neutral face of a turned image is that of the image itself. So its flow leads
    where the teacher's flow of the image does, moved by the turn. The image's own flow
    stays near the teacher's. Only images whose flow is nearly symmetric take part, as
    the warp supposes a frontal face.

    Args:
      networks: the networks.
      trees: parameters; motion_encoder and flow_decoder are used.
      images: [N, H, H, 3], normalised.
      flow: [N, h, w, 2], their flows.
      teacher_flow: [N, h, w, 2], their flows by the teacher; it gets no gradient.
      key: random key of the turns.

    Returns:
      Scalar, in units of half an image.
    """
    target = jax.lax.stop_gradient(teacher_flow)
    turns, grid = _undone_turns(networks, trees, images, target, key)
    still = _charbonnier(flow, target)

    # The mean over frontal images alone: others weigh 0, which the division makes up.
    frontal = _nearly_frontal(target)
    weight = _face(grid)[..., None] * frontal[:, None, None, None]
    return jnp.mean(weight * (turns + _STILL * still)) / jnp.mean(frontal)


def _undone_turns(
    networks: FaceNetworks, trees: Trees, images: jax.Array, target: jax.Array, key: Any
) -> tuple[jax.Array, jax.Array]:
    """Turns images and compares their flows with those that undo the turn.

    Args:
      networks: the networks.
      trees: parameters; motion_encoder and flow_decoder are used.
      images: [N, H, H, 3], normalised.
      target: [N, h, w, 2], the flows of the images themselves.
      key: random key of the turns.

    Returns:
      The distances [N, h, w, 2], 0 where the turned image does not show the point; and
      the grid [h, w, 2] of the flows' points.
    """
    number, size = images.shape[:2]
    yaw, pitch, magnification = _draw_turns(key, number)

    def turn(yaw: Any, pitch: Any, magnification: Any) -> jax.Array:
        return turned_grid(yaw, pitch, magnification, size=size)

    grids = jax.vmap(turn)(yaw, pitch, magnification)
    turned = grid_sample(images, grids, align_corners=True, padding="border")
    found = networks.flow(trees, networks.motion_code(trees, turned))

    # Where the turn has moved the points that the target leads to.
    grid = identity_grid(height=target.shape[1], width=target.shape[2])
    moved, shown = jax.vmap(turned_flow)(grids, jnp.clip(grid + target, -1, 1))
    return shown[..., None] * _charbonnier(found, moved - grid), grid


def _nearly_frontal(flow: jax.Array) -> jax.Array:
    """Checks whose flows [N, h, w, 2] are nearly symmetric; bool [N], at least one."""
    asymmetry = jnp.mean(jnp.abs(flow - _mirrored(flow)), axis=(1, 2, 3))
    limit = jnp.maximum(_FRONTAL * jnp.mean(asymmetry), jnp.min(asymmetry))
    return asymmetry <= limit


def frontal_term(
    networks: FaceNetworks, teacher: Trees, images: jax.Array, flow: jax.Array
) -> jax.Array:
    """Computes how far flows are from those that make the faces most symmetric.

    Args:
      networks: the networks.
      teacher: motion_encoder and flow_decoder at the start; they get no gradient.
      images: [N, H, H, 3], normalised.
      flow: [N, h, w, 2], their flows.

    Returns:
      Scalar, in units of half an image.
    """
    target = jax.lax.stop_gradient(_frontal_flow(networks, teacher, images))
    grid = identity_grid(height=flow.shape[1], width=flow.shape[2])
    return jnp.mean(_face(grid)[..., None] * _charbonnier(flow, target))


def _frontal_flow(networks: FaceNetworks, trees: Trees, images: jax.Array) -> jax.Array:
    """Finds the flows [N, h, w, 2] that make faces most symmetric."""
    code = networks.motion_code(trees, images)
    mirrored = networks.motion_code(trees, jnp.flip(images, axis=2))
    # The image's code is shared + turn, its mirror image's is shared - turn.
    shared = (code + mirrored) / 2
    turn = (code - mirrored) / 2
    window = _face(identity_grid(height=images.shape[1], width=images.shape[2]))

    def asymmetry(factor: jax.Array) -> jax.Array:
        face = warp(images, networks.flow(trees, shared + factor * turn), clamp=True)
        apart = jnp.abs(face - jnp.flip(face, axis=2))
        return jnp.mean(window[..., None] * apart, axis=(1, 2, 3))

    # Larger turns are tried. The factors are averaged, the most symmetric faces' most.
    factors = jnp.array(_FACTORS)
    costs = jnp.stack([asymmetry(factor) for factor in factors])
    least = jnp.maximum(jnp.min(costs, axis=0), 1e-6)
    shares = jax.nn.softmax(-costs / (_TOLERANCE * least), axis=0)
    best = shares.T @ factors
    return networks.flow(trees, shared + best[:, None] * turn)


def _draw_turns(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws yaw and pitch in degrees and the magnification, each [number]."""
    keys = jax.random.split(key, 4)
    yaw = jax.random.uniform(keys[0], (number,), minval=_YAW[0], maxval=_YAW[1])
    pitch = _PITCH_SPREAD * jax.random.normal(keys[1], (number,))
    pitch = jnp.clip(pitch, -_LARGEST_PITCH, _LARGEST_PITCH)

    # Eyes that appear closer are enlarged until they are as far apart, or less.
    largest = jnp.minimum(1 / jnp.cos(jnp.deg2rad(yaw)), _MAGNIFICATION)
    fraction = jax.random.uniform(keys[2], (number,))
    side = jnp.where(jax.random.bernoulli(keys[3], shape=(number,)), 1.0, -1.0)
    return side * yaw, pitch, 1 + fraction * (largest - 1)


def _mirrored(flow: jax.Array) -> jax.Array:
    """Makes the flows [..., h, w, 2] of mirrored images."""
    return jnp.flip(flow, axis=-2) * jnp.array([-1.0, 1.0])


def _face(grid: jax.Array) -> jax.Array:
    """Weighs points [h, w, 2]: the face counts, what is next to it hardly."""
    x = grid[..., 0] / _FACE[0]
    y = (grid[..., 1] - _FACE_Y) / _FACE[1]
    return _BESIDE + jnp.exp(-((x**2 + y**2) ** 2))


def _charbonnier(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the Charbonnier penalty of a - b: |a - b|, smooth below a hundredth."""
    return jnp.sqrt((a - b) ** 2 + 1e-4) - 1e-2
