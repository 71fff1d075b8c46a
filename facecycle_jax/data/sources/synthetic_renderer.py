"""The renderer of the synthetic faces: ellipsoids under parallel light.

The face is painted on one of the ellipsoids. A point of the head is painted according
to its place in the head's own frame, so the paint turns with the head.

Coordinates are x right, y down and z towards the viewer. The image spans -1 to 1, and
colours 0 to 1.

Points, normals and colours are [3, P], one row per coordinate or channel, for the P
fine pixels of the image; a CPU computes on such rows several pixels at once. A single
colour is [3, 1].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.ops import head_rotation

Colour = jax.Array
_SUPERSAMPLE = 2


class _Surface(NamedTuple):
    """An ellipsoid in its own frame, and its colours.

    Attributes:
      turn: rotation to the image's frame, [3, 3].
      centre: x, y, z.
      radii: along x, y, z.
      paint: maps points of its frame, [3, P], to colours; None paints it as hair.
      narrows: whether the jaw narrows it towards the chin.
    """

    turn: jax.Array
    centre: tuple[Any, Any, Any]
    radii: tuple[Any, Any, Any]
    paint: Callable[[jax.Array], Colour] | None
    narrows: bool = False


class _Hit(NamedTuple):
    """Where rays meet a surface.

    Attributes:
      depth: z of the nearest point, [P]; -inf where the ray misses.
      normal: unit normal in the image's frame, [3, P].
      point: the point in the head's frame, [3, P].
    """

    depth: jax.Array
    normal: jax.Array
    point: jax.Array


def _column(*values: Any) -> jax.Array:
    """Makes a single point or colour, [3, 1]."""
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])[:, None]


def _rotate(rotation: jax.Array, points: jax.Array) -> jax.Array:
    """Multiplies points [3, P] by a matrix."""
    x, y, z = points
    return (
        rotation[:, 0, None] * x + rotation[:, 1, None] * y + rotation[:, 2, None] * z
    )


def _dot(one: jax.Array, other: jax.Array) -> jax.Array:
    """Computes the inner products of points or vectors, [P].

    With jnp.sum, the CPU compiler of JAX 0.10 renders batches wrong where one factor is
    the same for all images.
    """
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _meet(x: jax.Array, y: jax.Array, surface: _Surface) -> _Hit:
    """Intersects parallel rays through pixels at x and y, [P], with an ellipsoid."""
    radii = _column(*surface.radii)
    centre = _column(*surface.centre)

    # Rays run along z of the image. In the surface's frame, scaled by the radii, the
    # ellipsoid is the unit sphere about 0.
    back = surface.turn.T
    origin = jnp.stack([x, y, jnp.zeros_like(x)])
    start = (_rotate(back, origin) - centre) / radii
    ray = back[:, 2, None] / radii

    # The nearer solution of |start + depth * ray|^2 = 1.
    a = _dot(ray, ray)
    b = _dot(start, ray)
    root = b * b - a * (_dot(start, start) - 1.0)
    depth = jnp.where(root > 0, (-b + jnp.sqrt(jnp.maximum(root, 0.0))) / a, -jnp.inf)

    # Rays that miss get any finite point, so that no NaN arises from them.
    finite = jnp.where(jnp.isfinite(depth), depth, 0.0)
    unit = start + finite * ray

    # The gradient of the ellipsoid's equation is its normal.
    normal = _rotate(surface.turn, unit / radii)
    normal /= jnp.sqrt(_dot(normal, normal)) + 1e-6

    return _Hit(depth, normal, unit * radii + centre)


def _inside(distance: jax.Array, softness: float = 0.012) -> jax.Array:
    """Computes a mask: 1 where a signed distance is below 0, with a soft edge."""
    return jax.nn.sigmoid(-distance / softness)


def _ellipse(x: jax.Array, y: jax.Array, width: Any, height: Any) -> jax.Array:
    """Approximates the signed distance to an axis-aligned ellipse about 0."""
    height = jnp.maximum(height, 1e-3)
    relative = jnp.sqrt((x / width) ** 2 + (y / height) ** 2 + 1e-9) - 1.0
    return relative * jnp.minimum(width, height)


def _mix(base: Colour, paint: Any, amount: jax.Array) -> Colour:
    """Blends a colour into another where `amount`, [P], is above 0."""
    return base + (paint - base) * amount


def _skin(identity: Any) -> Colour:
    """Computes the colour of the skin."""
    light = _column(0.98, 0.82, 0.72)
    dark = _column(0.36, 0.22, 0.15)
    warm = _column(0.03, 0.0, -0.04) * identity["skin_warmth"]
    return light + (dark - light) * jnp.clip(identity["skin_tone"], 0.0, 1.0) + warm


def _hair(identity: Any) -> Colour:
    """Computes the colour of the hair."""
    dark = _column(0.07, 0.05, 0.045)
    fair = _column(0.75, 0.58, 0.34)
    tone = jnp.clip(identity["hair_tone"], 0.0, 1.0)
    red = _column(0.12, -0.01, -0.04) * jnp.maximum(identity["hair_red"], 0.0)
    return jnp.clip(dark + (fair - dark) * tone**1.5 + red, 0, 1)


def _paint_eye(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, skin: Colour
) -> Colour:
    """Paints one eye; x outwards from the face's middle, both from the eye's centre."""
    size = identity["eye_size"]
    tilted = y + identity["eye_tilt"] * x
    opening = 0.48 * size * motion["eye_open"]
    almond = _inside(_ellipse(x, tilted, size, opening), 0.008)

    # The shadow of the eye socket.
    socket = _inside(_ellipse(x, y + 0.01, 1.45 * size, 0.85 * size), 0.03)
    colour = _mix(colour, 0.82 * skin, 0.6 * socket)

    # White, iris, pupil and glint, which show inside the almond.
    eye = _column(0.95, 0.94, 0.93)
    brown = _column(0.26, 0.14, 0.06)
    blue = _column(0.30, 0.46, 0.60)
    iris = brown + (blue - brown) * jnp.clip(identity["iris_hue"] * 1.6 - 0.6, 0.0, 1.0)
    side = x - 0.35 * size * motion["gaze"]
    disc = _ellipse(side, tilted, 0.5 * size, 0.5 * size)
    eye = _mix(eye, iris, _inside(disc, 0.006))
    eye = _mix(eye, _column(0.03, 0.03, 0.03), _inside(disc + 0.28 * size, 0.006))
    glint = _ellipse(side + 0.12 * size, tilted + 0.16 * size, 0.1 * size, 0.1 * size)
    eye = _mix(eye, 1.0, 0.9 * _inside(glint, 0.005))
    colour = _mix(colour, eye, almond)

    # The line of the upper lid, with its lashes.
    arch = jnp.sqrt(jnp.maximum(1 - (x / size) ** 2, 0.0))
    lid = jnp.abs(tilted + opening * arch) - 0.014
    lashes = 0.85 * _inside(lid, 0.008) * _inside(jnp.abs(x) - size)

    return _mix(colour, 0.25 * skin, lashes)


def _paint_brow(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, hair: Colour
) -> Colour:
    """Paints one brow; x outwards, both from the eye's centre."""
    # A parabola whose inner end is lowered by a frown.
    height = -identity["brow_gap"] - 0.07 * motion["brow_raise"]
    inner = (0.5 - jnp.clip(x / 0.28 + 0.5, 0.0, 1.0)) * 0.09 * motion["brow_frown"]
    line = height + inner + 0.9 * (x - 0.02) ** 2

    # The band becomes thinner outwards.
    thick = identity["brow_thickness"] * (1.0 - 0.5 * jnp.clip(x / 0.15, 0.0, 1.0))
    band = jnp.maximum(jnp.abs(y - line) - thick, jnp.abs(x) - 0.15)

    return _mix(colour, 0.75 * hair, 0.85 * _inside(band))


