"""The renderer of the drawn faces.

Ellipsoids under parallel light, the face painted on one of them.

Coordinates: x right, y down, z towards the viewer; the picture spans -1 to 1. Colours
0..1. A point of the head is painted by where it lies in the head's own frame, so the
paint turns with the head.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Colour = jax.Array
_SUPERSAMPLE = 2


class _Hit(NamedTuple):
    """Where rays meet a surface.

    Depth (-inf where not), normal in the picture's frame, head point.
    """

    depth: jax.Array
    normal: jax.Array
    point: jax.Array


def _rotation(yaw: jax.Array, pitch: jax.Array, roll: jax.Array) -> jax.Array:
    """Head frame to picture frame, angles in degrees."""
    a, b, c = (jnp.deg2rad(angle) for angle in (yaw, pitch, roll))
    zero, one = jnp.zeros_like(a), jnp.ones_like(a)
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
    return about_z @ about_x @ about_y


def _meet(pixels: jax.Array, rotation: jax.Array, centre: Any, radii: Any) -> _Hit:
    """Intersects parallel rays [..., 2] with an ellipsoid given in the head's frame."""
    radii, centre = (
        jnp.stack([jnp.asarray(r) for r in radii]),
        jnp.stack([jnp.asarray(c, jnp.float32) for c in centre]),
    )
    origin = jnp.concatenate([pixels, jnp.zeros_like(pixels[..., :1])], axis=-1)
    start = (origin @ rotation - centre) / radii
    ray = rotation[2] / radii
    a = ray @ ray
    b = start @ ray
    root = b * b - a * (jnp.sum(start * start, axis=-1) - 1.0)
    depth = jnp.where(root > 0, (-b + jnp.sqrt(jnp.maximum(root, 0.0))) / a, -jnp.inf)
    finite = jnp.where(jnp.isfinite(depth), depth, 0.0)
    unit = start + finite[..., None] * ray
    normal = (unit / radii) @ rotation.T
    normal /= jnp.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6
    return _Hit(depth, normal, unit * radii + centre)


def _inside(distance: jax.Array, softness: float = 0.012) -> jax.Array:
    """1 where a signed distance is below 0, with a soft edge."""
    return jax.nn.sigmoid(-distance / softness)


def _ellipse(x: jax.Array, y: jax.Array, width: Any, height: Any) -> jax.Array:
    """Approximate signed distance to an axis-aligned ellipse about 0."""
    height = jnp.maximum(height, 1e-3)
    return (jnp.sqrt((x / width) ** 2 + (y / height) ** 2 + 1e-9) - 1.0) * jnp.minimum(
        width, height
    )


def _mix(base: Colour, paint: Any, amount: jax.Array) -> Colour:
    return base + (jnp.asarray(paint) - base) * amount[..., None]


def _skin(identity: Any) -> Colour:
    light, dark = jnp.array([0.98, 0.82, 0.72]), jnp.array([0.36, 0.22, 0.15])
    warm = jnp.array([0.03, 0.0, -0.04]) * identity["skin_warmth"]
    return light + (dark - light) * jnp.clip(identity["skin_tone"], 0.0, 1.0) + warm


def _hair(identity: Any) -> Colour:
    dark, fair = jnp.array([0.07, 0.05, 0.045]), jnp.array([0.75, 0.58, 0.34])
    red = jnp.array([0.12, -0.01, -0.04]) * jnp.maximum(identity["hair_red"], 0.0)
    return jnp.clip(
        dark + (fair - dark) * jnp.clip(identity["hair_tone"], 0.0, 1.0) ** 1.5 + red,
        0,
        1,
    )


def _paint_eye(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, skin: Colour
) -> Colour:
    """Paints one eye; x outwards from the face's middle, both from the eye's centre."""
    size = identity["eye_size"]
    tilted = y + identity["eye_tilt"] * x
    opening = 0.48 * size * motion["eye_open"]
    almond = _inside(_ellipse(x, tilted, size, opening), 0.008)
    colour = _mix(
        colour,
        0.82 * skin,
        0.6 * _inside(_ellipse(x, y + 0.01, 1.45 * size, 0.85 * size), 0.03),
    )
    eye = jnp.broadcast_to(jnp.array([0.95, 0.94, 0.93]), colour.shape)
    brown, blue = jnp.array([0.26, 0.14, 0.06]), jnp.array([0.30, 0.46, 0.60])
    iris = brown + (blue - brown) * jnp.clip(identity["iris_hue"] * 1.6 - 0.6, 0.0, 1.0)
    side = x - 0.35 * size * motion["gaze"]
    disc = _ellipse(side, tilted, 0.5 * size, 0.5 * size)
    eye = _mix(eye, iris, _inside(disc, 0.006))
    eye = _mix(eye, jnp.array([0.03, 0.03, 0.03]), _inside(disc + 0.28 * size, 0.006))
    glint = _ellipse(side + 0.12 * size, tilted + 0.16 * size, 0.1 * size, 0.1 * size)
    eye = _mix(eye, jnp.ones(3), 0.9 * _inside(glint, 0.005))
    colour = _mix(colour, eye, almond)
    # The upper lid's line, with its lashes.
    lid = (
        jnp.abs(tilted + opening * jnp.sqrt(jnp.maximum(1 - (x / size) ** 2, 0.0)))
        - 0.014
    )
    return _mix(
        colour, 0.25 * skin, 0.85 * _inside(lid, 0.008) * _inside(jnp.abs(x) - size)
    )


