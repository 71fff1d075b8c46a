"""One update, and one evaluation, as pure functions compiled for a mesh.

Batches are those of `data`: frames uint8 [B, n, S, S, 3] and more. Images are float32
[B, n, H, W, 3], or what a method's views make of a batch: arrays whose first axis is
the batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from facecycle_jax.devices import (
    batch_axes,
    batch_sharding,
    cpu_compiler_options,
    replicated,
)
from facecycle_jax.methods import Aux, Method
from facecycle_jax.methods.base import CARRIED, Loss, Objective
from facecycle_jax.networks import Tree
from facecycle_jax.training.metrics import Averages
from facecycle_jax.training.optimiser import average_weights
from facecycle_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Augment = Callable[[jax.Array, Batch], Any]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does in addition to the method and the optimiser.

    Attributes:
      seed: seed of augmentation and noise; step s uses `fold_in(key(seed), s)`.
      accumulate: number of micro-batches in a batch; gradients are averaged over them.
        What a method averages over its batch (the identity cycle's mean face) is then
        of a micro-batch.
      ema_decay: decay of the weight average; 0 keeps none.
      compile_quickly: whether XLA's CPU backend optimises the step less; compilation
        then takes 60 % of the time. The step's convolutions are library calls and stay
        as fast. It has no effect on other backends.
    """

    seed: int = 0
    accumulate: int = 1
    ema_decay: float = 0.0
    compile_quickly: bool = False


def make_train_step(
    method: Method,
    optimiser: optax.GradientTransformation,
    *,
    augment: Augment,
    options: StepOptions,
    mesh: Mesh,
    shardings: Any,
) -> Callable[[TrainState, Batch], tuple[TrainState, Averages]]:
    """Builds the compiled update.

    Args:
      method: what is trained.
      optimiser: the optimiser.
      augment: `augment(key, batch) -> images`, pure.
      options: seed, micro-batches, weight average.
      mesh: the mesh.
      shardings: sharding of every array of the state.

    Returns:
      `step(state, batch) -> (state, averages)`; the given state is donated.

      An update whose loss or gradients are not finite is skipped and counted:
      parameters, optimiser state and weight average stay, and the step number moves on.
      'skipped' in the averages reports it; the averages of the terms leave it out.
      'rate' is the method's own factor of the learning rate, if it has one.

      If the method has several objectives, each is a gradient step of its own. The
      names of their terms begin with the objective's name. 'total' is the sum of all
      totals, 'gradient_norm' the root of the summed squares. One objective that is not
      finite has the whole update skipped.
    """
    optimiser = optax.with_extra_args_support(optimiser)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Averages]:
        # Keys depend on seed and step alone, so a resumed run draws the same noise.
        step_key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        augment_key, noise_key = jax.random.split(step_key)
        images = augment(augment_key, batch)

        # One gradient step for each objective, from where the one before it ended.
        updated = state
        reports = []
        for number, objective in enumerate(method.gradient_steps):
            key = jax.random.fold_in(noise_key, number) if number else noise_key
            loss_report, gradients = _gradients(
                objective.loss,
                updated.params,
                updated.frozen,
                images,
                key,
                options.accumulate,
                mesh,
            )
            updated, report = _gradient_step(
                updated, gradients, loss_report, optimiser, objective
            )
            reports.append(report)

        if updated.ema is not None:
            average = average_weights(
                updated.ema, updated.params, decay=options.ema_decay, step=state.step
            )
            updated = dataclasses.replace(updated, ema=average)

        finite = functools.reduce(
            jnp.logical_and, [report.finite for report in reports]
        )
        return _next_state(state, updated, finite=finite), _averages(reports, finite)

    platform = mesh.devices.flat[0].platform
    level_1 = cpu_compiler_options(platform, level=1)
    quick = level_1 if options.compile_quickly else None
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=quick,
    )


