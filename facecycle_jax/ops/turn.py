"""Synthetic turns of a head: a face is warped as if the head were turned.

A head is an ellipsoid with a nose, where the framing of docs/framing.md has it.
Positions are (x, y) in [-1, 1], as for `grid_sample` with corners aligned; y points
down. z points from the middle of the head to the camera, in the same unit, which is
about 11 cm.
"""

import jax
import jax.numpy as jnp
from jax import lax

from facecycle_jax.ops.smoothing import smooth_neighbours
from facecycle_jax.ops.warp import identity_grid

# Half of the head's width, height and depth, and the height of its middle.
_HALF_WIDTH = 0.66
_HALF_HEIGHT = 1.05
_HALF_DEPTH = 0.8
_MIDDLE_Y = -0.16
# How far the nose stands out, its middle, and its spread.
_NOSE = 0.16
_NOSE_Y = 0.1
_NOSE_SPREAD = (0.13, 0.17)
# The eyes of the framing.
_EYE_X = 0.28
_EYE_Y = -0.18
# The places on the line of sight where the surface is looked for.
_NEAREST = 1.3
_FARTHEST = -0.6
_PLACES = 64
# How far the background reaches: heads are stretched no farther than to here.
_BORDER = 0.98
# Distance from what is seen at which a position counts as hidden.
_FOUND = 0.06


def head_rotation(yaw: jax.Array, pitch: jax.Array, roll: jax.Array) -> jax.Array:
    """Computes the rotation from the head's to the image's frame.

    Args:
      yaw: degrees, scalar; positive turns the nose to the right of the image.
      pitch: degrees, scalar; positive lowers the nose.
      roll: degrees, scalar; positive turns the image clockwise.

    Returns:
      float32 [3, 3].
    """
    a, b, c = (jnp.deg2rad(angle) for angle in (yaw, pitch, roll))
    zero = jnp.zeros_like(a)
    one = jnp.ones_like(a)

    about_y = jnp.array(
        [
            [jnp.cos(a), zero, jnp.sin(a)],
            [zero, one, zero],
            [-jnp.sin(a), zero, jnp.cos(a)],
        ]
    )
    about_x = jnp.array(
        [
            [one, zero, zero],
            [zero, jnp.cos(b), jnp.sin(b)],
            [zero, -jnp.sin(b), jnp.cos(b)],
        ]
    )
    about_z = jnp.array(
        [
            [jnp.cos(c), -jnp.sin(c), zero],
            [jnp.sin(c), jnp.cos(c), zero],
            [zero, zero, one],
        ]
    )

    # Yaw is applied first, roll last.
    return _product(_product(about_z, about_x), about_y)


def _product(rotation: jax.Array, vectors: jax.Array) -> jax.Array:
    """Rotates vectors [3, n].

    TPUs multiply float32 in bfloat16 by default, which would move pixels.
    """
    return jnp.matmul(rotation, vectors, precision=lax.Precision.HIGHEST)


def turned_grid(
    yaw: jax.Array, pitch: jax.Array, magnification: jax.Array, *, size: int
) -> jax.Array:
    """Computes where each pixel of a turned head lies in the image of the frontal one.

    The eyes stay in the middle. What the image does not show, the far side of the head,
    repeats its edge; the background is stretched beside the head.

    Args:
      yaw: degrees, scalar; positive turns the nose to the right of the image.
      pitch: degrees, scalar; positive raises the nose.
      magnification: scalar; heads whose eyes are framed look larger when they turn.
      size: side of the result in pixels.

    Returns:
      float32 [size, size, 2], positions for `grid_sample`.
    """
    # The rotation counts pitch downwards.
    turn = head_rotation(yaw, -pitch, jnp.zeros_like(yaw))
    grid = identity_grid(height=size, width=size)

    points = _lines_of_sight(grid, turn, magnification)
    head, hit = _first_hit(points)
    found = jnp.where(hit[..., None], head, _background(grid, head, hit))
    return _smooth(found)


def _lines_of_sight(
    grid: jax.Array, turn: jax.Array, magnification: jax.Array
) -> jax.Array:
    """Computes points on the line of sight of each pixel, in the frame of the head.

    Args:
      grid: [size, size, 2], the pixels' positions.
      turn: [3, 3], rotation from the head's to the image's frame.
      magnification: scalar.

    Returns:
      [3, size, size, places], the nearest to the camera first.
    """
    # The middle between the eyes stays where it is.
    eyes = jnp.array([[_EYE_X, -_EYE_X], [_EYE_Y, _EYE_Y]])
    depth, _ = _surface(eyes[0], eyes[1])
    middle = jnp.mean(_product(turn, jnp.stack([*eyes, depth])), axis=1)

    x = grid[..., 0] / magnification + middle[0]
    y = (grid[..., 1] - _EYE_Y) / magnification + middle[1]
    z = jnp.linspace(_NEAREST, _FARTHEST, _PLACES)
    seen = jnp.stack(jnp.broadcast_arrays(x[..., None], y[..., None], z))

    # The transposed rotation turns them back.
    return jnp.einsum("ji,jhwk->ihwk", turn, seen, precision=lax.Precision.HIGHEST)