def _paint_mouth(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, skin: Colour
) -> Colour:
    """Paints the mouth; x and y from its centre."""
    smile = motion["smile"]
    lip = identity["lip_thickness"]

    # A smile widens the mouth and lifts its corners.
    width = identity["mouth_width"] * (1.0 + 0.22 * smile)
    along = x / width
    arch = jnp.sqrt(jnp.maximum(1.0 - along**2, 0.0))
    y = y - 0.075 * smile * (0.5 - along**2)
    opening = 0.13 * motion["mouth_open"] * arch

    # Lips around the opening; the upper one has a notch in its middle.
    bow = lip * (arch - 0.22 * jnp.exp(-((x / 0.035) ** 2)))
    red = _column(0.74, 0.30, 0.30)
    lips = skin * 0.78 + (red - skin * 0.78) * (0.35 + 0.5 * identity["lip_red"])
    ends = jnp.abs(along) - 1.0
    upper = -y - opening - bow
    lower = y - opening - 1.25 * lip * arch
    outer = jnp.maximum(jnp.maximum(upper, lower), ends * width)
    colour = _mix(colour, lips, _inside(outer, 0.01))

    # The gap between the lips, with the upper teeth in an open mouth.
    gap = jnp.maximum(jnp.abs(y) - opening - 0.006, ends * width)
    inside = _column(0.22, 0.06, 0.06)
    teeth = _inside(y + 0.25 * opening, 0.008) * jnp.clip(12 * opening, 0.0, 1.0)
    inside = _mix(inside, _column(0.93, 0.91, 0.86), teeth)
    colour = _mix(colour, inside, _inside(gap, 0.007))

    # Folds on both sides of a smile.
    fold = jnp.abs(jnp.abs(x) - width - 0.05 + 0.25 * y) - 0.008
    near = _inside(jnp.abs(y + 0.06) - 0.1, 0.03)
    strength = 0.5 * jnp.clip(smile, 0, 1) * near * _inside(fold, 0.015)

    return _mix(colour, 0.7 * skin, strength)


