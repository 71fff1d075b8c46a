"""The compared methods through the one loop.

Training, held-out losses, panels, exact resume, features.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from several import codes, start

import facecycle_jax
from facecycle_jax import data, methods, training
from facecycle_jax.configs import fab_net, pcl, simclr, tcae, temporal_consistency
from facecycle_jax.devices import make_mesh
from facecycle_jax.errors import UserError
from facecycle_jax.inference import model_from_run
from facecycle_jax.methods.base import BATCH_STATS
from facecycle_jax.networks import build_fab_net, build_tcae
from facecycle_jax.training import loop, setup

CONFIGS = {
    "fab_net": fab_net,
    "pcl": pcl,
    "simclr": simclr,
    "tcae": tcae,
    "temporal_consistency": temporal_consistency,
}


def tiny(name, **fields):
    config = CONFIGS[name].get_config("small")
    config.update_from_flattened_dict(
        {
            "model.width": 0.03125,
            "batch_size": 8,
            "data.identities": 16,
            "data.frames_per_track": 6,
            "data.decode_size": 32,
            "num_steps": 4,
            "log_every": 2,
            "eval_every": 2,
            "eval_batches": 1,
            "panel_every": 4,
            "panel_rows": 2,
            "checkpoint_every": 2,
            **fields,
        }
    )
    if name in ("fab_net", "tcae", "temporal_consistency"):
        config.model.image_size = 32
        config.model.code_dim = 8
    if name == "pcl":
        config.augment.pose_items = 8
        config.augment.pose_negatives = 2
        config.loss.epoch_steps = 1
    return config


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_configurations_describe_methods(name):
    """Both sizes; tracing the whole step of the published ones takes minutes."""
    for size in ("published", "small"):
        config = CONFIGS[name].get_config(size).to_dict()
        assert config["method"] == name
        method = methods.make(config, weights=False)
        params, frozen = jax.eval_shape(method.init, jax.random.key(0))
        assert set(params) & set(frozen) == set()
        assert set(frozen[BATCH_STATS]) <= set(params)
        frames = data.batch_shapes(config)["frames"]
        assert frames.shape[1] == config["data"]["item_frames"]
        training.make_optimiser(config["optimiser"], lambda count: 1.0)


@pytest.mark.parametrize(
    ("name", "field", "value", "sentence"),
    [
        ("tcae", "data.item_frames", 3, "data.item_frames must be 2 for tcae, got 3"),
        ("simclr", "remat", True, "remat must be False for simclr"),
        ("fab_net", "data.item_frames", 1, "must be 2 or more for fab_net, got 1"),
        ("simclr", "data.item_frames", 0, "must be 1 or more for simclr, got 0"),
        ("temporal_consistency", "data.item_frames", 2, "must be 3 or more"),
        ("fab_net", "augment.smallest", 230, "<= augment.side must hold, got 230, "),
        ("fab_net", "augment.left", 200, "augment.left and augment.side must add up"),
        ("simclr", "optimiser.accumulate", 99, "simclr compares the items of a micro-"),
        ("tcae", "batch_size", 1, "tcae compares the items of a micro-batch"),
        ("pcl", "optimiser.accumulate", 2, "optimiser.accumulate must be 1 for PCL"),
        ("temporal_consistency", "loss.resnet", "r.npz", "model.width must be 1 with"),
        ("temporal_consistency", "data.item_order", "unordered", "must be 'ordered'"),
    ],
)
def test_what_a_method_cannot_use_is_refused(name, field, value, sentence):
    config = CONFIGS[name].get_config("small")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=sentence):
        methods.make(config.to_dict(), weights=False)


@pytest.mark.parametrize(("name", "epochs"), [("fab_net", 3000), ("tcae", 2000)])
def test_published_lengths_count_epochs_by_identity(name, epochs):
    published = CONFIGS[name].get_config()
    assert published.num_steps == epochs * published.eval_every
    assert CONFIGS[name].get_config("small").num_steps == 200


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_terms_are_float32_whatever_the_networks_compute_in(name):
    config = tiny(name, **{"model.dtype": "bfloat16"}).to_dict()
    method = methods.make(config)

    def terms(key, batch):
        params, frozen = method.init(key)
        views = method.views.augment(key, batch)
        found = [
            step.loss(params, frozen, views, key) for step in method.gradient_steps
        ]
        found.append(method.loss(params, frozen, views, None))
        return [(total, aux.terms) for total, aux in found]

    shapes = jax.eval_shape(terms, jax.random.key(0), data.batch_shapes(config))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_several_processes_can_compare_its_weights(name):
    digests = setup._digests_of_weights(tiny(name).to_dict())
    assert set(digests.values()) == {"none"}


@pytest.mark.slow
def test_two_processes_train_one_of_them(tmp_path):
    ended = start(
        2,
        "-m",
        "facecycle_jax.main",
        "--config=configs/simclr.py:small",
        f"--workdir={tmp_path}",
        "--config.model.width=0.03125",
        "--config.batch_size=4",
        "--config.data.identities=8",
        "--config.data.frames_per_track=2",
        "--config.num_steps=1",
    )
    assert codes(ended) == [0, 0], ended
    assert training.find_checkpoint(tmp_path).name == "1"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_published_configurations_can_be_traced(name):
    config = CONFIGS[name].get_config().to_dict()
    mesh = make_mesh(jax.devices()[:2])
    program = training.build_program(config, mesh, steps_per_epoch=10, weights=False)
    batch = data.batch_shapes(config)
    after, averages = jax.eval_shape(program.train_step, program.abstract, batch)
    assert jax.tree.structure(after) == jax.tree.structure(program.abstract)
    assert "total" in averages.values


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_resumed_run_is_an_unbroken_one_and_gives_features(name, tmp_path):
    whole = loop.train_and_evaluate(tiny(name), tmp_path / "whole")
    loop.train_and_evaluate(tiny(name, num_steps=2), tmp_path / "parts")
    parts = loop.train_and_evaluate(tiny(name), tmp_path / "parts")
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(parts)
    )
    assert int(whole.nonfinite_total) == 0

    # Statistics have moved with the steps, and are part of what is saved.
    method = methods.make(tiny(name).to_dict())
    fresh = jax.jit(lambda key: method.init(key)[1][BATCH_STATS])(jax.random.key(0))
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), fresh, whole.frozen[BATCH_STATS]
    )
    assert all(jax.tree.leaves(moved))

    figures = training.read_metrics(tmp_path / "whole")
    assert any("eval/total" in row for row in figures)
    assert list((tmp_path / "whole" / "panels").glob("*.png"))

    model = facecycle_jax.load(tmp_path / "whole")
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    features = model.features(images)
    assert features.shape[0] == 3
    assert np.isfinite(features).all()
    assert model.method == name
    with pytest.raises(ValueError, match="model folders are for FaceCycle's models"):
        model_from_run(tmp_path / "whole")
    with pytest.raises(
        ValueError, match=f"model of {name}: it has features, and no motion_code"
    ):
        model.motion_code(images)


@pytest.mark.parametrize("build", [build_fab_net, build_tcae])
def test_codes_of_images_of_another_size_are_refused(build):
    encoder = build(width=0.03125, image_size=32, code_dim=8).encoder

    def run(side, *, maps):
        images = jnp.zeros((1, side, side, 3))
        return encoder.init(jax.random.key(0), images, train=False, maps=maps)

    with pytest.raises(UserError, match="was built for 32x32 images, got 64x64"):
        jax.eval_shape(functools.partial(run, 64, maps=False))
    jax.eval_shape(functools.partial(run, 64, maps=True))
    jax.eval_shape(functools.partial(run, 32, maps=False))