def _paint_brow(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, hair: Colour
) -> Colour:
    """Paints one brow; x outwards, both from the eye's centre."""
    height = -identity["brow_gap"] - 0.07 * motion["brow_raise"]
    inner = (0.5 - jnp.clip(x / 0.28 + 0.5, 0.0, 1.0)) * 0.09 * motion["brow_frown"]
    line = height + inner + 0.9 * (x - 0.02) ** 2
    thick = identity["brow_thickness"] * (1.0 - 0.5 * jnp.clip(x / 0.15, 0.0, 1.0))
    band = jnp.maximum(jnp.abs(y - line) - thick, jnp.abs(x) - 0.15)
    return _mix(colour, 0.75 * hair, 0.85 * _inside(band))


def _paint_mouth(
    colour: Colour, x: jax.Array, y: jax.Array, identity: Any, motion: Any, skin: Colour
) -> Colour:
    """Paints the mouth, from its centre."""
    smile, lip = motion["smile"], identity["lip_thickness"]
    width = identity["mouth_width"] * (1.0 + 0.22 * smile)
    along = x / width
    arch = jnp.sqrt(jnp.maximum(1.0 - along**2, 0.0))
    y = y - 0.075 * smile * (0.5 - along**2)
    opening = 0.13 * motion["mouth_open"] * arch
    bow = lip * (arch - 0.22 * jnp.exp(-((x / 0.035) ** 2)))
    red = jnp.array([0.74, 0.30, 0.30])
    lips = skin * 0.78 + (red - skin * 0.78) * (0.35 + 0.5 * identity["lip_red"])
    ends = jnp.abs(along) - 1.0
    outer = jnp.maximum(
        jnp.maximum(-y - opening - bow, y - opening - 1.25 * lip * arch), ends * width
    )
    colour = _mix(colour, lips, _inside(outer, 0.01))
    gap = jnp.maximum(jnp.abs(y) - opening - 0.006, ends * width)
    inside = jnp.broadcast_to(jnp.array([0.22, 0.06, 0.06]), colour.shape)
    teeth = _inside(y + 0.25 * opening, 0.008) * jnp.clip(12 * opening, 0.0, 1.0)
    colour = _mix(
        colour, _mix(inside, jnp.array([0.93, 0.91, 0.86]), teeth), _inside(gap, 0.007)
    )
    # Folds beside a smile.
    fold = jnp.abs(jnp.abs(x) - width - 0.05 + 0.25 * y) - 0.008
    near = _inside(jnp.abs(y + 0.06) - 0.1, 0.03)
    return _mix(
        colour, 0.7 * skin, 0.5 * jnp.clip(smile, 0, 1) * near * _inside(fold, 0.015)
    )


def _paint_face(point: jax.Array, identity: Any, motion: Any) -> Colour:
    """Colours of the head's surface by the place in its frame."""
    skin, hair = _skin(identity), _hair(identity)
    x, y, z = point[..., 0], point[..., 1], point[..., 2]
    colour = jnp.broadcast_to(skin, point.shape)
    flush = jnp.array([0.16, -0.02, -0.02])
    for side in (-1.0, 1.0):
        cheek = _inside(_ellipse(side * x - 0.3, y - 0.2, 0.17, 0.13), 0.06)
        colour = colour + 0.35 * cheek[..., None] * flush
    beard = jnp.clip(identity["beard"], 0.0, 1.0)
    chin = _inside(0.3 - y - 0.35 * jnp.abs(x), 0.05) * _inside(
        -_ellipse(x, y - 0.4, 0.15, 0.05), 0.04
    )
    colour = _mix(colour, 0.6 * hair + 0.2 * skin, 0.85 * beard * chin)
    nose_end = identity["eye_height"] + identity["nose_length"]
    shadow = _inside(
        _ellipse(x, y - nose_end - 0.025, 1.1 * identity["nose_width"], 0.035), 0.02
    )
    colour = _mix(colour, 0.62 * skin, 0.6 * shadow)
    colour = _paint_mouth(
        colour, x, y - identity["mouth_height"], identity, motion, skin
    )
    for side in (-1.0, 1.0):
        across, down = side * x - identity["eye_spacing"], y - identity["eye_height"]
        gaze = {**motion, "gaze": side * motion["gaze"]}
        colour = _paint_eye(colour, across, down, identity, gaze, skin)
        colour = _paint_brow(colour, across, down, identity, motion, hair)
    front = jnp.where((z > 0)[..., None], colour, skin)
    line = (
        identity["hairline"]
        + 0.28 * (jnp.abs(x) / 0.55) ** 3
        + 0.08 * identity["parting"] * x
    )
    strands = 1.0 + 0.12 * jnp.sin(38.0 * x + 9.0 * jnp.sin(5.0 * y))
    covered = jnp.maximum(_inside(y - line, 0.02), _inside(z + 0.1, 0.05))
    return _mix(front, hair * strands[..., None], covered)


