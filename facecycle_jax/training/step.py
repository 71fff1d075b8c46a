"""One update, and one evaluation, as pure functions compiled for a mesh.

Batches as in `data` (frames uint8 [B, 2, S, S, 3] and more); pictures float32 [B, 2, H, W, 3],
normalised.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from facecycle_jax.mesh import batch_sharding, replicated
from facecycle_jax.methods import Aux, Method
from facecycle_jax.methods.base import Tree
from facecycle_jax.training.metrics import Averages
from facecycle_jax.training.optimiser import average_weights
from facecycle_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Augment = Callable[[jax.Array, Batch], jax.Array]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does beside the method and the optimiser.

    Attributes:
      seed: seed of augmentation and noise; step s uses `fold_in(key(seed), s)`.
      accumulate: micro-batches a batch is split into; gradients are averaged over them. What a
        method averages over its batch (the identity cycle's mean face) is then of a micro-batch.
      ema_decay: decay of the weight average, 0: none is kept.
      compile_quickly: whether XLA's CPU backend optimises the step less, which takes 60 % of the time. Its
        convolutions are library calls and stay as fast. Without effect elsewhere.
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
      augment: `augment(key, batch) -> pictures`, pure.
      options: seed, micro-batches, weight average.
      mesh: the mesh.
      shardings: sharding of every array of the state.

    Returns:
      `step(state, batch) -> (state, averages)`; the state given is donated. An update whose loss or
      gradients are not finite is not made, and counted: parameters, optimiser state and weight
      average stay, the step number moves on. 'skipped' in the averages says so; the
      terms leave it out.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Averages]:
        augment_key, noise_key = jax.random.split(
            jax.random.fold_in(jax.random.key(options.seed), state.step)
        )
        pictures = augment(augment_key, batch)
        terms, gradients = _gradients(method, state, pictures, noise_key, options.accumulate, mesh)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))
        # One NaN or infinity anywhere makes the norm so.
        finite = jnp.isfinite(terms["total"]) & jnp.isfinite(norm)
        # Where the update is not made its input does not matter, as long as it is finite.
        gradients = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), gradients)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = average_weights(ema, params, decay=options.ema_decay, step=state.step)
        params, opt_state, ema = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state, ema),
            (state.params, state.opt_state, state.ema),
        )
        skipped = (~finite).astype(jnp.int32)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=ema,
            nonfinite_total=state.nonfinite_total + skipped,
            nonfinite_in_row=(state.nonfinite_in_row + 1) * skipped,
        )
        averages = Averages.of({**terms, "gradient_norm": norm}, mask=finite)
        return state, Averages({**averages.values, **Averages.of({"skipped": skipped}).values})

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=_cpu_options(mesh, level=1) if options.compile_quickly else None,
    )


def make_eval_step(
    method: Method,
    *,
    prepare: Callable[[Batch], jax.Array],
    mesh: Mesh,
    shardings: Any,
    rows: int = 4,
    compile_quickly: bool = False,
) -> Callable[[Tree, Tree, Batch], tuple[Averages, dict[str, jax.Array]]]:
    """Builds the compiled evaluation, without noise.

    Args:
      method: what is evaluated.
      prepare: `prepare(batch) -> pictures`, the augmentation's counterpart without chance.
      mesh: the mesh.
      shardings: sharding of every array of the state.
      rows: how many pictures to return.
      compile_quickly: for a program that runs a few times only: compiling it on a CPU takes less than half
        of the time, running it twice as long.

    Returns:
      `step(params, frozen, batch) -> (averages, pictures)`, the pictures [rows, ...] by name.
    """

    def step(params: Tree, frozen: Tree, batch: Batch) -> tuple[Averages, dict[str, jax.Array]]:
        _, aux = method.loss(params, frozen, prepare(batch), None)
        return Averages.of(aux.terms), {name: x[:rows] for name, x in aux.pictures.items()}

    return jax.jit(
        step,
        in_shardings=(shardings.params, shardings.frozen, batch_sharding(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=_cpu_options(mesh, level=0) if compile_quickly else None,
    )


def _cpu_options(mesh: Mesh, *, level: int) -> dict[str, int] | None:
    """Returns the compiler's options of an optimisation level of XLA's CPU backend; none elsewhere."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": level} if on_cpu else None


def _gradients(
    method: Method,
    state: TrainState,
    pictures: jax.Array,
    key: jax.Array,
    accumulate: int,
    mesh: Mesh,
) -> tuple[dict[str, jax.Array], Tree]:
    """Computes loss terms and gradients, averaged over micro-batches."""

    def one(pictures: jax.Array, key: jax.Array) -> tuple[dict[str, jax.Array], Tree]:
        def loss(params: Tree) -> tuple[jax.Array, Aux]:
            return method.loss(params, state.frozen, pictures, key)

        (total, aux), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return {**aux.terms, "total": total}, gradients

    if accumulate == 1:
        return one(pictures, key)
    # Every accumulate-th item, so that each device keeps the items it has.
    micro = pictures.reshape(-1, accumulate, *pictures.shape[1:]).swapaxes(0, 1)
    split = NamedSharding(mesh, PartitionSpec(None, "data"))
    micro = jax.lax.with_sharding_constraint(micro, split)
    keys = jax.random.split(key, accumulate)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, micro[0], keys[0]))

    def add(total: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(*inputs)), None

    total, _ = jax.lax.scan(add, zeros, (micro, keys))
    return jax.tree.map(lambda x: x / accumulate, total)