def make_eval_step(
    method: Method,
    *,
    prepare: Callable[[Batch], Any],
    mesh: Mesh,
    shardings: Any,
    rows: int = 4,
    compile_quickly: bool = False,
) -> Callable[[Tree, Tree, Batch], tuple[Averages, dict[str, jax.Array]]]:
    """Builds the compiled evaluation, without noise.

    Args:
      method: what is evaluated.
      prepare: `prepare(batch) -> images`, the deterministic counterpart of the
        augmentation.
      mesh: the mesh.
      shardings: sharding of every array of the state.
      rows: how many images of each kind to return.
      compile_quickly: whether to compile in less than half of the time on a CPU and
        run twice as long, for a program that runs a few times only.

    Returns:
      `step(params, frozen, batch) -> (averages, images)`, the images [rows, ...] by
      name.
    """

    def step(
        params: Tree, frozen: Tree, batch: Batch
    ) -> tuple[Averages, dict[str, jax.Array]]:
        _, aux = method.loss(params, frozen, prepare(batch), None)
        first = {name: images[:rows] for name, images in aux.images.items()}
        return Averages.of(aux.terms), first

    platform = mesh.devices.flat[0].platform
    level_0 = cpu_compiler_options(platform, level=0)
    quick = level_0 if compile_quickly else None
    return jax.jit(
        step,
        in_shardings=(shardings.params, shardings.frozen, batch_sharding(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=quick,
    )


class _LossReport(NamedTuple):
    """What a loss reports in addition to gradients; see `Aux`."""

    terms: dict[str, jax.Array]
    carried: Tree
    rate: jax.Array | None


class _Report(NamedTuple):
    """What is known of one objective's gradient step.

    Attributes:
      name: the objective's name, '' if it is the only one.
      terms: terms of its loss by name, 'total' among them.
      norm: norm of its gradients.
      finite: whether its loss and gradients are finite.
      rate: its own factor of the learning rate, or None.
    """

    name: str
    terms: dict[str, jax.Array]
    norm: jax.Array
    finite: jax.Array
    rate: jax.Array | None


def _gradient_step(
    state: TrainState,
    gradients: Tree,
    loss_report: _LossReport,
    optimiser: optax.GradientTransformationExtraArgs,
    objective: Objective,
) -> tuple[TrainState, _Report]:
    """Updates parameters, what the loss carries, and the optimiser's state."""
    # One NaN or infinity anywhere makes the norm so.
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss_report.terms["total"]) & jnp.isfinite(norm)

    # `_next_state` drops the result of an update that is not finite. Its input need
    # only be finite.
    gradients = jax.tree.map(
        lambda g: jnp.where(finite, g, jnp.zeros_like(g)), gradients
    )
    updates, opt_state = optimiser.update(
        gradients, state.opt_state, state.params, networks=objective.networks
    )
    rate = loss_report.rate
    if rate is not None:
        updates = jax.tree.map(lambda u: rate * u, updates)

    state = dataclasses.replace(
        state,
        params=optax.apply_updates(state.params, updates),
        frozen={**state.frozen, **loss_report.carried},
        opt_state=opt_state,
    )
    report = _Report(
        name=objective.name,
        terms=loss_report.terms,
        norm=norm,
        finite=finite,
        rate=rate,
    )
    return state, report


def _next_state(
    before: TrainState, updated: TrainState, *, finite: jax.Array
) -> TrainState:
    """Returns the updated state, or the one before it if the update is skipped.

    The step counts in both cases.
    """
    carried = [name for name in CARRIED if name in before.frozen]

    def changing(state: TrainState) -> Any:
        """What an update changes of a state."""
        kept = {name: state.frozen[name] for name in carried}
        return state.params, state.opt_state, state.ema, kept

    params, opt_state, ema, kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        changing(updated),
        changing(before),
    )
    skipped = (~finite).astype(jnp.int32)
    return TrainState(
        step=before.step + 1,
        params=params,
        frozen={**before.frozen, **kept},
        opt_state=opt_state,
        ema=ema,
        nonfinite_total=before.nonfinite_total + skipped,
        nonfinite_in_row=(before.nonfinite_in_row + 1) * skipped,
    )


