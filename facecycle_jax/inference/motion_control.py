"""Control of motion: how much of a driver's motion a face gets, and which part.

All functions work on motion codes, float32 [N, D] in (-1, 1). Codes are the tanh of
what the encoder's last layer gives, so they are added and blended in that layer's
space, and the tanh brings the result back into (-1, 1).

Head pose is a part of the motion code: how the head is turned, and where and how large
it is in the image. Its directions are found on synthetic faces, whose pose is known
exactly. Whatever of a code is not head pose counts as expression.
"""

import hashlib
import io
import json
import logging
import math
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax import compilation_cache
from facecycle_jax.data.images.framing import Framing, cut_square, square_of_eyes
from facecycle_jax.data.sources.synthetic import synthetic_tracks
from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.inference.arguments import check_number, check_whole_number
from facecycle_jax.inference.arrays_file import read_arrays
from facecycle_jax.ops import head_rotation

if TYPE_CHECKING:
    from facecycle_jax.inference.face_cycle import FaceCycle

log = logging.getLogger(__name__)

# Least and largest strength of a driver's motion.
STRENGTHS = (0.0, 1.5)
# Fewest and most faces of an interpolation, which are in memory together.
FRAMES = (2, 1000)
# Parts of the motion that can be taken alone.
PARTS = ("pose", "expression")
# What head pose consists of: degrees of the first three, per cent of the image's side
# of the two shifts, and per cent of the face's size. Yaw and the first shift are above
# 0 to the image's right, pitch and the second shift down, roll clockwise.
ANGLES = ("yaw", "pitch", "roll")
POSE = (*ANGLES, "shift_x", "shift_y", "size")
# Codes this close to -1 and 1 count as saturated, so that arctanh stays finite.
_LARGEST_CODE = 1 - 1e-6

# The synthetic faces of the regression.
_SEED = 20_211_011
_PEOPLE = 48
_FRAMES = 8
_SIDE = 80
# Standard deviations by which their squares miss the framing: of the place, per cent of
# the side, and of the size, per cent. Detectors miss it too.
_MISPLACED = 5.0
_MISSIZED = 8.0
# Half depth of their heads, in units of half an image.
_DEPTH = 0.7
# Every fourth person is held out to choose the penalty.
_HELD_OUT = 4
# Penalties of the ridge regression, as fractions of the mean eigenvalue.
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Changed with everything above, because directions are kept in files.
_FORMAT = 3


class PoseDirections(NamedTuple):
    """Where head pose is in the codes of a model, before their tanh.

    Attributes:
      directions: float32 [6, D], what one unit of each of `POSE` adds to a code: a
        degree of yaw, pitch or roll, a per cent of shift or size.
      readout: float32 [D, 6], which reads these six from the difference of two codes.
        `directions @ readout` is the identity.
      scores: float32 [6], R^2 of reading the pose of synthetic people that were held
        out, 1 at best. It says how much of the pose the codes hold.
    """

    directions: np.ndarray
    readout: np.ndarray
    scores: np.ndarray


def before_tanh(codes: np.ndarray) -> np.ndarray:
    """Returns codes [..., D] as they were before the tanh, in float64."""
    bounded = np.clip(np.asarray(codes, np.float64), -_LARGEST_CODE, _LARGEST_CODE)
    return np.arctanh(bounded)


def after_tanh(values: np.ndarray) -> np.ndarray:
    """Returns float32 codes [..., D] in (-1, 1) of values before the tanh."""
    return np.clip(np.tanh(values), -_LARGEST_CODE, _LARGEST_CODE).astype(np.float32)


