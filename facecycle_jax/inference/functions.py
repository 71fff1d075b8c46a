"""What a trained model computes, as pure functions of (forward, trees, images, ...).

Images go in and come out uint8 [N, S, S, 3], RGB; codes are float32 in (-1, 1); flows
are float32 [N, S/4, S/4, 2]. A function computes the outputs it is asked for and what
these need, nothing else.

References:
  FaceCycle (ICCV 2021), sections 3.1, 3.2 and 4.5.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceNetworks
from facecycle_jax.ops import backward_flow, denormalise, normalise

Arrays = dict[str, jax.Array]

# The outputs of one face, each with the outputs that it is computed from.
FACE_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "motion_code": (),
    "flow": ("motion_code",),
    "backward_flow": ("flow",),
    "neutral": ("flow",),
    "reconstruction": ("neutral", "backward_flow"),
    "identity_code": (),
    "mean_face": ("neutral", "identity_code"),
}
# The outputs of a pair of faces, likewise.
PAIR_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    **{name: needs for name, needs in FACE_OUTPUTS.items() if name != "reconstruction"},
    "reexpressed": ("neutral", "backward_flow"),
    "reidentified": ("mean_face", "identity_code"),
    "reidentified_reexpressed": ("reidentified", "backward_flow"),
}
# Outputs that only a model of both stages has.
IDENTITY_OUTPUTS = (
    "identity_code",
    "mean_face",
    "reidentified",
    "reidentified_reexpressed",
)
# Outputs that are not images, which are drawn normalised and returned as uint8.
_NUMBERS = ("motion_code", "flow", "backward_flow", "identity_code")


def check_outputs(
    names: Iterable[str], known: Iterable[str], *, has_identity: bool
) -> tuple[str, ...]:
    """Checks the names of outputs.

    Args:
      names: of outputs.
      known: those that there are.
      has_identity: whether the networks of stage 2 are there.

    Returns:
      The names, each once, in their order.

    Raises:
      ValueError: If there is no name, one is unknown, or one needs stage 2 and that is
        missing.
    """
    if isinstance(names, str):
        raise UserError(
            f"outputs must be several names, such as ({names!r},), got the string {names!r}."
        )

    wanted = tuple(dict.fromkeys(names))
    known = tuple(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        found = repr(unknown[0]) if unknown else "none"
        raise UserError(f"outputs must be among {', '.join(known)}, got {found}.")

    missing = [name for name in wanted if name in IDENTITY_OUTPUTS]
    if missing and not has_identity:
        raise UserError(
            f"This model has stage 1 alone; {missing[0]!r} needs a model of both stages."
        )
    return wanted


def feature_map(
    forward: FaceNetworks, trees: Tree, images: jax.Array, *, layer: str, side: int
) -> Arrays:
    """Computes the map of a layer of the motion encoder, see `FaceNetworks`.

    {map float32 [N, h, w, c]}.
    """
    return {
        "map": forward.feature_map(trees, normalise(images), layer=layer, side=side)
    }


def face_outputs(
    forward: FaceNetworks, trees: Tree, images: jax.Array, *, outputs: tuple[str, ...]
) -> Arrays:
    """Computes outputs of single faces.

    Args:
      forward: the networks.
      trees: parameters by network name.
      images: uint8 [N, S, S, 3].
      outputs: names of `FACE_OUTPUTS`.

    Returns:
      Arrays [N, ...] by name.
    """
    needed = _needed(outputs, FACE_OUTPUTS)
    found = _cycle(forward, trees, images, needed)

    if "reconstruction" in needed:
        found["reconstruction"] = _draw(
            forward, trees, found["neutral"], found["backward_flow"]
        )
    return _select(found, outputs)


def reexpress(forward: FaceNetworks, trees: Tree, a: jax.Array, b: jax.Array) -> Arrays:
    """Draws faces `a` with the motion of faces `b`: {reexpressed}."""
    source = _cycle(forward, trees, a, _needed(("neutral",), FACE_OUTPUTS))
    driver = _cycle(forward, trees, b, _needed(("backward_flow",), FACE_OUTPUTS))
    found = {
        "reexpressed": _draw(forward, trees, source["neutral"], driver["backward_flow"])
    }
    return _select(found, ("reexpressed",))


def pair_outputs(
    forward: FaceNetworks,
    trees: Tree,
    a: jax.Array,
    b: jax.Array,
    *,
    outputs: tuple[str, ...],
) -> Arrays:
    """Exchanges motion and identity of pairs.

    Args:
      forward: the networks.
      trees: parameters by network name.
      a: uint8 [N, S, S, 3].
      b: uint8 [N, S, S, 3].
      outputs: names of `PAIR_OUTPUTS`; see `FaceCycle.translate`.

    Returns:
      Arrays [N, 2, ...] by name, the second axis `a` and `b`.
    """
    needed = _needed(outputs, PAIR_OUTPUTS)

    # All arrays are [a; b] from here on, so a roll by half the batch exchanges the two
    # faces.
    images = jnp.concatenate([a, b])
    found = _cycle(forward, trees, images, needed)

    def others(name: str) -> jax.Array:
        return jnp.roll(found[name], len(a), axis=0)

    if "reexpressed" in needed:
        found["reexpressed"] = _draw(
            forward, trees, found["neutral"], others("backward_flow")
        )
    if "reidentified" in needed:
        features = forward.features(trees, others("mean_face"))
        found["reidentified"] = forward.restore_identity(
            trees, features, found["identity_code"]
        )
    if "reidentified_reexpressed" in needed:
        both = _draw(forward, trees, found["reidentified"], others("backward_flow"))
        found["reidentified_reexpressed"] = both

    selected = _select(found, outputs)
    return {
        name: jnp.stack(jnp.split(value, 2), axis=1) for name, value in selected.items()
    }


def _needed(
    outputs: Iterable[str], known: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """The outputs, and all that they are computed from."""
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting.extend(known[name])
    return frozenset(needed)


def _cycle(
    forward: FaceNetworks, trees: Tree, images: jax.Array, needed: frozenset[str]
) -> Arrays:
    """Computes what single faces and pairs have in common, drawn images normalised."""
    found: Arrays = {}
    faces = normalise(images)

    if "motion_code" in needed:
        found["motion_code"] = forward.motion_code(trees, faces)
    if "flow" in needed:
        found["flow"] = forward.flow(trees, found["motion_code"])
    if "backward_flow" in needed:
        found["backward_flow"] = backward_flow(found["flow"])
    if "neutral" in needed:
        found["neutral"] = _draw(forward, trees, faces, found["flow"])

    if "identity_code" in needed:
        found["identity_code"] = forward.identity_code(trees, faces)
    if "mean_face" in needed:
        features = forward.features(trees, found["neutral"])
        found["mean_face"] = forward.remove_identity(
            trees, features, found["identity_code"]
        )
    return found


def _draw(
    forward: FaceNetworks, trees: Tree, images: jax.Array, flow: jax.Array
) -> jax.Array:
    """Draws normalised images moved by a flow."""
    return forward.draw(trees, forward.features(trees, images), flow)


def _select(found: Arrays, outputs: tuple[str, ...]) -> Arrays:
    """Picks outputs, drawn images as uint8."""
    selected = {}
    for name in outputs:
        value = found[name]
        selected[name] = (
            value if name in _NUMBERS else denormalise(value.astype(jnp.float32))
        )
    return selected
