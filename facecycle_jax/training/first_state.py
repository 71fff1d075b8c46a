"""The state that a run starts with: drawn, then with the networks of `init_from`."""

import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.devices import cpu_compiler_options
from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import CARRIED, SCHEDULE, START
from facecycle_jax.networks import Tree, widen
from facecycle_jax.training.digests import tree_digest
from facecycle_jax.training.init_from import (
    check_same_vgg,
    copy_trees,
    init_paths,
    load_trees,
)
from facecycle_jax.training.processes import check_same
from facecycle_jax.training.program import Program
from facecycle_jax.training.state import TrainState

log = logging.getLogger(__name__)


def first_state(
    config: Mapping[str, Any], program: Program, *, stages_before: Collection[str]
) -> TrainState:
    """Draws a state and copies into it, by name, the networks of `init_from`.

    Args:
      config: configuration of the run.
      program: what is computed.
      stages_before: paths of `init_from` that need not have a network of the method.

    Returns:
      The state at step 0, on the devices.

    Raises:
      UserError: If a network that the method builds on is missing, or if another path
        than those before has no network of the method.
      FileNotFoundError: If what `init_from` names is missing.
    """
    source = _read_source(config)
    fresh = _fresh_state(config, program, known=source)
    return _start_from(
        config, fresh, source, program.shardings, stages_before=stages_before
    )


def _fresh_state(
    config: Mapping[str, Any], program: Program, *, known: Collection[str]
) -> TrainState:
    """Draws the state at step 0, placed on the devices.

    Networks in `known` are zeros, since `_start_from` replaces them. Compiling what
    draws all networks takes 20 seconds on two CPU cores.
    """
    # Widened networks keep some of their random weights. A VGG-19, statistics and
    # schedules may not come from another run.
    overwritten = set(known) - {"vgg", *CARRIED}
    if config.get("init_widen", False):
        overwritten = set()

    def without_known(trees: Tree) -> Tree:
        made = dict(trees)
        for name, tree in trees.items():
            if name.removeprefix(START) in overwritten:
                made[name] = jax.tree.map(jnp.zeros_like, tree)
        return made

    def init(key: jax.Array) -> TrainState:
        state = program.init(key)
        return dataclasses.replace(
            state,
            params=without_known(state.params),
            frozen=without_known(state.frozen),
            ema=None if state.ema is None else without_known(state.ema),
        )

    # It runs once. On CPUs, optimising it takes three times as long as all the rest of
    # it.
    quick = cpu_compiler_options(jax.default_backend(), level=0)
    compiled = jax.jit(init, out_shardings=program.shardings, compiler_options=quick)
    return compiled(jax.random.key(config["seed"]))


def _read_source(config: Mapping[str, Any]) -> Tree:
    """Reads the networks of the runs and models that `init_from` names.

    Of networks that several paths have, the last one's are used.
    """
    source: Tree = {}
    for path in init_paths(config["init_from"]):
        source |= load_trees(path)
    return source


def _copy(x: Any) -> Any:
    """Copies an array where it is.

    An array moved to a single device could not be spread over processes.
    """
    return np.copy(x) if isinstance(x, np.ndarray) else jnp.copy(x)


def _networks_to_copy(
    config: Mapping[str, Any], state: TrainState, source: Tree
) -> tuple[Tree, tuple[str, ...]]:
    """Adapts the networks of `init_from` to a state.

    Returns the networks by name, and the names of what the state keeps of its own.
    """
    source = dict(source)
    for name in state.frozen:
        trained = name.removeprefix(START)
        if trained != name and trained in source:
            # A copy, as donated arguments must not share one buffer.
            source[name] = jax.tree.map(_copy, source[trained])
    if jax.process_count() > 1:
        check_same({"weights in init_from": tree_digest(source)})

    # The VGG-19 belongs to the generator that was trained on it. A generator with a
    # trunk of its own leaves the VGG-19 to the loss, where the configuration chooses.
    keep: tuple[str, ...] = (SCHEDULE,)
    if "vgg" not in state.frozen or config["model"]["trunk"] == "learned":
        keep = ("vgg", SCHEDULE)

    # A model folder holds only the layers that networks need. Those of losses alone
    # stay the configuration's.
    if "vgg" not in keep and "vgg" in source:
        if config["loss"]["perceptual"] != "none":
            check_same_vgg(state.frozen["vgg"], source["vgg"])
        source["vgg"] = {**state.frozen["vgg"], **source["vgg"]}

    # Earlier configurations have no such field.
    if config.get("init_widen", False):
        source = widen(source, {**state.frozen, **state.params})
    return source, keep


def _start_from(
    config: Mapping[str, Any],
    state: TrainState,
    source: Tree,
    shardings: Any,
    *,
    stages_before: Collection[str],
) -> TrainState:
    """Copies networks by name from those that `init_from` names."""
    needed = [name for name in state.frozen if name not in ("vgg", *CARRIED)]
    if not config["init_from"]:
        if needed:
            names = sorted({name.removeprefix(START) for name in needed})
            raise UserError(
                f"{config['method']} builds on {', '.join(names)} and so needs them: "
                "set --config.init_from to the workdir of a run of "
                "configs/motion_cycle.py, or to a model."
            )
        log.info("Starting from scratch")
        return state

    paths = init_paths(config["init_from"])
    source, keep = _networks_to_copy(config, state, source)
    frozen, copied = copy_trees(state.frozen, source, required=needed, keep=keep)
    params, warm = copy_trees(state.params, source)
    if not copied and not warm:
        chosen = [path for path in paths if path not in stages_before]
        if chosen:
            raise UserError(
                f"init_from={','.join(chosen)} has no network of {config['method']}."
            )
        log.info("Starting from scratch")
        return state
    log.info("From %s: %s", ", ".join(paths), ", ".join(sorted(copied + warm)))

    # The average starts as a copy, because two donated arguments must not share one
    # buffer.
    average = None
    if state.ema is not None:
        average = jax.device_put(jax.tree.map(_copy, params), shardings.ema)

    return dataclasses.replace(
        state,
        frozen=jax.device_put(frozen, shardings.frozen),
        params=jax.device_put(params, shardings.params),
        ema=average,
    )
