"""A loaded model accepts any images and computes what the methods compute."""

import concurrent.futures
import contextlib
import functools
import shutil
import sys
import threading

import jax
import numpy as np
import pytest
from drawn import drawn
from etils import epath
from PIL import Image
from tiny_model import MODEL

import facecycle_jax
from facecycle_jax.errors import UserError
from facecycle_jax.inference import (
    FaceCycle,
    PeerModel,
    functions,
    loading,
    model_from_state,
)
from facecycle_jax.inference.runner import Batches
from facecycle_jax.methods import vgg_parameters
from facecycle_jax.networks.build import build_modules
from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.ops import denormalise, normalise
from facecycle_jax.storage import write_model
from facecycle_jax.storage.model_spec import build_model


@functools.cache
def networks_and_trees(*, identity=True):
    networks = make_face_networks(MODEL, vgg_for_loss=False)

    def init(key):
        return init_motion(networks, key) | (
            init_identity(networks, key) if identity else {}
        )

    return networks, jax.device_get(drawn(init))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_model(
        path,
        networks_and_trees()[1],
        model=MODEL,
        licence="CC0",
        source="random numbers",
    )
    return path


@pytest.fixture(scope="module")
def model(folder):
    return facecycle_jax.load(folder, batch_size=8)


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


@pytest.mark.slow
def test_several_threads_compile_as_often_as_one(folder, faces):
    # Batches of 3 and of 5, which no other test has.
    serial = facecycle_jax.load(folder, batch_size=3)
    threaded = facecycle_jax.load(folder, batch_size=5)
    together = threading.Barrier(4)
    compiled = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    def ask():
        together.wait()
        return threaded.motion_code(faces)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        serial.motion_code(faces[:3])
        of_one = len(compiled)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(ask) for _ in range(4)]
            codes = [answer.result() for answer in answers]
    finally:
        jax.monitoring.unregister_event_duration_listener(count)

    assert len(compiled) - of_one == of_one > 0
    for code in codes[1:]:
        np.testing.assert_array_equal(code, codes[0])


def test_outputs_have_the_documented_shapes_and_ranges(model, faces):
    assert model.has_identity
    for codes in (model.motion_code(faces), model.identity_code(faces)):
        assert codes.shape == (5, 16)
        assert codes.dtype == np.float32
        assert np.abs(codes).max() < 1

    assert model.flow(faces).shape == (5, 16, 16, 2)
    assert model.feature_map(faces).shape == (5, 7 * 7 * 8)
    earlier = model.feature_map(faces, layer="residual2", side=7)
    assert earlier.shape == (5, 7 * 7 * 8)
    images = normalise(model.read(faces, size=100))
    traced = model.traced_feature_map(images, layer="residual2", side=7)
    np.testing.assert_allclose(traced, earlier, atol=1e-4)
    with pytest.raises(ValueError, match="side must be"):
        model.feature_map(faces, side=-1)
    with pytest.raises(ValueError, match="layer must be a name, or several names"):
        model.feature_map(faces, layer=["residual2"], side=7)

    for draw in (model.neutral, model.mean_face, model.reconstruct):
        drawn = draw(faces)
        assert drawn.shape == (5, 64, 64, 3)
        assert drawn.dtype == np.uint8

    assert model.reexpress(faces[0], faces).shape == (5, 64, 64, 3)
    assert model.reidentify(faces, faces[1]).shape == (5, 64, 64, 3)

    result = model.translate(faces[:2], faces[2:4])
    assert result["reidentified_reexpressed"].shape == (2, 2, 64, 64, 3)
    np.testing.assert_array_equal(result["input"][:, 1], faces[2:4])


def test_outputs_are_those_of_the_forward_passes(model, faces):
    networks, trees = networks_and_trees()
    images = normalise(faces)

    # Faces in reverse order drive the faces.
    _, flow, back = networks.motion(trees, images)
    neutral = networks.generate(trees, networks.features(trees, images), flow)
    moved = networks.generate(trees, networks.features(trees, neutral), back[::-1])
    result = model.translate(faces, faces[::-1])

    def close(drawn, expected):
        # A value half way between two levels may fall to either.
        levels = np.asarray(denormalise(expected)).astype(int)
        difference = np.abs(drawn.astype(int) - levels)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01

    close(model.neutral(faces), neutral)
    close(result["neutral"][:, 0], neutral)
    close(result["reexpressed"][:, 0], moved)
    close(model.reexpress(faces, faces[::-1]), moved)
    np.testing.assert_allclose(model.flow(faces), flow, atol=1e-5)


