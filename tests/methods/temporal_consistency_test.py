"""Temporal consistency against the published program's numbers, at 256 pixels.

Tolerances: 1e-4 relative for embeddings, losses and statistics; 1e-2 of the norm of a
gradient, 5e-2 for an inner product with noise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import peers_reference as reference
import pytest

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import BATCH_STATS
from facecycle_jax.methods.temporal_consistency import (
    TemporalOptions,
    temporal_consistency,
    temporal_embeddings,
    temporal_hinges,
)
from facecycle_jax.networks import TemporalEncoder, read_resnet18_npz, resnet18_trees
from facecycle_jax.ops import normalise

PROGRAM = "temporal_consistency"


def inputs():
    return normalise(
        reference.enlarged(reference.numbers(PROGRAM)["inputs/pictures_u8"])
    )


def close(ours, theirs):
    np.testing.assert_allclose(
        ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max()
    )


def test_features_of_evaluation_agree_with_reference():
    stored = reference.numbers(PROGRAM)
    params, stats = reference.trees(PROGRAM)
    variables = {"params": params["encoder"], "batch_stats": stats["encoder"]}
    # The first four frames of each item, frame by frame.
    images = inputs()[:, :4].swapaxes(0, 1).reshape(8, 256, 256, 3)
    encode = jax.jit(functools.partial(TemporalEncoder().apply, train=False))
    code, pooled = encode(variables, images)
    close(code, stored["eval/feature_256"])
    close(pooled, stored["eval/feature_512"])


def test_embeddings_hinges_and_statistics_agree_with_reference():
    stored = reference.numbers(PROGRAM)
    params, stats = reference.trees(PROGRAM)

    @jax.jit
    def run(params, stats, images):
        return temporal_embeddings(TemporalEncoder(), params, stats, images, train=True)

    found, moved = run(params, stats, inputs())
    hinges, distances = temporal_hinges(found, margin=0.03)
    close(found, stored["train/embeddings"])
    close(distances, stored["train/distances"])
    np.testing.assert_allclose(hinges, stored["train/hinges"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        hinges.sum(axis=1).mean(), stored["train/loss"], rtol=1e-4
    )
    reference.check_statistics(
        PROGRAM, moved, stored, "train/bn_after_forward", rtol=1e-4
    )


@pytest.mark.slow
def test_gradients_and_three_sgd_steps_agree_with_reference():
    stored = reference.numbers(PROGRAM)
    method = temporal_consistency(TemporalEncoder(), TemporalOptions())
    params, stats = reference.trees(PROGRAM)
    images = inputs()
    totals, first, params, frozen = reference.three_sgd_steps(
        method, params, {BATCH_STATS: stats}, images, rate=1e-3
    )
    reference.check_tensors(
        PROGRAM,
        reference.named(PROGRAM, first),
        stored,
        "train/grad",
        l2=1e-2,
        probe=5e-2,
    )
    np.testing.assert_allclose(totals, stored["sgd3/losses"], rtol=1e-4)
    reference.check_changes(PROGRAM, params, "sgd3/delta", l2=2e-2, probe=1e-1)
    total, _ = jax.jit(method.loss)(params, frozen, images, None)
    np.testing.assert_allclose(total, stored["test/loss_after_sgd3_eval"][0], rtol=1e-3)


def test_a_frame_that_is_far_enough_costs_nothing():
    angles = jnp.array([[0.0, 0.1, 0.5, 1.0], [0.0, 1.0, 0.5, 0.1]])
    embeddings = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    hinges, distances = temporal_hinges(embeddings, margin=0.03)
    np.testing.assert_array_equal(hinges[0], 0.0)
    np.testing.assert_allclose(
        hinges[1], distances[1, :-1] - distances[1, 1:] + 0.03, rtol=1e-6
    )


def torchvision_state():
    """The reference's ResNet-18 by torchvision's own names."""
    names = {
        "0": "conv1",
        "1": "bn1",
        "4": "layer1",
        "5": "layer2",
        "6": "layer3",
        "7": "layer4",
    }
    found = {}
    for name, array in reference.torch_state(PROGRAM).items():
        trunk, _, rest = name.partition(".")
        if trunk == "resnet18":
            place, _, rest = rest.partition(".")
            found[f"{names[place]}.{rest}"] = array
    return found


@functools.cache
def resnet_file(folder):
    path = folder / "resnet18.npz"
    np.savez(path, **torchvision_state())
    return str(path)


def test_a_file_of_torchvisions_resnet_is_where_training_starts(tmp_path):
    params, stats = reference.trees(PROGRAM)
    found = read_resnet18_npz(resnet_file(tmp_path))
    assert set(params["encoder"]) == {*found[0], "code"}
    jax.tree.map(np.testing.assert_array_equal, found[1], stats["encoder"])
    jax.tree.map(
        np.testing.assert_array_equal,
        found[0],
        {name: tree for name, tree in params["encoder"].items() if name != "code"},
    )


def test_a_file_that_is_no_resnet_is_refused_by_name(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(
        UserError, match=r"other\.npz has no array 'conv1\.weight', which torchvision's"
    ):
        read_resnet18_npz(str(path))
    with pytest.raises(
        FileNotFoundError, match=r"no ResNet-18 at .*torchvision's state dict"
    ):
        read_resnet18_npz(str(tmp_path / "none.npz"))


BLOCK = "layer1.1.conv1.weight"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        # As in ResNet-34, which has the arrays of ResNet-18 and more blocks.
        (
            {"layer1.2.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)},
            r"is not a ResNet-18, which has no array 'layer1\.2\.conv1\.weight'",
        ),
        # As in ResNet-50, whose blocks begin with 1x1 convolutions.
        (
            {BLOCK: np.zeros((64, 256, 1, 1), np.float32)},
            r"conv1\.weight has shape \(64, 256, 1, 1\), torchvision's ResNet-18 needs",
        ),
        (
            {BLOCK: np.full((64, 64, 3, 3), np.nan, np.float32)},
            r"conv1\.weight holds values that are not finite",
        ),
    ],
)
def test_a_file_of_another_resnet_is_refused(changed, words, tmp_path):
    path = tmp_path / "resnet.npz"
    np.savez(path, **{**torchvision_state(), **changed})
    with pytest.raises(UserError, match=words):
        read_resnet18_npz(str(path))


def test_what_the_last_layer_and_counters_hold_is_not_read(tmp_path):
    path = tmp_path / "resnet.npz"
    other = {"fc.weight": np.zeros((5, 512)), "bn1.num_batches_tracked": np.array(3)}
    np.savez(path, **torchvision_state(), **other)
    assert set(read_resnet18_npz(str(path))[1]) == set(
        read_resnet18_npz(resnet_file(tmp_path))[1]
    )


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"damaged\.npz is not a readable \.npz"):
        read_resnet18_npz(str(path))


def test_trees_of_a_file_have_the_shapes_of_the_network():
    encoder = TemporalEncoder()
    shapes = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    params, stats = resnet18_trees(torchvision_state())
    expected = {name: tree for name, tree in shapes["params"].items() if name != "code"}
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape, expected
    )
    assert jax.tree.map(np.shape, stats) == jax.tree.map(
        lambda leaf: leaf.shape, dict(shapes["batch_stats"])
    )
