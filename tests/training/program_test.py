"""The program of a run.

Built without data, weights or devices, and the one that runs.
"""

import jax
import numpy as np

from facecycle_jax import data, methods, training
from facecycle_jax.configs import debug
from facecycle_jax.devices import make_mesh


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
