"""One update of the real networks on synthetic faces, as arrays to compare meshes by.

As a program, one process of several: python tests/helpers/one_update.py METHOD FILE;
process 0 writes FILE (.npz).
"""

import functools
import os
import sys

import jax
import numpy as np
import optax

from facecycle_jax.devices import make_mesh, replicated

BATCH = 8
OPTIMISER = optax.sgd(1.0, momentum=0.9)


def settings(method):
    from facecycle_jax.configs import debug

    config = debug.get_config()
    config.method = method
    config.batch_size = BATCH
    config.optimiser.ema_decay = 0.0
    # The Gram loss, of a random and narrow VGG-19, is part of what is compared.
    config.loss.perceptual = "gram"
    config.loss.vgg_width = 0.0625
    return config


@functools.cache
def start_of(method):
    """Returns the state before the update, on the host; drawing it takes a while."""
    from facecycle_jax import methods, training

    made = methods.make(settings(method))
    init = functools.partial(training.init_state, method=made, optimiser=OPTIMISER)
    return jax.device_get(jax.jit(init)(jax.random.key(3)))


def one_update(
    method, *, devices=None, fsdp=False, accumulate=1, noise=True, consensus=0.0
):
    """Returns loss terms, gradients, the state after the update, and the batch."""
    from facecycle_jax import data, methods, ops, training

    config = settings(method)
    config.loss.consensus_weight = consensus
    mesh = make_mesh(devices)
    made = methods.make(config)
    if not noise:
        loss = made.loss
        made = made._replace(
            loss=lambda params, frozen, images, key: loss(params, frozen, images, None)
        )
    start = start_of(method)
    shardings = training.state_shardings(mesh, start, fsdp=fsdp)
    state = jax.device_put(start, shardings)
    everywhere = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    step = training.make_train_step(
        made,
        OPTIMISER,
        augment=functools.partial(
            ops.augment_pairs, size=64, **config.augment.to_dict()
        ),
        options=training.StepOptions(seed=1, accumulate=accumulate),
        mesh=mesh,
        shardings=shardings,
    )
    batch = next(data.make_loader(config, split="train").batches(5))
    state, averages = step(state, training.put_batch(batch, mesh))
    # After one step the momentum is the gradient itself; a difference of parameters
    # would be rounded to them.
    gradients = jax.device_get(everywhere(optax.tree.get(state.opt_state, "trace")))
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    terms = {
        f"term:{name}": np.float64(value) for name, value in averages.compute().items()
    }
    return named | terms, state, batch


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    jax.config.update("jax_num_cpu_devices", 4)
    from facecycle_jax.training import processes

    processes.join(peer_timeout=60)
    arrays, _, batch = one_update(sys.argv[1])
    part = np.asarray(
        jax.experimental.multihost_utils.process_allgather(batch["track"])
    )
    if jax.process_index() == 0:
        np.savez(sys.argv[2], **arrays, **{"data:track": part})
    processes.leave(0)