def _paint_face(point: jax.Array, identity: Any, motion: Any) -> Colour:
    """Computes colours of the head's surface from points of its frame."""
    skin = _skin(identity)
    hair = _hair(identity)
    x, y, z = point

    # Skin with red cheeks.
    colour = skin
    flush = _column(0.16, -0.02, -0.02)
    for side in (-1.0, 1.0):
        cheek = _inside(_ellipse(side * x - 0.3, y - 0.2, 0.17, 0.13), 0.06)
        colour = colour + 0.35 * cheek * flush

    # The beard leaves the mouth free.
    beard = jnp.clip(identity["beard"], 0.0, 1.0)
    below_cheeks = _inside(0.3 - y - 0.35 * jnp.abs(x), 0.05)
    outside_mouth = _inside(-_ellipse(x, y - 0.4, 0.15, 0.05), 0.04)
    chin = below_cheeks * outside_mouth
    colour = _mix(colour, 0.6 * hair + 0.2 * skin, 0.85 * beard * chin)

    # The shadow below the nose.
    nose_end = identity["eye_height"] + identity["nose_length"]
    shadow = _inside(
        _ellipse(x, y - nose_end - 0.025, 1.1 * identity["nose_width"], 0.035), 0.02
    )
    colour = _mix(colour, 0.62 * skin, 0.6 * shadow)

    colour = _paint_mouth(
        colour, x, y - identity["mouth_height"], identity, motion, skin
    )

    # Both eyes look the same way, so the gaze is mirrored with the side.
    for side in (-1.0, 1.0):
        across = side * x - identity["eye_spacing"]
        down = y - identity["eye_height"]
        gaze = {**motion, "gaze": side * motion["gaze"]}
        colour = _paint_eye(colour, across, down, identity, gaze, skin)
        colour = _paint_brow(colour, across, down, identity, motion, hair)

    # The face is on the front only; hair covers everything above its line and behind.
    front = jnp.where(z > 0, colour, skin)
    line = (
        identity["hairline"]
        + 0.28 * (jnp.abs(x) / 0.55) ** 3
        + 0.08 * identity["parting"] * x
    )
    strands = 1.0 + 0.12 * jnp.sin(38.0 * x + 9.0 * jnp.sin(5.0 * y))
    covered = jnp.maximum(_inside(y - line, 0.02), _inside(z + 0.1, 0.05))

    return _mix(front, hair * strands, covered)


def _shade(colour: Colour, normal: jax.Array, scene: Any) -> Colour:
    """Applies ambient and diffuse (Lambertian) light."""
    light = _column(scene["light_x"], scene["light_y"], 1.0)
    diffuse = jnp.maximum(_dot(normal, light / jnp.linalg.norm(light)), 0.0)
    return colour * (scene["ambient"] + (1.05 - scene["ambient"]) * diffuse)