def _first_hit(points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds where lines of sight meet the head.

    Args:
      points: [3, size, size, places], what `_lines_of_sight` returns.

    Returns:
      [size, size, 2], the positions (x, y) on the surface; and bool [size, size],
      whether the line meets the head at all.
    """
    front, inside_outline = _surface(points[0], points[1])
    # How far a point lies in front of the surface, towards the camera.
    in_front = points[2] - front
    # The back of the head is round, too.
    inside = inside_outline & (in_front <= 0) & (points[2] >= -front)
    hit = jnp.any(inside, axis=-1)
    first = jnp.argmax(inside, axis=-1)
    before = jnp.maximum(first - 1, 0)

    def at(values: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]

    # The surface lies between the first point inside and the one before it, where
    # `in_front`, taken as linear between them, is 0.
    outside = at(in_front, before)
    within = at(in_front, first)
    crossing = at(inside_outline, before) & (outside > within)
    fraction = jnp.where(crossing, outside / jnp.maximum(outside - within, 1e-6), 1.0)
    fraction = jnp.clip(fraction, 0.0, 1.0)

    head = []
    for coordinate in points[:2]:
        start, end = at(coordinate, before), at(coordinate, first)
        head.append(start * (1 - fraction) + end * fraction)
    return jnp.stack(head, axis=-1), hit


def turned_flow(grid: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds positions of the frontal image in the image of the turned head.

    Args:
      grid: [size, size, 2], what `turned_grid` returns.
      positions: [h, w, 2], positions in the image of the frontal head.

    Returns:
      float32 [h, w, 2], the positions in the image of the turned head, and float32 [h,
      w], from 1 where they are seen to 0 where nothing near them is.
    """
    points = grid.reshape(-1, 2)
    wanted = positions.reshape(-1, 2)
    distance = jnp.sum((wanted[:, None] - points) ** 2, axis=-1)
    nearest = jnp.argmin(distance, axis=-1)

    size = grid.shape[0]
    pixels = identity_grid(height=size, width=size).reshape(-1, 2)
    shown = jnp.exp(-jnp.min(distance, axis=-1) / _FOUND**2)
    return pixels[nearest].reshape(positions.shape), shown.reshape(positions.shape[:-1])


def _surface(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes how far the head reaches to the camera, and whether it is there."""
    radius = (x / _HALF_WIDTH) ** 2 + ((y - _MIDDLE_Y) / _HALF_HEIGHT) ** 2
    depth = _HALF_DEPTH * jnp.sqrt(jnp.maximum(1 - radius, 0.0))
    nose = (x / _NOSE_SPREAD[0]) ** 2 + ((y - _NOSE_Y) / _NOSE_SPREAD[1]) ** 2
    return depth + _NOSE * jnp.exp(-nose / 2), radius < 1


def _background(grid: jax.Array, head: jax.Array, hit: jax.Array) -> jax.Array:
    """Stretches each row beside the turned head to what lies beside the frontal one."""
    x = grid[..., 0]

    # The row's first and last pixel of the head.
    leftmost = jnp.min(jnp.where(hit, x, 1.0), axis=1, keepdims=True)
    rightmost = jnp.max(jnp.where(hit, x, -1.0), axis=1, keepdims=True)
    ends = hit & ((x == leftmost) | (x == rightmost))
    number = jnp.maximum(jnp.sum(ends, axis=1, keepdims=True), 1)
    height = jnp.sum(jnp.where(ends, head[..., 1], 0.0), axis=1, keepdims=True) / number
    outline = 1 - ((height - _MIDDLE_Y) / _HALF_HEIGHT) ** 2
    half = jnp.minimum(_HALF_WIDTH * jnp.sqrt(jnp.maximum(outline, 0.0)), _BORDER)

    left = -1 + (x + 1) * (1 - half) / jnp.maximum(leftmost + 1, 1e-3)
    right = 1 - (1 - x) * (1 - half) / jnp.maximum(1 - rightmost, 1e-3)
    moved = jnp.where(x < leftmost, left, jnp.where(x > rightmost, right, x))
    moved = jnp.where(jnp.any(hit, axis=1, keepdims=True), moved, x)
    return jnp.stack([moved, grid[..., 1]], axis=-1)


def _smooth(grid: jax.Array) -> jax.Array:
    """Closes cracks at the head's outline."""
    # Beyond the edge, positions go on evenly.
    return smooth_neighbours(grid, 0.2, mode="reflect", reflect_type="odd")