def _averages(reports: Sequence[_Report], finite: jax.Array) -> Averages:
    """Returns the terms of all objectives, as averages of one observation each."""
    terms: dict[str, jax.Array] = {}
    for report in reports:
        terms = _joined(terms, report.name, report.terms)

    # The norm over the gradients of all objectives together.
    norms = [report.norm for report in reports]
    terms["gradient_norm"] = norms[0]
    if len(norms) > 1:
        terms["gradient_norm"] = jnp.sqrt(sum(jnp.square(norm) for norm in norms))

    rates = [report.rate for report in reports if report.rate is not None]
    if rates:
        terms["rate"] = jnp.mean(jnp.stack(rates))

    # The terms are averaged over updates that were made, 'skipped' over all.
    of_terms = Averages.of(terms, mask=finite)
    of_skipped = Averages.of({"skipped": (~finite).astype(jnp.int32)})
    return Averages({**of_terms.values, **of_skipped.values})


def _joined(
    terms: dict[str, jax.Array], name: str, new: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Adds an objective's terms to those before it; 'total' is the sum of all."""
    if not name:
        return {**terms, **new}

    total = terms["total"] + new["total"] if terms else new["total"]
    named = {f"{name}/{term}": value for term, value in new.items()}
    return {**terms, **named, "total": total}


def _gradients(
    loss: Loss,
    params: Tree,
    frozen: Tree,
    images: Any,
    key: jax.Array,
    accumulate: int,
    mesh: Mesh,
) -> tuple[_LossReport, Tree]:
    """Computes loss terms and gradients, averaged over micro-batches.

    What a loss carries passes from each micro-batch to the next.
    """

    def one(images: Any, key: jax.Array, carried: Tree) -> tuple[_LossReport, Tree]:
        def of_params(params: Tree) -> tuple[jax.Array, Aux]:
            return loss(params, {**frozen, **carried}, images, key)

        (total, aux), gradients = jax.value_and_grad(of_params, has_aux=True)(params)
        unknown = set(aux.carried) - set(CARRIED)
        if unknown:
            raise ValueError(
                f"a loss carries {', '.join(sorted(unknown))}, but only "
                f"{', '.join(CARRIED)} last from update to update."
            )
        terms = {**aux.terms, "total": total}
        return _LossReport(terms, aux.carried, aux.rate), gradients

    if accumulate == 1:
        return one(images, key, {})

    def split_items(x: jax.Array) -> jax.Array:
        # [B, ...] to [accumulate, B / accumulate, ...]. A micro-batch takes every
        # accumulate-th item, so that each device keeps the items it has.
        micro = x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(
            micro, NamedSharding(mesh, PartitionSpec(None, batch_axes(mesh)))
        )

    micro = jax.tree.map(split_items, images)
    keys = jax.random.split(key, accumulate)

    # Terms and gradients are summed, and the carried state passes from micro-batch to
    # micro-batch. The sums start from zeros of the right shapes, for which nothing is
    # computed.
    first = jax.tree.map(lambda x: x[0], micro)
    report_shapes, gradient_shapes = jax.eval_shape(one, first, keys[0], {})
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (report_shapes.terms, gradient_shapes)
    )
    carried = {name: frozen[name] for name in report_shapes.carried}

    def add(so_far: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, None]:
        sums, carried = so_far
        report, gradients = one(*inputs, carried)
        sums = jax.tree.map(jnp.add, sums, (report.terms, gradients))
        return (sums, report.carried), None

    (sums, carried), _ = jax.lax.scan(add, (zeros, carried), (micro, keys))
    terms, gradients = jax.tree.map(lambda x: x / accumulate, sums)

    # The rate depends on the state alone, so that of any micro-batch will do.
    rate = None
    if report_shapes.rate is not None:
        _, aux = loss(params, frozen, first, keys[0])
        rate = aux.rate

    return _LossReport(terms, carried, rate), gradients
