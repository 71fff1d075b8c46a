"""The compiled part of a run, built from a configuration and a mesh alone.

It needs no data, no arrays and no weights. The loop and the compile check both build it
here, so that what is checked is what runs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from facecycle_jax import methods, ops
from facecycle_jax.methods.base import Views
from facecycle_jax.networks import Tree
from facecycle_jax.training.metrics import Averages
from facecycle_jax.training.optimiser import make_optimiser, make_schedule
from facecycle_jax.training.sharding import check_batch, state_shardings
from facecycle_jax.training.state import TrainState, init_state
from facecycle_jax.training.step import (
    Batch,
    StepOptions,
    make_eval_step,
    make_train_step,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a configuration computes on a mesh, with nothing compiled or allocated yet.

    Attributes:
      init: `init(key) -> state`, pure; draws a fresh state.
      abstract: the state as `jax.ShapeDtypeStruct`, each with its sharding.
      shardings: the sharding of every array of the state.
      schedule: learning rate by update.
      train_step: `train_step(state, batch) -> (state, averages)`, jitted; donates the
        state.
      eval_step: `eval_step(params, frozen, batch) -> (averages, images)`, jitted.
      after_evaluation: `after_evaluation(state, total) -> state`, jitted; computes what
        follows from an evaluation's mean total and donates the state. None if nothing
        does.
    """

    init: Callable[[jax.Array], TrainState]
    abstract: TrainState
    shardings: Any
    schedule: optax.Schedule
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Averages]]
    eval_step: Callable[[Tree, Tree, Batch], tuple[Averages, dict[str, jax.Array]]]
    after_evaluation: Callable[[TrainState, jax.Array], TrainState] | None = None


def _by_gradient_step(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Turns a schedule by update into one by gradient step, which optimisers count."""
    if steps == 1:
        return schedule
    return lambda count: schedule(count // steps)


def _after_evaluation(
    after_evaluation: Callable[[Tree, jax.Array], Tree] | None, shardings: Any
) -> Callable[[TrainState, jax.Array], TrainState] | None:
    """Compiles what a method makes of an evaluation."""
    if after_evaluation is None:
        return None

    def apply(state: TrainState, total: jax.Array) -> TrainState:
        frozen = after_evaluation(state.frozen, total)
        return dataclasses.replace(state, frozen=frozen)

    return jax.jit(apply, out_shardings=shardings, donate_argnums=0)


def build_program(
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    steps_per_epoch: float,
    weights: bool = True,
    method: methods.Method | None = None,
) -> Program:
    """Builds what a configuration computes on a mesh.

    Args:
      config: a run's configuration.
      mesh: the mesh; its devices may be abstract ones of a topology that is not there.
      steps_per_epoch: updates in an epoch, which is the schedule's unit; a fraction
        where the schedule is stretched.
      weights: whether to read or draw the VGG-19. If not, zeros of its shapes stand in,
        no file is opened, and `init` is good for shapes only.
      method: the method; None: the one that the configuration describes.

    Returns:
      The program.

    Raises:
      UserError: If a value is out of range.
      FileNotFoundError: If the VGG-19 file is missing.
    """
    options = config["optimiser"]
    check_batch(config["batch_size"], accumulate=options["accumulate"], mesh=mesh)

    if method is None:
        method = methods.make(config, weights=weights)
    schedule = make_schedule(options, steps_per_epoch=steps_per_epoch)
    optimiser = make_optimiser(
        options, _by_gradient_step(schedule, len(method.gradient_steps))
    )

    # Abstract first: shapes, then shardings, then (by the caller) arrays.
    init = functools.partial(
        init_state, method=method, optimiser=optimiser, average=options["ema_decay"] > 0
    )
    shapes = jax.eval_shape(init, jax.random.key(config["seed"]))
    shardings = state_shardings(mesh, shapes, fsdp=config["fsdp"])
    abstract = jax.tree.map(_with_sharding, shapes, shardings)

    views = method.views or _pair_views(config)
    quickly = config.get("compile_quickly", False)
    train_step = make_train_step(
        method,
        optimiser,
        augment=views.augment,
        options=StepOptions(
            seed=config["seed"],
            accumulate=options["accumulate"],
            ema_decay=options["ema_decay"],
            compile_quickly=quickly,
        ),
        mesh=mesh,
        shardings=shardings,
    )
    eval_step = make_eval_step(
        method,
        prepare=views.deterministic,
        mesh=mesh,
        shardings=shardings,
        rows=config["panel_rows"],
        compile_quickly=quickly,
    )

    return Program(
        init=init,
        abstract=abstract,
        shardings=shardings,
        schedule=schedule,
        train_step=train_step,
        eval_step=eval_step,
        after_evaluation=_after_evaluation(method.after_evaluation, shardings),
    )


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """Adds a sharding to an abstract array."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _pair_views(config: Mapping[str, Any]) -> Views:
    """Builds FaceCycle's pairs of images, for methods without views of their own."""
    size = config["model"]["image_size"]
    return Views(
        augment=functools.partial(ops.augment_pairs, size=size, **config["augment"]),
        deterministic=functools.partial(ops.plain_pairs, size=size),
    )