def test_several_outputs_of_one_pass_are_those_of_the_single_calls(model, faces):
    single = {
        "reconstruction": model.reconstruct,
        "neutral": model.neutral,
        "flow": model.flow,
        "mean_face": model.mean_face,
        "identity_code": model.identity_code,
        "motion_code": model.motion_code,
    }
    found = model.outputs(faces, ("input", *single))
    assert list(found) == ["input", *single]
    np.testing.assert_array_equal(found["input"], faces)
    for name, call in single.items():
        # A value half way between two levels may fall to either in another program.
        tolerance = 1 if found[name].dtype == np.uint8 else 1e-5
        np.testing.assert_allclose(
            found[name].astype(float), call(faces), atol=tolerance
        )

    pairs = model.translate(
        faces[:2], faces[2:4], outputs=("identity_code", "reidentified", "input")
    )
    assert list(pairs) == ["identity_code", "reidentified", "input"]
    np.testing.assert_allclose(
        pairs["identity_code"][:, 1], found["identity_code"][2:4], atol=1e-5
    )
    alone = model.reidentify(faces[:2], faces[2:4])
    np.testing.assert_allclose(pairs["reidentified"][:, 0].astype(float), alone, atol=1)


class Recorder(FaceCycle):
    """Records which outputs the other methods request, and computes none."""

    def outputs(self, images, names):
        self.requested = tuple(names)
        return dict.fromkeys(names)


def test_a_call_computes_only_what_it_returns(model, faces):
    recorder = Recorder(model.trees, model=model.model)

    def cost(call):
        call(faces[:1])
        return recorder.lower(recorder.requested).cost_analysis()["flops"]

    code = cost(recorder.motion_code)
    flow = cost(recorder.flow)
    neutral = cost(recorder.neutral)
    reconstruction = cost(recorder.reconstruct)

    # The flow decoder is smaller than the encoder; two images are drawn for a
    # reconstruction, one for a neutral face.
    assert code < flow < 2 * code
    assert flow < neutral < 0.6 * reconstruction

    # Outputs of one pass share what they have in common.
    together = recorder.lower(("flow", "neutral", "reconstruction", "motion_code"))
    several = together.cost_analysis()["flops"]
    assert several < 1.01 * reconstruction


def test_one_face_is_prepared_once_for_many_drivers(model, faces, monkeypatch):
    counted = {}

    def run(self, function, *images, **options):
        """Counts images and computes nothing."""
        count = counted[function.__name__] = len(images[0])
        codes = np.zeros((count, model.model["code_dim"]), np.float32)
        blank = np.zeros((count, 1))
        return {
            "prepare": {"motion_code": codes, "conv2_1": blank, "conv3_1": blank},
            "face_outputs": {"motion_code": codes},
            "express": {"expressed": blank},
            "reexpress": {"reexpressed": blank},
        }[function.__name__]

    monkeypatch.setattr(Batches, "run", run)
    assert len(model.reexpress(faces[0], faces)) == 5
    assert counted == {"prepare": 1, "face_outputs": 5, "express": 5}

    # A pair, and several faces of one driver, are one pass.
    for sources in (faces[:1], faces[:3]):
        counted.clear()
        model.reexpress(sources, faces[4])
        assert counted == {"reexpress": len(sources)}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("age",), "outputs must be among input, motion_code, .* got 'age'"),
        ((), "got none"),
        ("neutral", "must be several names"),
    ],
)
def test_unknown_outputs_are_refused(model, faces, names, words):
    with pytest.raises(UserError, match=words):
        model.outputs(faces, names)
    with pytest.raises(UserError, match=words):
        model.translate(faces, faces, outputs=names)