def combine(
    source: np.ndarray,
    driver: np.ndarray,
    *,
    strength: float = 1.0,
    only: str | None = None,
    reference: np.ndarray | None = None,
    directions: PoseDirections | None = None,
) -> np.ndarray:
    """Computes the codes of source faces that are moved by drivers.

    Args:
      source: [N, D] or [1, D], codes of the source faces.
      driver: [N, D] or [1, D], codes of the drivers.
      strength: how far the source goes to the driver, 0 (not at all) to 1.5. 1 takes
        over the driver's motion, more exaggerates it.
      only: 'pose' takes over `POSE` alone, 'expression' all but that; the rest stays
        the source's. None takes over both.
      reference: [1, D] or [N, D]. If given, the motion is the driver's difference from
        this code, for instance that of a video's first frame, and is added to the
        source's own motion.
      directions: head pose in the codes of this model, needed with `only`.

    Returns:
      float32 [N, D] in (-1, 1).

    Raises:
      UserError: If an option is out of range, or the codes have different lengths.
    """
    check_strength(strength)
    check_part(only)
    _check_lengths(source, driver, reference)

    start = before_tanh(source)
    origin = start if reference is None else before_tanh(reference)
    change = before_tanh(driver) - origin

    if only is not None:
        if directions is None:
            raise UserError(f"only={only!r} needs the model's pose_directions.")

        # The change of pose, and what that alone adds to a code.
        pose = change @ directions.readout @ directions.directions
        change = pose if only == "pose" else change - pose

    return after_tanh(start + strength * change)


def turn(
    codes: np.ndarray,
    directions: PoseDirections,
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
) -> np.ndarray:
    """Adds head pose to codes.

    Args:
      codes: [N, D].
      directions: head pose in the codes of this model.
      yaw: degrees, above 0 to the image's right.
      pitch: degrees, above 0 down.
      roll: degrees, above 0 clockwise.

    Returns:
      float32 [N, D] in (-1, 1).

    Raises:
      UserError: If an angle is not one finite number.
    """
    check_angles(yaw=yaw, pitch=pitch, roll=roll)
    angles = np.array([yaw, pitch, roll], np.float64)
    change = angles @ directions.directions[: len(ANGLES)]
    return after_tanh(before_tanh(codes) + change)


def pose_between(
    first: np.ndarray, second: np.ndarray, directions: PoseDirections
) -> np.ndarray:
    """Reads how far heads turn and move from one code to another.

    Args:
      first: [N, D].
      second: [N, D].
      directions: head pose in the codes of this model.

    Returns:
      float32 [N, 6], in the units of `POSE`.
    """
    change = before_tanh(second) - before_tanh(first)
    return (change @ directions.readout).astype(np.float32)


def interpolate(first: np.ndarray, second: np.ndarray, frames: int) -> np.ndarray:
    """Computes codes at equal steps from one code to another.

    Args:
      first: [D].
      second: [D].
      frames: number of codes, 2 to 1000; the first and the last are the given ones.

    Returns:
      float32 [frames, D] in (-1, 1).

    Raises:
      UserError: If `frames` is out of range, or the codes have different lengths.
    """
    check_frames(frames)
    _check_lengths(first, second)

    start = before_tanh(first)
    weights = np.linspace(0.0, 1.0, frames)[:, None]
    return after_tanh(start + weights * (before_tanh(second) - start))


def check_strength(strength: float) -> None:
    """Raises UserError unless a strength is a number within `STRENGTHS`."""
    check_number(strength, name="strength")
    least, largest = STRENGTHS
    # NaN is refused too.
    if not least <= strength <= largest:
        raise UserError(f"strength must be {least:g} to {largest:g}, got {strength}.")


def check_angles(**angles: float) -> None:
    """Raises UserError unless angles, by name, are finite numbers."""
    for name, degrees in angles.items():
        check_number(degrees, name=name)
        if not math.isfinite(degrees):
            raise UserError(
                f"{name} must be a finite number of degrees, got {degrees}."
            )


def check_part(only: str | None) -> None:
    """Raises UserError unless a part of the motion is None or one of `PARTS`."""
    if only is not None and only not in PARTS:
        raise UserError(f"only must be 'pose' or 'expression', got {only!r}.")


def check_frames(frames: int) -> None:
    """Raises UserError unless a number of frames is whole and within `FRAMES`."""
    check_whole_number(frames, name="frames")
    least, most = FRAMES
    if frames < least:
        raise UserError(f"frames must be at least {least}, got {frames}.")
    if frames > most:
        raise UserError(f"frames must be at most {most}, got {frames}.")


def _check_lengths(*codes: np.ndarray | None) -> None:
    """Raises UserError if codes have different lengths."""
    lengths = {np.shape(code)[-1] for code in codes if code is not None}
    if len(lengths) > 1:
        raise UserError(
            f"Codes of one model have one length, got {sorted(lengths)} numbers."
        )


