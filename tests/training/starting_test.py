"""Where training starts.

Networks of a run, of a model folder, or of a model that comes with the package.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

import facecycle_jax
from facecycle_jax import training
from facecycle_jax.errors import UserError
from facecycle_jax.networks import VGG19
from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.storage import write_model
from facecycle_jax.training import setup
from facecycle_jax.training.first_state import _read_source, _start_from

TRAINED = ("identity_encoder", "normaliser")


def zeros(networks):
    """A state of stage 2 with zeros for weights."""
    shapes = jax.eval_shape(
        lambda key: (init_identity(networks, key), init_motion(networks, key)),
        jax.random.key(0),
    )
    params, frozen = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    count = jnp.zeros((), jnp.int32)
    return training.TrainState(count, params, frozen, (), params, count, count)


def start(state, init_from, model, perceptual="none", stages_before=()):
    """What training makes of it."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    config = {
        "init_from": init_from,
        "model": model,
        "method": "identity_cycle",
        "loss": {},
    }
    config["loss"]["perceptual"] = perceptual
    shardings = jax.tree.map(lambda _: device, state)
    source = _read_source(config)
    return _start_from(config, state, source, shardings, stages_before=stages_before)


def motion_of(trees):
    """The networks of stage 1."""
    return {name: tree for name, tree in trees.items() if name not in TRAINED}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_training_starts_from_the_networks_of_the_bundled_model():
    shipped = facecycle_jax.load("facecycle-small")
    state = start(
        zeros(make_face_networks(shipped.model, vgg_for_loss=False)),
        "facecycle-small",
        shipped.model,
    )
    trees = training.load_trees("facecycle-small")
    assert set(trees) == {*state.params, *state.frozen}
    for name, tree in trees.items():
        assert_equal({**state.params, **state.frozen}[name], tree)
    # The average starts at the weights.
    assert_equal(state.ema, state.params)


def test_training_starts_from_the_networks_of_a_model_folder(tmp_path):
    trees = tiny_model.trees()
    motion = motion_of(trees)
    tiny_model.write(tmp_path / "model", motion)
    fresh = zeros(make_face_networks(tiny_model.MODEL, vgg_for_loss=False))
    state = start(fresh, str(tmp_path / "model"), tiny_model.MODEL)
    assert_equal(state.frozen, motion)
    assert_equal(state.params, fresh.params)
    with pytest.raises(
        ValueError, match=r"config\.model must be the same there and here"
    ):
        start(fresh, "facecycle-small", tiny_model.MODEL)


def test_networks_that_terms_compare_with_are_those_of_the_start(tmp_path):
    trees = tiny_model.trees()
    tiny_model.write(
        tmp_path / "model",
        motion_of(trees),
    )
    fresh = zeros(make_face_networks(tiny_model.MODEL, vgg_for_loss=False))
    params = {"flow_decoder": fresh.frozen["flow_decoder"]}
    frozen = {"start_flow_decoder": params["flow_decoder"]}
    state = dataclasses.replace(fresh, params=params, frozen=frozen, ema=params)
    state = start(state, str(tmp_path / "model"), tiny_model.MODEL)
    assert_equal(state.params["flow_decoder"], trees["flow_decoder"])
    assert_equal(state.frozen["start_flow_decoder"], trees["flow_decoder"])

    with pytest.raises(UserError, match="builds on flow_decoder and so"):
        start(dataclasses.replace(fresh, params=params, frozen=frozen), "", {})


def test_of_networks_in_several_places_the_last_ones_are_used(tmp_path):
    trees = tiny_model.trees()
    other = jax.tree.map(
        lambda x: x + 1,
        motion_of(trees),
    )
    for name, content in (("both", trees), ("other", other), ("with, comma", other)):
        tiny_model.write(tmp_path / name, content)
    fresh = zeros(make_face_networks(tiny_model.MODEL, vgg_for_loss=False))
    state = start(fresh, f"{tmp_path}/both, {tmp_path}/other", tiny_model.MODEL)
    assert_equal(state.frozen, other)
    assert_equal(state.params, {name: trees[name] for name in TRAINED})
    # As stages give them, whose workdirs are named as their user likes.
    listed = start(
        fresh, [f"{tmp_path}/both", f"{tmp_path}/with, comma"], tiny_model.MODEL
    )
    assert_equal((listed.frozen, listed.params), (state.frozen, state.params))


def test_a_stage_of_other_networks_than_those_before_starts_from_scratch(tmp_path):
    trees = tiny_model.trees()
    place = str(tmp_path / "motion")
    tiny_model.write(place, motion_of(trees))
    whole = zeros(make_face_networks(tiny_model.MODEL, vgg_for_loss=False))
    alone = {"identity_encoder": whole.params["identity_encoder"]}
    fresh = dataclasses.replace(whole, params=alone, frozen={}, ema=alone)

    state = start(fresh, [place], tiny_model.MODEL, stages_before=[place])
    assert_equal(state.params, alone)

    # A place that the configuration names must be of use.
    with pytest.raises(UserError, match="motion has no network of identity_cycle"):
        start(fresh, place, tiny_model.MODEL)


def test_the_vgg_of_the_losses_adds_the_layers_that_a_model_lacks(tmp_path):
    model = {**tiny_model.MODEL, "trunk": "vgg", "vgg_width": 0.0625}
    networks = make_face_networks(model, vgg_width=0.0625)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        VGG19("conv4_1", 0.0625).init,
        jax.random.key(0),
        jnp.zeros((1, 64, 64, 3), jnp.float32),
    )["params"]
    vgg = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    trees = {name: tree for name, tree in tiny_model.trees().items() if name != "trunk"}
    write_model(
        tmp_path / "model",
        {**trees, "vgg": vgg},
        model=model,
        licence="CC0",
        source="random numbers",
        dtype="float16",
    )
    folder = str(tmp_path / "model")
    state = zeros(networks)
    state.frozen["vgg"] = vgg
    started = start(state, folder, model, "gram")
    assert set(training.load_trees(folder)["vgg"]) < set(vgg)
    assert_equal(started.frozen["vgg"]["conv4_1"], vgg["conv4_1"])
    assert_equal(
        started.frozen["vgg"]["conv3_1"], training.load_trees(folder)["vgg"]["conv3_1"]
    )
    # Another VGG-19: a loss would look through the first layers of one and the last of
    # the other.
    state.frozen["vgg"] = jax.tree.map(lambda x: 2 * x, vgg)
    with pytest.raises(ValueError, match=r"another VGG-19 than loss\.vgg"):
        start(state, folder, model, "gram")
    start(state, folder, model, "none")


def test_a_path_that_is_neither_run_nor_model_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nowhere", "facecycle-huge"):
        with pytest.raises(
            FileNotFoundError, match=r"no checkpoint under .* or one of facecycle-base"
        ):
            training.load_trees(path)


@pytest.mark.parametrize(
    ("trunk", "perceptual", "vgg", "warns"),
    [
        ("vgg", "none", "random", True),
        ("learned", "gram", "random", True),
        ("learned", "none", "random", False),
        ("vgg", "gram", "vgg19.npz", False),
    ],
)
def test_a_vgg_with_random_weights_is_warned_of(log, trunk, perceptual, vgg, warns):
    setup._warn_of_random_vgg(
        {"model": {"trunk": trunk}, "loss": {"perceptual": perceptual, "vgg": vgg}}
    )
    assert ("loss.vgg is 'random'" in log.text) == warns


def test_methods_without_a_vgg_are_not_warned(log):
    setup._warn_of_random_vgg({"model": {}, "loss": {}})
    assert not log.records