@contextlib.contextmanager
def calls_of(*functions):
    """Counts calls of Python functions by name, wherever they were imported to."""
    codes = {function.__code__: function.__name__ for function in functions}
    counts = dict.fromkeys(codes.values(), 0)

    def profile(frame, event, _):
        if event == "call" and frame.f_code in codes:
            counts[codes[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield counts
    finally:
        sys.setprofile(before)


def test_loading_checks_the_configuration_and_builds_the_networks_once(folder):
    with calls_of(build_model, build_modules) as counts:
        facecycle_jax.load(folder)
    assert counts == {"build_model": 1, "build_modules": 1}


# 64 * 0.1 channels are rounded to 6, which does not reveal the width.
@pytest.mark.parametrize(("requested", "width"), [(0.0, 0.0625), (0.1, 0.1)])
def test_a_training_state_gives_a_model_of_its_vgg_width(faces, requested, width):
    config = {
        "model": {**MODEL, "trunk": "vgg"},
        "loss": {"vgg": "random", "vgg_width": requested, "perceptual": "gram"},
    }
    networks = make_face_networks(config["model"], vgg_width=width)
    trees = jax.device_get(drawn(functools.partial(init_motion, networks)))
    trees["vgg"], _ = vgg_parameters(config)

    model = model_from_state(config, trees)
    assert model.model["vgg_width"] == width
    assert not model.has_identity
    assert "conv4_1" not in model.trees["vgg"]
    assert model.neutral(faces[:1]).shape == (1, 64, 64, 3)


def test_a_learned_trunk_leaves_the_vgg_of_the_loss_out():
    config = {"model": MODEL, "loss": {"vgg": "vgg19.npz", "perceptual": "gram"}}
    model = model_from_state(
        config, {"vgg": {}, "trunk": {}}, info={"source": "a test"}
    )
    assert set(model.trees) == {"trunk"}
    assert model.info == {"source": "a test"}
    assert "vgg_width" not in model.model


def test_exchanging_source_and_driver_exchanges_the_outputs(model, faces):
    one = model.translate(faces[0], faces[1])
    other = model.translate(faces[1], faces[0])
    for name, value in one.items():
        difference = np.abs(value.astype(float) - other[name][:, ::-1])
        assert difference.max() <= (1e-4 if name == "flow" else 1), name


def test_batches_do_not_change_results(model, faces, folder):
    many = np.concatenate([faces] * 4)[:19]
    codes = model.motion_code(many)
    assert len(codes) == 19
    single = facecycle_jax.load(folder, batch_size=1)
    np.testing.assert_allclose(codes, single.motion_code(many), atol=1e-5)


def test_new_numbers_of_images_seldom_compile(model, faces):
    from facecycle_jax.inference import functions as inference
    from facecycle_jax.inference import runner as batches

    # Models of one configuration share what is compiled: others may have been here
    # before.
    batches._cached_program.cache_clear()
    for count in range(1, 30):
        model.motion_code(np.concatenate([faces] * 6)[:count])
    program = batches._program(
        inference.face_outputs, model.networks, outputs=("motion_code",)
    )
    assert program.jitted._cache_size() <= 4


def test_all_kinds_of_input_give_the_same_codes(model, faces, tmp_path):
    file = tmp_path / "face.png"
    Image.fromarray(faces[0]).save(file)
    expected = model.motion_code(faces[0])
    for given in (
        file,
        str(file),
        [file],
        Image.fromarray(faces[0]),
        faces[:1],
        [faces[0]],
        tmp_path,
    ):
        np.testing.assert_array_equal(model.motion_code(given), expected)

    # Any size and mode, mixed.
    grey = Image.fromarray(faces[0]).convert("L").resize((200, 100))
    assert model.motion_code([grey, faces[1], file]).shape == (3, 16)


def test_unreadable_and_unmatched_images_are_refused(model, faces, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        model.motion_code(tmp_path / "none.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        model.motion_code([faces[0], broken])
    with pytest.raises(ValueError, match="2 source images and 3 driver images"):
        model.translate(faces[:2], faces[:3])
    with pytest.raises(ValueError, match="There is no image"):
        model.motion_code(faces[:0])


def test_a_model_of_stage_1_alone_has_no_identity_outputs(faces, tmp_path):
    path = tmp_path / "motion"
    write_model(
        path,
        networks_and_trees(identity=False)[1],
        model=MODEL,
        licence="CC0",
        source="random numbers",
    )
    model = facecycle_jax.load(path)
    assert not model.has_identity
    assert set(model.translate(faces[0], faces[1])) == {
        "input",
        "flow",
        "neutral",
        "reexpressed",
    }
    for method in (model.identity_code, model.mean_face):
        with pytest.raises(ValueError, match="stage 1 alone"):
            method(faces)


def test_missing_models_and_wrong_batch_sizes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model 'nothing'"):
        facecycle_jax.load("nothing")
    with pytest.raises(FileNotFoundError, match=r"config\.json|model folder"):
        facecycle_jax.load(tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        FaceCycle({}, model=MODEL, batch_size=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path_or_name": None}, "a model is named by a path, .* got None"),
        ({"path_or_name": ""}, "the model is empty"),
        ({"path_or_name": "https://huggingface.co/a/b"}, "write hf://USER/NAME"),
        ({"path_or_name": "http://a.org/b"}, "http:// is neither read nor written"),
        ({"batch_size": 3.5}, "batch_size must be a whole number, got 3.5"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"devices": "cpu"}, r"a list of JAX's devices, .* got 'cpu'"),
        ({"devices": ["cpu"]}, "a list of JAX's devices, .* got a list"),
        ({"devices": []}, "devices must name one at least"),
    ],
)
def test_arguments_of_load_are_named_in_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        facecycle_jax.load(**options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m.turn(x, yaw="20"), "yaw must be one number, got '20'"),
        (lambda m, x: m.turn(x, roll=[1, 2]), "roll must be one number, got a list"),
        (lambda m, x: m.reexpress(x, x, strength="a"), "strength must be one number"),
        (lambda m, x: m.express("ann.jpg", "bob.jpg"), "motion_codes must be an array"),
        (lambda m, x: m.feature_map(x, size=100.5), "size must be a whole number"),
        (lambda m, x: m.feature_map(x, side=1.5), "side must be a whole number"),
        (lambda m, x: m.interpolate(x, x, frames=2.5), "frames must be a whole number"),
        (lambda m, x: m.interpolate(x, x, frames=10**6), "frames must be at most 1000"),
        (lambda m, x: m.lower(["flow"], count=65), "one batch has 1 to 8 images"),
        (lambda m, x: m.lower(["flow"], count=0), "one batch has 1 to 8 images"),
    ],
)
def test_wrong_types_are_named_in_one_sentence(model, faces, call, words):
    with pytest.raises(UserError, match=words):
        call(model, faces[:1])


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"method": "face_cycle", "model": {}}, "trunk"),
        ({"method": "face_cycle", "model": {"trunk": "learned"}}, "image_size"),
        ({"method": "fab_net", "model": {}}, "image_size"),
    ],
)
def test_a_field_that_a_run_lacks_is_named(tmp_path, monkeypatch, config, field):
    run = loading._Run(
        workdir=epath.Path(tmp_path),
        config=config,
        checkpoint=epath.Path(tmp_path / "checkpoints" / "3"),
        trees={},
    )
    monkeypatch.setattr(loading, "_is_run", lambda path: True)
    monkeypatch.setattr(loading, "_read_run", lambda path: run)
    with pytest.raises(UserError) as raised:
        facecycle_jax.load(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}/config.json is not a configuration of a run: it lacks the field "
        f"'{field}'."
    )


