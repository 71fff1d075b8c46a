"""What a trained model computes, as pure functions of (forward, trees, pictures, ...).

Pictures go in and come out uint8 [N, S, S, 3], RGB; codes are float32 in (-1, 1); flows are float32 [N, S/4,
S/4, 2].

References:
  FaceCycle (ICCV 2021), sections 3.1, 3.2 and 4.5.
"""

import jax
import jax.numpy as jnp

from facecycle_jax.methods.base import Tree
from facecycle_jax.methods.forward import Forward
from facecycle_jax.ops import denormalise, normalise


def motion_code(forward: Forward, trees: Tree, frames: jax.Array) -> dict[str, jax.Array]:
    """Computes motion codes: {code float32 [N, D]}."""
    return {"code": forward.motion(trees, normalise(frames))[0]}


def identity_code(forward: Forward, trees: Tree, frames: jax.Array) -> dict[str, jax.Array]:
    """Computes identity codes: {code float32 [N, D]}."""
    return {"code": forward.identity_code(trees, normalise(frames))}


def feature_map(
    forward: Forward, trees: Tree, frames: jax.Array, *, layer: str, side: int
) -> dict[str, jax.Array]:
    """Computes the map of a layer of the motion encoder, see `Forward`: {map float32 [N, h, w, c]}."""
    return {"map": forward.feature_map(trees, normalise(frames), layer=layer, side=side)}


def _picture(drawn: jax.Array) -> jax.Array:
    return denormalise(drawn.astype(jnp.float32))


def _draw(forward: Forward, trees: Tree, pictures: jax.Array, flow: jax.Array) -> jax.Array:
    """Draws pictures moved by a flow."""
    return forward.draw(trees, forward.features(trees, pictures), flow)


def neutral(forward: Forward, trees: Tree, frames: jax.Array) -> dict[str, jax.Array]:
    """Draws neutral faces, and the faces again from them: neutral, reconstruction, input and both flows."""
    pictures = normalise(frames)
    _, flow, back = forward.motion(trees, pictures)
    neutral = _draw(forward, trees, pictures, flow)
    again = _draw(forward, trees, neutral, back)
    return {
        "input": frames,
        "flow": flow,
        "backward_flow": back,
        "neutral": _picture(neutral),
        "reconstruction": _picture(again),
    }


def faces(forward: Forward, trees: Tree, frames: jax.Array) -> dict[str, jax.Array]:
    """Draws neutral and mean faces: input, neutral, mean_face."""
    pictures = normalise(frames)
    _, flow, _ = forward.motion(trees, pictures)
    neutral = _draw(forward, trees, pictures, flow)
    code = forward.identity_code(trees, pictures)
    mean = forward.remove_identity(trees, forward.features(trees, neutral), code)
    return {"input": frames, "neutral": _picture(neutral), "mean_face": _picture(mean)}


def reexpress(forward: Forward, trees: Tree, a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
    """Draws faces with the motion of others: {reexpressed}."""
    source, driver = normalise(a), normalise(b)
    _, flow, _ = forward.motion(trees, source)
    _, _, back = forward.motion(trees, driver)
    neutral = _draw(forward, trees, source, flow)
    return {"reexpressed": _picture(_draw(forward, trees, neutral, back))}


def exchange_motion(forward: Forward, trees: Tree, a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
    """Exchanges the motion of pairs, [N, 2, ...]: input, flow, neutral, reexpressed."""
    drawn, _ = _swap_motion(forward, trees, a, b)
    return _as_pairs(drawn)


def _swap_motion(
    forward: Forward, trees: Tree, a: jax.Array, b: jax.Array
) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Exchanges motion; all arrays are [source; driver]."""
    frames = jnp.concatenate([a, b])
    pictures = normalise(frames)
    _, flow, back = forward.motion(trees, pictures)
    neutral = _draw(forward, trees, pictures, flow)
    others = jnp.roll(back, len(a), axis=0)
    reexpressed = _draw(forward, trees, neutral, others)
    drawn = {
        "input": frames,
        "flow": flow,
        "neutral": _picture(neutral),
        "reexpressed": _picture(reexpressed),
    }
    return drawn, (pictures, neutral, others)


def translate(forward: Forward, trees: Tree, a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
    """Exchanges motion and identity of pairs; see `FaceCycle.translate` for the names."""
    drawn, (pictures, neutral, others) = _swap_motion(forward, trees, a, b)
    code = forward.identity_code(trees, pictures)
    mean = forward.remove_identity(trees, forward.features(trees, neutral), code)
    other_mean = jnp.roll(mean, len(a), axis=0)
    identified = forward.restore_identity(trees, forward.features(trees, other_mean), code)
    both = _draw(forward, trees, identified, others)
    named = {"mean_face": mean, "reidentified": identified, "reidentified_reexpressed": both}
    return _as_pairs(drawn | {name: _picture(value) for name, value in named.items()})


def _as_pairs(drawn: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Turns [source; driver] into [N, 2, ...]."""
    return {name: jnp.stack(jnp.split(value, 2), axis=1) for name, value in drawn.items()}