def _background(x: jax.Array, y: jax.Array, scene: Any) -> Colour:
    """Computes the background: one colour with a gradient of brightness."""
    base = _column(scene["back_red"], scene["back_green"], scene["back_blue"])
    slope = 1.0 + scene["back_slope"] * (y + 0.5 * x)
    return jnp.clip(base * slope, 0.02, 0.98)


def _surfaces(
    identity: Any, motion: Any, scene: Any, rotation: jax.Array
) -> list[_Surface]:
    """Lists all ellipsoids of a person whose head is rotated."""
    upright = jnp.eye(3)
    width = identity["face_width"]
    height = identity["face_height"]
    skin = _skin(identity)
    volume = identity["hair_volume"]
    length = jnp.clip(identity["hair_length"], 0.0, 1.0)
    nose_height = identity["eye_height"] + 0.62 * identity["nose_length"]

    shoulders = _Surface(
        upright,
        (0.0, 1.45, -0.5),
        (1.0, 0.6, 0.3),
        lambda point: 0.6 * _background(point[0], point[1], scene),
    )
    neck = _Surface(
        upright, (0.0, 0.8, -0.25), (0.5 * width, 0.7, 0.3), lambda point: 0.8 * skin
    )
    hair_on_head = _Surface(
        rotation,
        (0.0, -0.1, -0.12),
        (width + volume, height - 0.06 + volume, 0.66),
        None,
    )
    hair_behind = _Surface(
        rotation,
        (0.0, 0.35, -0.3),
        (width + 0.8 * volume, 0.3 + 0.75 * length, 0.36),
        None,
    )
    ears = [
        _Surface(
            rotation,
            (side * width, 0.05, -0.05),
            (0.07, 0.15, 0.1),
            lambda point: 0.9 * skin,
            narrows=True,
        )
        for side in (-1.0, 1.0)
    ]
    head = _Surface(
        rotation,
        (0.0, 0.0, 0.0),
        (width, height, 0.7),
        lambda point: _paint_face(point, identity, motion),
        narrows=True,
    )
    nose = _Surface(
        rotation,
        (0.0, nose_height, 0.6),
        (identity["nose_width"], 0.5 * identity["nose_length"], 0.2),
        lambda point: skin * (1.0 + 0.04 * point[1]),
        narrows=True,
    )

    # Shoulders and neck do not turn with the head.
    return [shoulders, neck, hair_on_head, hair_behind, *ears, head, nose]


def render_float(identity: Any, motion: Any, scene: Any, *, size: int) -> jax.Array:
    """Renders a face.

    Args:
      identity: parameters of the person, see `synthetic.IDENTITY`.
      motion: parameters of expression and head pose, see `synthetic.MOTION`.
      scene: parameters of lighting and background, see `synthetic.SCENE`.
      size: side in pixels.

    Returns:
      float32 [size, size, 3], about 0 to 1.
    """
    # Centres of the fine pixels, [P].
    fine = size * _SUPERSAMPLE
    steps = (jnp.arange(fine) + 0.5) / fine * 2.0 - 1.0
    x, y = (along.reshape(-1) for along in jnp.meshgrid(steps, steps))

    rotation = head_rotation(motion["yaw"], motion["pitch"], motion["roll"])
    hair = _hair(identity) * (1.0 + 0.12 * jnp.sin(40.0 * x + 6.0 * jnp.sin(4.0 * y)))
    # The jaw narrows the head towards the chin.
    taper = 1.0 + identity["jaw"] * jnp.clip(y, 0.0, 1.0) ** 2 * 1.3

    # The nearest surface of each ray shows.
    image = _background(x, y, scene)
    depth = jnp.full_like(x, -jnp.inf)
    for surface in _surfaces(identity, motion, scene, rotation):
        hit = _meet(x * taper if surface.narrows else x, y, surface)
        colour = hair if surface.paint is None else surface.paint(hit.point)
        shaded = _shade(colour, hit.normal, scene)

        image = jnp.where(hit.depth > depth, shaded, image)
        depth = jnp.maximum(depth, hit.depth)

    # Averaging the fine pixels of each pixel antialiases edges.
    blocks = image.reshape(3, size, _SUPERSAMPLE, size, _SUPERSAMPLE)
    return jnp.moveaxis(blocks.mean(axis=(2, 4)), 0, -1)