def fit_pose_directions(
    codes: np.ndarray, poses: np.ndarray, people: np.ndarray
) -> PoseDirections:
    """Finds head pose in codes by ridge regression.

    Only differences within a person count, so that neither identity nor lighting is
    taken for pose.

    Args:
      codes: [N, D], codes of faces.
      poses: [N, K], the pose of each.
      people: [N], a number for each person; several faces of each of at least 8 people.

    Returns:
      The directions.
    """
    values = _within_people(before_tanh(codes), people)
    turned = _within_people(np.asarray(poses, np.float64), people)

    # The penalty that reads the pose of people who were held out best.
    _, person = np.unique(people, return_inverse=True)
    held_out = person % _HELD_OUT == 0
    scored = []
    for penalty in _PENALTIES:
        weights = _ridge(values[~held_out], turned[~held_out], penalty)
        errors = turned[held_out] - values[held_out] @ weights
        scores = 1 - (errors**2).sum(0) / (turned[held_out] ** 2).sum(0)
        scored.append((float(scores.mean()), penalty, scores))
    _, penalty, scores = max(scored, key=lambda entry: entry[0])

    # Directions [K, D]: what one unit of pose adds to a code, by least squares.
    directions, *_ = np.linalg.lstsq(turned, values, rcond=None)

    # Weights [D, K] read pose from a code. They are not directions, because they also
    # cancel what happens to vary along with pose. The penalty shrinks what they read;
    # the readout is scaled so that a unit along a direction reads as exactly one.
    weights = _ridge(values, turned, penalty)
    readout = weights @ np.linalg.pinv(directions @ weights)

    return PoseDirections(
        directions=directions.astype(np.float32),
        readout=readout.astype(np.float32),
        scores=scores.astype(np.float32),
    )


