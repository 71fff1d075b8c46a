"""The choice of a training method from a configuration."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import LossOptions, Method, check_micro_batches
from facecycle_jax.methods.identity_cycle import IdentityLossOptions, identity_cycle
from facecycle_jax.methods.motion_cycle import MotionLossOptions, motion_cycle
from facecycle_jax.methods.peers import PEERS, make_peer
from facecycle_jax.networks import Tree, random_vgg, read_vgg_npz
from facecycle_jax.networks.face_networks import make_face_networks


class Cycle(NamedTuple):
    """A method on FaceCycle's networks and pairs of images.

    Attributes:
      build: `build(networks, vgg, options) -> Method`; without options, the paper's.
      options: class of its loss weights and switches.
    """

    build: Callable[..., Method]
    options: type[LossOptions]


METHODS = {
    "motion_cycle": Cycle(motion_cycle, MotionLossOptions),
    "identity_cycle": Cycle(identity_cycle, IdentityLossOptions),
}


def vgg_width(config: Mapping[str, Any]) -> float:
    """Returns the channel multiplier of the VGG-19 that a configuration requests.

    Args:
      config: with `loss.vgg` ('random' or a .npz path), `model.width` and, optionally,
        `loss.vgg_width` (0: 1 for a file, the model's width for 'random').

    Returns:
      The multiplier.

    Raises:
      UserError: If it is not the width of the file.
    """
    loss = config["loss"]
    width = loss.get("vgg_width") or 0.0
    if loss["vgg"] == "random":
        return width or config["model"]["width"]

    if width not in (0.0, 1.0):
        raise UserError(
            f"loss.vgg_width is {width}, but the weights in {loss['vgg']} have width 1."
        )
    return 1.0


def uses_vgg(config: Mapping[str, Any]) -> bool:
    """Whether FaceCycle's generator or its loss has a VGG-19.

    Args:
      config: with `loss.perceptual`, `model.trunk` and, optionally, `loss.generator`,
        without which neither images nor a trunk are computed.
    """
    loss = config["loss"]
    if not loss.get("generator", True):
        return False
    return bool(config["model"]["trunk"] == "vgg" or loss["perceptual"] != "none")


def vgg_parameters(
    config: Mapping[str, Any], *, weights: bool = True
) -> tuple[dict[str, Any] | None, float]:
    """Loads or draws the VGG-19 that a configuration requests.

    Args:
      config: with `loss.perceptual`, `model.trunk` and what `vgg_width` needs.
      weights: whether to read or draw them; if not, zeros of the same shapes are
        returned.

    Returns:
      The parameters as numpy arrays, or None where no VGG is used, and the channel
      multiplier.

    Raises:
      FileNotFoundError: If the file is missing, saying how to get it.
      UserError: If the file is unusable or does not have the requested width.
    """
    if not uses_vgg(config):
        return None, 1.0

    loss = config["loss"]

    width = vgg_width(config)
    if not weights:
        return _zeros(width), width
    if loss["vgg"] == "random":
        return jax.tree.map(np.asarray, random_vgg(width=width)), width
    return read_vgg_npz(loss["vgg"]), width


def _zeros(width: float) -> dict[str, Any]:
    """Returns zeros of the shapes of a VGG-19, which take no memory."""
    # All elements of an array share one number.
    shapes = jax.eval_shape(lambda: random_vgg(width=width))
    return jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes
    )


def make(config: Mapping[str, Any], *, weights: bool = True) -> Method:
    """Builds the method that a configuration describes.

    Args:
      config: with `method` (one of `METHODS` or `PEERS`), `model`, `loss` and,
        optionally, `remat` and `freeze`; see configs/<method>.py for their fields.
      weights: whether to read or draw the VGG-19; if not, zeros stand in and `init` is
        good for shapes only.

    Returns:
      The method.

    Raises:
      UserError: If a value is out of range.
      FileNotFoundError: If the VGG-19 file is missing.
    """
    name = config["method"]
    freeze = tuple(config.get("freeze", ()))
    if name in PEERS:
        return _freeze(make_peer(config, weights=weights), freeze)
    if name not in METHODS:
        known = sorted({**METHODS, **PEERS})
        raise UserError(f"method must be one of {known}, got {name!r}.")

    cycle = METHODS[name]
    options = cycle.options.from_config(config["loss"])
    if isinstance(options, IdentityLossOptions) and options.contrast_weight:
        check_micro_batches(config)
    vgg, width = vgg_parameters(config, weights=weights)
    networks = make_face_networks(
        config["model"],
        vgg_width=width,
        vgg_for_loss=options.perceptual != "none" and options.generator,
        remat=config.get("remat", False),
    )
    return _freeze(cycle.build(networks, vgg, options), freeze)


def _freeze(method: Method, names: tuple[str, ...]) -> Method:
    """Moves networks from what a method trains to what it only uses."""
    if not names:
        return method

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, frozen = method.init(key)
        unknown = [name for name in names if name not in params]
        if unknown or len(set(names)) == len(params):
            raise UserError(
                f"freeze must name some, not all, of {', '.join(sorted(params))}, "
                f"got {', '.join(names)}."
            )

        trained = {name: params[name] for name in params if name not in names}
        moved = {name: params[name] for name in names}
        return trained, {**frozen, **moved}

    return method._replace(init=init)
