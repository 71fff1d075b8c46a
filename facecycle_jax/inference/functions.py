"""What a trained model computes, as pure functions of (networks, trees, images, ...).

Images go in and come out as uint8 [N, S, S, 3], RGB. Codes are float32 in (-1, 1), and
flows are float32 [N, S/4, S/4, 2]. A function computes the requested outputs and what
they depend on, nothing else.

References:
  FaceCycle (ICCV 2021), sections 3.1, 3.2 and 4.5.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceFeatures, FaceNetworks
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

# The outputs of a pair of faces, likewise. A pair exchanges what a single face's
# reconstruction puts back.
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

# Outputs that are not images. Images are drawn normalised and returned as uint8.
_NUMBERS = ("motion_code", "flow", "backward_flow", "identity_code")


def check_outputs(
    names: Iterable[str], known: Iterable[str], *, has_identity: bool
) -> tuple[str, ...]:
    """Checks the names of outputs.

    Args:
      names: the requested outputs.
      known: the outputs that exist.
      has_identity: whether the model has the networks of stage 2.

    Returns:
      The names, each once, in their order.

    Raises:
      UserError: If there is no name, one is unknown, or one needs stage 2 and the model
        has none.
    """
    if isinstance(names, str):
        raise UserError(
            f"outputs must be several names, such as ({names!r},), got the string "
            f"{names!r}."
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
            f"This model has stage 1 alone; {missing[0]!r} needs a model of both "
            "stages."
        )
    return wanted


def feature_map(
    networks: FaceNetworks, trees: Tree, images: jax.Array, *, layer: str, side: int
) -> Arrays:
    """Computes the map of a layer of the motion encoder; see `FaceNetworks`.

    Args:
      networks: the networks.
      trees: parameters by network name.
      images: uint8 [N, H, W, 3].
      layer: one of `facecycle_jax.networks.LAYERS`, or several separated by commas.
      side: if above 0, the map is averaged over side x side areas.

    Returns:
      {map: float32 [N, h, w, c]}.
    """
    found = networks.feature_map(trees, normalise(images), layer=layer, side=side)
    return {"map": found}


def face_outputs(
    networks: FaceNetworks, trees: Tree, images: jax.Array, *, outputs: tuple[str, ...]
) -> Arrays:
    """Computes outputs of single faces.

    Args:
      networks: the networks.
      trees: parameters by network name.
      images: uint8 [N, S, S, 3].
      outputs: names of `FACE_OUTPUTS`.

    Returns:
      Arrays [N, ...] by name.
    """
    needed = _needed(outputs, FACE_OUTPUTS)
    found = _cycle(networks, trees, images, needed)

    if "reconstruction" in needed:
        found["reconstruction"] = _draw(
            networks, trees, found["neutral"], found["backward_flow"]
        )
    return _select(found, outputs)


def reexpress(
    networks: FaceNetworks, trees: Tree, a: jax.Array, b: jax.Array
) -> Arrays:
    """Draws faces `a` with the motion of faces `b`.

    Args:
      networks: the networks.
      trees: parameters by network name.
      a: uint8 [N, S, S, 3].
      b: uint8 [N, S, S, 3].

    Returns:
      {reexpressed: uint8 [N, S, S, 3]}.
    """
    # Each side needs one half of the cycle: `a` loses its motion, `b` gives its own.
    source = _cycle(networks, trees, a, _needed(("neutral",), FACE_OUTPUTS))
    driver = _cycle(networks, trees, b, _needed(("backward_flow",), FACE_OUTPUTS))

    drawn = _draw(networks, trees, source["neutral"], driver["backward_flow"])
    return _select({"reexpressed": drawn}, ("reexpressed",))


def prepare(
    networks: FaceNetworks,
    trees: Tree,
    images: jax.Array,
    *,
    outputs: tuple[str, ...] = (),
) -> Arrays:
    """Computes what drawing faces with other motion needs of them.

    Args:
      networks: the networks.
      trees: parameters by network name.
      images: uint8 [N, S, S, 3].
      outputs: names of `FACE_OUTPUTS` to compute as well.

    Returns:
      Their motion_code [N, D], and the trunk's maps of their neutral faces: conv2_1 [N,
      S/2, S/2, C2] and conv3_1 [N, S/4, S/4, C3], all float32; and the outputs.
    """
    needed = _needed(("neutral", *outputs), FACE_OUTPUTS)
    found = _cycle(networks, trees, images, needed)

    features = networks.features(trees, found["neutral"])
    if "reconstruction" in needed:
        found["reconstruction"] = networks.generate(
            trees, features, found["backward_flow"]
        )

    maps = features.trunk
    kept = {name: value.astype(jnp.float32) for name, value in maps.items()}
    drawn = _select(found, outputs)
    return {"motion_code": found["motion_code"], **kept, **drawn}


def express(
    networks: FaceNetworks,
    trees: Tree,
    fine: jax.Array,
    coarse: jax.Array,
    codes: jax.Array,
) -> Arrays:
    """Draws prepared faces with the motion of codes.

    Args:
      networks: the networks.
      trees: parameters by network name.
      fine: conv2_1 of `prepare`.
      coarse: conv3_1 of `prepare`.
      codes: motion codes [N, D].

    Returns:
      {expressed: uint8 [N, S, S, 3]}.
    """
    flow = backward_flow(networks.flow(trees, codes))
    features = FaceFeatures(trunk={"conv2_1": fine, "conv3_1": coarse}, loss={})
    drawn = networks.generate(trees, features, flow)
    return _select({"expressed": drawn}, ("expressed",))


def morph(
    networks: FaceNetworks,
    trees: Tree,
    a: jax.Array,
    b: jax.Array,
    weights: jax.Array,
    identity_codes: jax.Array,
    motion_codes: jax.Array,
) -> Arrays:
    """Draws faces between the identities of two faces.

    Args:
      networks: the networks, of both stages.
      trees: parameters by network name.
      a: uint8 [N, S, S, 3].
      b: uint8 [N, S, S, 3].
      weights: float32 [N], from 0 (the mean face of `a`) to 1 (that of `b`).
      identity_codes: [N, D], whose identity is put on the mean faces.
      motion_codes: [N, D], the motion.

    Returns:
      {morphed: uint8 [N, S, S, 3]}.
    """
    needed = _needed(("mean_face",), FACE_OUTPUTS)
    first = _cycle(networks, trees, a, needed)["mean_face"]
    second = _cycle(networks, trees, b, needed)["mean_face"]
    mean_face = first + weights[:, None, None, None] * (second - first)

    features = networks.features(trees, mean_face)
    neutral = networks.restore_identity(trees, features, identity_codes)

    flow = backward_flow(networks.flow(trees, motion_codes))
    drawn = _draw(networks, trees, neutral, flow)
    return _select({"morphed": drawn}, ("morphed",))


def pair_outputs(
    networks: FaceNetworks,
    trees: Tree,
    a: jax.Array,
    b: jax.Array,
    *,
    outputs: tuple[str, ...],
) -> Arrays:
    """Exchanges motion and identity of pairs.

    Args:
      networks: the networks.
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
    found = _cycle(networks, trees, images, needed)

    def others(name: str) -> jax.Array:
        return jnp.roll(found[name], len(a), axis=0)

    if "reexpressed" in needed:
        found["reexpressed"] = _draw(
            networks, trees, found["neutral"], others("backward_flow")
        )

    if "reidentified" in needed:
        features = networks.features(trees, others("mean_face"))
        found["reidentified"] = networks.restore_identity(
            trees, features, found["identity_code"]
        )

    if "reidentified_reexpressed" in needed:
        both = _draw(networks, trees, found["reidentified"], others("backward_flow"))
        found["reidentified_reexpressed"] = both

    # From [2 N, ...] back to pairs [N, 2, ...].
    selected = _select(found, outputs)
    return {
        name: jnp.stack(jnp.split(value, 2), axis=1) for name, value in selected.items()
    }


