"""Models of the methods that FaceCycle is compared with, in evaluations."""

import jax
import numpy as np
import pytest
from lfw_files import lfw

from facecycle_jax import methods
from facecycle_jax.configs import fab_net, pcl, simclr, tcae, temporal_consistency
from facecycle_jax.data.sources.synthetic import MOTION
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation import (
    EvaluationOptions,
    evaluate,
    feature_sets,
    probe_while_training,
    synthetic,
)
from facecycle_jax.evaluation.probes.code_probes import ProbeSet
from facecycle_jax.evaluation.synthetic import random_peer
from facecycle_jax.inference import PeerModel, loading, model_from_run
from facecycle_jax.methods.peers import peer_features
from facecycle_jax.ops import normalise

CONFIGS = {
    "fab_net": fab_net,
    "pcl": pcl,
    "simclr": simclr,
    "tcae": tcae,
    "temporal_consistency": temporal_consistency,
}


def tiny():
    config = fab_net.get_config("small")
    config.model.width = 0.0625
    config.model.image_size = 32
    config.model.code_dim = 8
    return config.to_dict()


@pytest.fixture(scope="module")
def model():
    return random_peer(tiny())


@pytest.mark.parametrize("size", ["published", "small"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_last_maps_have_areas_and_features_are_vectors(name, size):
    config = CONFIGS[name].get_config(size).to_dict()
    side = config["model"]["image_size"]
    params, frozen = jax.eval_shape(
        methods.make(config, weights=False).init, jax.random.key(0)
    )
    images = jax.ShapeDtypeStruct((3, side, side, 3), np.uint8)
    features = peer_features(config)

    found = jax.eval_shape(features, {**frozen, **params}, images)
    assert found.ndim == 2
    assert len(found) == 3
    maps = jax.eval_shape(
        lambda trees, x: features(trees, x, maps=True), {**frozen, **params}, images
    )
    assert maps.ndim == 4
    assert maps.shape[1] == maps.shape[2] >= 2


def test_features_and_maps_are_evaluated_and_can_be_traced(model):
    kinds = feature_sets(EvaluationOptions(task="fer2013"), model)
    assert list(kinds) == ["features", "map"]

    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    for kind in kinds.values():
        values = kind.fitted()(images)
        assert values.ndim == 2
        traced = np.asarray(kind.encode(normalise(images)))
        np.testing.assert_allclose(traced, values, rtol=1e-3, atol=1e-4)


def test_verification_has_centred_and_whitened_features(tmp_path, model):
    pytest.importorskip("sklearn")
    result = evaluate("lfw", lfw(tmp_path), model=model)
    names = ["features", "features centred", "features whitened", "map"]
    assert list(result.rows) == names
    assert result.settings["model"]["config"]["width"] == 0.0625


def test_synthetic_faces_have_probes_alone_and_random_weights_of_the_method(
    monkeypatch, model
):
    # Noise in place of faces, which take long to render.
    rng = np.random.default_rng(0)
    data = ProbeSet(
        frames=rng.integers(0, 256, (48, 32, 32, 3), np.uint8),
        identity=np.repeat(np.arange(8, dtype=np.int32), 6),
        motion={name: rng.normal(size=48) for name in MOTION},
    )
    monkeypatch.setattr(synthetic, "probe_set", lambda *_, **__: data)
    other = random_peer(tiny(), seed=1)
    monkeypatch.setattr(synthetic, "random_peer", lambda *_, **__: other)
    result = evaluate("synthetic", model=model, baselines=["random"], limit=8)
    assert "yaw from features" in result.rows
    assert "identity from map" in result.rows
    assert not result.panels
    # The figures of the other model are those that it has as the model.
    of_other = evaluate("synthetic", model=other, limit=8).rows
    assert of_other.keys() == result.rows.keys()
    for name, row in result.rows.items():
        assert row.random == of_other[name].model
    assert any(row.random != row.model for row in result.rows.values())

    trees = model.trees
    config = {**tiny(), "probe": {"task": "synthetic", "path": "", "limit": 8}}
    figures = probe_while_training(config, trees)
    assert figures["yaw_from_features"] == result.rows["yaw from features"].model.value


@pytest.mark.parametrize("task", ["faces", "gallery"])
def test_tasks_of_generated_images_are_refused(model, task):
    with pytest.raises(
        ValueError, match=f"task {task} needs generated images, and .* of fab_net"
    ):
        evaluate(task, "somewhere", model=model)


def test_layers_of_face_cycles_encoder_are_refused(model):
    with pytest.raises(ValueError, match="layer and size are for FaceCycle's models"):
        feature_sets(EvaluationOptions(task="fer2013", size=64), model)
    with pytest.raises(ValueError, match="accepts images of 32 pixels only, got 64"):
        model.features(np.zeros((64, 64, 3), np.uint8), size=64)
    for name in ("framing", "has_identity", "translate"):
        with pytest.raises(UserError, match=f"it has features, and no {name}"):
            getattr(model, name)
        assert not hasattr(model, name)


def test_a_run_of_a_peer_is_no_model_folder(monkeypatch, tmp_path):
    run = loading._Run(tmp_path, tiny(), tmp_path / "checkpoints/2", {})
    monkeypatch.setattr(loading, "_read_run", lambda path: run)
    with pytest.raises(ValueError, match="is a run of fab_net, and model folders are"):
        model_from_run(tmp_path)


def test_models_of_one_configuration_share_what_is_compiled(model):
    other = PeerModel(model.trees, config=tiny())
    assert other._networks is model._networks
