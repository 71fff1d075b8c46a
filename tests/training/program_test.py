"""The program of a run.

Built without data, weights or devices, and the one that runs.
"""

import dataclasses

import jax
import numpy as np
import toy_training

from facecycle_jax import data, methods, training
from facecycle_jax.configs import debug
from facecycle_jax.devices import make_mesh
from facecycle_jax.training import first_state


def config(**fields):
    made = debug.get_config()
    made.update_from_flattened_dict(
        {"batch_size": 8, "loss.perceptual": "gram", "model.trunk": "vgg", **fields}
    )
    return made.to_dict()


def test_shapes_without_weights_are_those_with_them():
    with_, without = (
        training.build_program(
            config(), make_mesh(), steps_per_epoch=10, weights=w
        ).abstract
        for w in (True, False)
    )
    assert jax.tree.structure(with_) == jax.tree.structure(without)
    for a, b in zip(jax.tree.leaves(with_), jax.tree.leaves(without), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)


def test_without_weights_no_file_is_opened():
    vgg, width = methods.vgg_parameters(
        config(**{"loss.vgg": "/nowhere/vgg19.npz"}), weights=False
    )
    assert width == 1.0
    assert vgg["conv4_1"]["kernel"].shape == (3, 3, 256, 512)


def test_batch_shapes_are_those_of_the_loader():
    made = config(batch_size=8)
    batch = next(data.make_loader(made, split="train").batches(0))
    shapes = data.batch_shapes(made)
    assert {name: (np.shape(x), x.dtype) for name, x in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in shapes.items()
    }


def test_networks_that_are_known_are_not_drawn():
    made = toy_training.toy_config(optimiser__ema_decay=0.9).to_dict()
    program = training.build_program(
        made, make_mesh(), steps_per_epoch=10, method=toy_training.toy_method()
    )
    drawn = first_state._fresh_state(made, program, known=())
    name = sorted(drawn.params)[0]
    state = first_state._fresh_state(made, program, known=(name, "another"))

    def blank(trees):
        return {**trees, name: jax.tree.map(np.zeros_like, trees[name])}

    # All else is as it was.
    expected = dataclasses.replace(
        drawn, params=blank(drawn.params), ema=blank(drawn.ema)
    )
    jax.tree.map(np.testing.assert_array_equal, state, expected)

    # Widened networks keep some of what is drawn.
    wider = {**made, "init_widen": True}
    kept = first_state._fresh_state(wider, program, known=(name,))
    jax.tree.map(np.testing.assert_array_equal, kept.params, drawn.params)