def _needed(
    outputs: Iterable[str], known: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """Returns the outputs and everything that they are computed from."""
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting.extend(known[name])
    return frozenset(needed)


def _cycle(
    networks: FaceNetworks, trees: Tree, images: jax.Array, needed: frozenset[str]
) -> Arrays:
    """Computes what single faces and pairs share; drawn images stay normalised."""
    found: Arrays = {}
    faces = normalise(images)

    # Stage 1, section 3.1: the flow of the motion code removes the face's motion.
    if "motion_code" in needed:
        found["motion_code"] = networks.motion_code(trees, faces)
    if "flow" in needed:
        found["flow"] = networks.flow(trees, found["motion_code"])
    if "backward_flow" in needed:
        found["backward_flow"] = backward_flow(found["flow"])
    if "neutral" in needed:
        found["neutral"] = _draw(networks, trees, faces, found["flow"])

    # Stage 2, section 3.2: the identity code's share is removed from the neutral face.
    if "identity_code" in needed:
        found["identity_code"] = networks.identity_code(trees, faces)
    if "mean_face" in needed:
        features = networks.features(trees, found["neutral"])
        found["mean_face"] = networks.remove_identity(
            trees, features, found["identity_code"]
        )
    return found


def _draw(
    networks: FaceNetworks, trees: Tree, images: jax.Array, flow: jax.Array
) -> jax.Array:
    """Draws normalised images moved by a flow."""
    return networks.generate(trees, networks.features(trees, images), flow)


def _select(found: Arrays, outputs: tuple[str, ...]) -> Arrays:
    """Picks the requested outputs and turns drawn images into uint8."""
    selected = {}

    for name in outputs:
        value = found[name]
        if name not in _NUMBERS:
            value = denormalise(value.astype(jnp.float32))
        selected[name] = value

    return selected