def test_prepared_faces_come_with_their_reconstruction(model, faces):
    found = functions.prepare(
        model.networks, model.trees, faces[:2], outputs=("reconstruction",)
    )
    drawn = np.asarray(found["reconstruction"]).astype(int)
    assert np.abs(drawn - model.reconstruct(faces[:2])).max() <= 1


@pytest.mark.slow
def test_a_run_loads_its_newest_checkpoint(tmp_path, faces):
    from facecycle_jax.configs import debug
    from facecycle_jax.training import loop as train

    config = debug.get_config()
    config.update(
        {"num_steps": 1, "batch_size": 8, "panel_every": 10, "eval_every": 10}
    )
    config.data.update({"identities": 8, "frames_per_track": 2})
    state = train.train_and_evaluate(config, tmp_path)

    model = facecycle_jax.load(tmp_path)
    assert "step 1" in model.info["source"]
    networks = make_face_networks(model.model, vgg_for_loss=False)
    code, _, _ = networks.motion(jax.device_get(state.eval_params), normalise(faces))
    np.testing.assert_allclose(model.motion_code(faces), code, atol=1e-5)


def test_a_model_folder_may_lie_in_a_folder_named_checkpoints(folder, tmp_path):
    place = tmp_path / "checkpoints" / "my_model"
    shutil.copytree(folder, place)
    assert facecycle_jax.load(place).info["source"] == "random numbers"


def test_sizes_of_feature_maps_are_checked(model, faces):
    with pytest.raises(UserError, match="size must be at least 1"):
        model.feature_map(faces[:1], size=0)
    with pytest.raises(UserError, match=r"side must be 0, to keep the map, .* got -1"):
        model.feature_map(faces[:1], side=-1)
    with pytest.raises(UserError, match="size must be at least 1"):
        model.read(faces[:1], size=0)


def test_sizes_of_a_peers_maps_are_checked(faces):
    peer = object.__new__(PeerModel)
    peer.size = 64
    peer.any_size = True
    with pytest.raises(UserError, match="size must be at least 1"):
        peer.features(faces[:1], size=0)
    with pytest.raises(UserError, match=r"side must be 0, to keep the map, .* got -1"):
        peer.feature_map(faces[:1], side=-1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5])
def test_codes_out_of_range_are_refused(model, faces, value):
    codes = np.zeros((2, MODEL["code_dim"]), np.float32)
    codes[1, 3] = value
    with pytest.raises(UserError, match="motion_codes must be numbers from -1 to 1"):
        model.express(faces[:1], codes)


def test_angles_must_be_finite(model, faces):
    with pytest.raises(UserError, match=r"pitch must be a finite number .* got nan"):
        model.turn(faces[:1], pitch=float("nan"))


def test_a_missing_file_of_a_list_is_a_users_error(model, tmp_path):
    with pytest.raises(UserError, match=r"none\.jpg"):
        model.motion_code([tmp_path / "none.jpg"])