def _shade(colour: Colour, normal: jax.Array, scene: Any) -> Colour:
    """Ambient plus diffuse light."""
    light = jnp.stack(
        [scene["light_x"], scene["light_y"], jnp.ones_like(scene["light_x"])]
    )
    diffuse = jnp.maximum(normal @ (light / jnp.linalg.norm(light)), 0.0)
    return colour * (scene["ambient"] + (1.05 - scene["ambient"]) * diffuse)[..., None]


def _background(pixels: jax.Array, scene: Any) -> Colour:
    base = jnp.stack([scene["back_red"], scene["back_green"], scene["back_blue"]])
    slope = 1.0 + scene["back_slope"] * (pixels[..., 1] + 0.5 * pixels[..., 0])
    return jnp.clip(base * slope[..., None], 0.02, 0.98)


def render_float(identity: Any, motion: Any, scene: Any, *, size: int) -> Colour:
    """Draws a face, float32 [size, size, 3] in about 0..1."""
    fine = size * _SUPERSAMPLE
    steps = (jnp.arange(fine) + 0.5) / fine * 2.0 - 1.0
    pixels = jnp.stack(jnp.meshgrid(steps, steps), axis=-1)
    rotation = _rotation(motion["yaw"], motion["pitch"], motion["roll"])
    width, height = identity["face_width"], identity["face_height"]
    hair, skin = _hair(identity), _skin(identity)
    picture = _background(pixels, scene)
    depth = jnp.full(pixels.shape[:-1], -jnp.inf)
    volume, length = (
        identity["hair_volume"],
        jnp.clip(identity["hair_length"], 0.0, 1.0),
    )
    upright = jnp.eye(3)
    surfaces = [
        # Shoulders and neck stay where they are; the rest turns with the head.
        (
            upright,
            (0.0, 1.45, -0.5),
            (1.0, 0.6, 0.3),
            lambda p: 0.6 * _background(p[..., :2], scene),
        ),
        (
            upright,
            (0.0, 0.8, -0.25),
            (0.5 * width, 0.7, 0.3),
            lambda p: 0.8 * skin + 0 * p,
        ),
        (
            rotation,
            (0.0, -0.1, -0.12),
            (width + volume, height - 0.06 + volume, 0.66),
            None,
        ),
        (
            rotation,
            (0.0, 0.35, -0.3),
            (width + 0.8 * volume, 0.3 + 0.75 * length, 0.36),
            None,
        ),
        (
            rotation,
            (-width, 0.05, -0.05),
            (0.07, 0.15, 0.1),
            lambda p: 0.9 * skin + 0 * p,
        ),
        (
            rotation,
            (width, 0.05, -0.05),
            (0.07, 0.15, 0.1),
            lambda p: 0.9 * skin + 0 * p,
        ),
        (
            rotation,
            (0.0, 0.0, 0.0),
            (width, height, 0.7),
            lambda p: _paint_face(p, identity, motion),
        ),
        (
            rotation,
            (0.0, identity["eye_height"] + 0.62 * identity["nose_length"], 0.6),
            (identity["nose_width"], 0.5 * identity["nose_length"], 0.2),
            lambda p: skin * (1.0 + 0.04 * p[..., 1:2]),
        ),
    ]
    strand = 1.0 + 0.12 * jnp.sin(
        40.0 * pixels[..., 0] + 6.0 * jnp.sin(4.0 * pixels[..., 1])
    )
    for turn, centre, radii, paint in surfaces:
        # The jaw narrows the head towards the chin.
        squeezed = pixels
        if paint is not None and turn is rotation:
            taper = (
                1.0 + identity["jaw"] * jnp.clip(pixels[..., 1:], 0.0, 1.0) ** 2 * 1.3
            )
            squeezed = pixels * jnp.concatenate([taper, jnp.ones_like(taper)], axis=-1)
        hit = _meet(squeezed, turn, centre, radii)
        colour = hair * strand[..., None] if paint is None else paint(hit.point)
        shaded = _shade(colour, hit.normal, scene)
        nearer = hit.depth > depth
        picture = jnp.where(nearer[..., None], shaded, picture)
        depth = jnp.maximum(depth, hit.depth)
    return picture.reshape(size, _SUPERSAMPLE, size, _SUPERSAMPLE, 3).mean(axis=(1, 3))