def _within_people(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Subtracts from values [N, K] the mean of each person."""
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, person, values)
    means = sums / counts[:, None]
    return values - means[person]


def _ridge(values: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Solves ridge regression: weights [D, K] from values [N, D] and targets [N, K]."""
    products = values.T @ values
    strength = penalty * np.trace(products) / len(products) + 1e-12
    return np.linalg.solve(
        products + strength * np.eye(len(products)), values.T @ targets
    )


def motion_key(trees: Mapping[str, Any]) -> str:
    """Computes what identifies the motion encoder that wrote a code.

    Args:
      trees: parameters by network name.

    Returns:
      A checksum in hexadecimal digits. Models of equal encoders have equal ones, so a
      model of stage 2 shares that of its stage 1.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(dict(trees["motion_encoder"]))
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# Directions that were computed or read, by `_directions_key`. The lock keeps threads
# from computing the same ones.
_KNOWN: dict[str, PoseDirections] = {}
_COMPUTING = threading.Lock()


def pose_directions(model: "FaceCycle") -> PoseDirections:
    """Finds head pose in the codes of a model.

    The model encodes synthetic faces of known pose, always the same ones. That takes
    seconds, so the result is kept in memory and in a file of the user's cache
    directory.

    Args:
      model: a model.

    Returns:
      The directions.
    """
    key = _directions_key(model)
    with _COMPUTING:
        if key not in _KNOWN:
            _KNOWN[key] = _read(key) or _compute(model, key)
        return _KNOWN[key]


def _directions_key(model: "FaceCycle") -> str:
    """Computes what identifies the directions of a model, in hexadecimal digits.

    Models of one motion encoder may expect faces in another framing or size, or compute
    in another dtype. Each has directions of its own.
    """
    parts = {
        "motion_encoder": model.motion_key,
        "framing": model.framing.to_dict(),
        "size": model.size,
        "dtype": model.model["dtype"],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _faces_of_known_pose(
    framing: Framing,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Renders synthetic faces in about the framing that a model expects.

    Returns:
      Images uint8 [S, S, 3] of several sizes S, their poses [N, 6] and people [N].
    """
    tracks = synthetic_tracks(
        _SEED, identities=_PEOPLE, frames_per_track=_FRAMES, size=_SIDE
    )
    motion = tracks["motion"]
    person = {
        name: np.repeat(value, _FRAMES)
        for name, value in tracks["identity_parameters"].items()
    }
    eyes = _eyes_between(person, motion)

    # From coordinates -1 to 1 to pixels.
    eyes = (eyes + 1) / 2 * _SIDE
    eye_distances = person["eye_spacing"] * _SIDE

    # Each face is cut out off-centre and off-size by known amounts.
    rng = np.random.default_rng(_SEED)
    shifts = rng.normal(0, _MISPLACED, (len(eyes), 2))
    sizes = rng.normal(0, _MISSIZED, len(eyes))

    images = []
    placed = np.zeros((len(eyes), 3))
    for i, frame in enumerate(tracks["frames"]):
        framed_side = eye_distances[i] / framing.eye_distance
        # Moving the square to the left moves the face to the right.
        assumed_distance = eye_distances[i] / (1 + sizes[i] / 100)
        x, y = eyes[i] - shifts[i] / 100 * framed_side
        square = square_of_eyes((float(x), float(y)), float(assumed_distance), framing)
        images.append(cut_square(frame, square))

        # Squares have whole pixels, so the labels are those of the rounded square.
        left, top, right, _ = square
        cut_side = right - left
        midpoint = (eyes[i] - (left, top)) / cut_side - framing.midpoint
        placed[i, :2] = 100 * midpoint
        placed[i, 2] = 100 * (framed_side / cut_side - 1)

    angles = np.stack([motion[name] for name in ANGLES], axis=1)
    return images, np.concatenate([angles, placed], axis=1), tracks["identity"]


def _eyes_between(
    person: Mapping[str, np.ndarray], motion: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Computes the midpoints [N, 2] of the eyes in images that span -1 to 1."""
    # On the ellipsoid of the head, before it turns.
    across = person["eye_spacing"] / person["face_width"]
    down = person["eye_height"] / person["face_height"]
    z = _DEPTH * np.sqrt(np.maximum(1 - across**2 - down**2, 0))
    y = person["eye_height"]

    # The midpoints [N, 3], turned by the rotations [N, 3, 3] of the renderer.
    points = np.stack([np.zeros_like(y), y, z], axis=1)
    angles = np.broadcast_arrays(*(motion[name] for name in ANGLES))
    rotations = jax.vmap(head_rotation)(*map(jnp.asarray, angles))
    return np.einsum("nij,nj->ni", np.asarray(rotations), points)[:, :2]


def _compute(model: "FaceCycle", key: str) -> PoseDirections:
    """Computes directions and writes their file."""
    log.info("Finding head pose in the motion codes of this model")
    images, poses, people = _faces_of_known_pose(model.framing)
    found = fit_pose_directions(model.motion_code(images), poses, people)

    file = _file(key)
    if file is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **found._asdict())
        try:
            write_whole(file, buffer.getvalue())
        except OSError as error:
            log.warning("The directions of head pose are not kept: %s", error)
    return found


def _read(key: str) -> PoseDirections | None:
    """Reads the file of a model's directions; None if there is none that is whole."""
    file = _file(key)
    if file is None:
        return None

    try:
        if not file.is_file():
            return None
        arrays = read_arrays(file)
    except OSError as error:
        log.warning(
            "Directions of head pose are computed anew, because their file cannot be "
            "read: %s",
            error,
        )
        return None
    except UserError as error:
        log.warning("%s is computed anew, because it is damaged: %s", file, error)
        return None

    found = _directions_of(arrays)
    if found is None:
        log.warning("%s is computed anew, because it holds other arrays", file)
    return found


def _directions_of(arrays: Mapping[str, np.ndarray]) -> PoseDirections | None:
    """Returns the directions that a file holds; None if it holds something else."""
    if not set(PoseDirections._fields) <= set(arrays):
        return None
    found = PoseDirections(**{name: arrays[name] for name in PoseDirections._fields})

    # All are of one number D of numbers in a code.
    pose = len(POSE)
    dimension = found.directions.shape[-1] if found.directions.ndim else 0
    shapes = [(pose, dimension), (dimension, pose), (pose,)]
    if [array.shape for array in found] != shapes:
        return None

    are_numbers = all(
        array.dtype == np.float32 and np.isfinite(array).all() for array in found
    )
    return found if are_numbers else None


def _file(key: str) -> pathlib.Path | None:
    """Names the file of a model's directions; None where nothing is to be kept."""
    if os.environ.get(compilation_cache.VARIABLE) == "":
        return None

    cache = compilation_cache.user_cache()
    if cache is None:
        return None
    return cache / "motion" / f"pose_{_FORMAT}_{key[:32]}.npz"
