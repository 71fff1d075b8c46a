"""Model folders keep every bit, and wrong ones are refused in one sentence."""

import argparse
import functools
import json
import random

import fake_bucket
import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from etils import epath
from etils.epath import gpath

import facecycle_jax
from facecycle_jax.commands.weights import add
from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.inference.loading import load
from facecycle_jax.interop.vgg_weights import write_vgg
from facecycle_jax.networks import make_face_networks, random_vgg
from facecycle_jax.networks.face_networks import init_identity, init_motion
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.ops import normalise
from facecycle_jax.storage import ORIGINAL_MODEL, read_model, write_model
from facecycle_jax.storage.model_spec import check_model, nest, weight_shapes
from facecycle_jax.training.checkpointing import Checkpointer

LEARNED = {
    "width": 0.0625,
    "image_size": 64,
    "code_dim": 16,
    "dtype": "float32",
    "trunk": "learned",
}
VGG = {**LEARNED, "trunk": "vgg", "vgg_width": 0.0625}


def random_trees(model, stages=("motion", "identity"), seed=0):
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(model, stages).items():
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    return nest(weights)


def assert_same(ours, expected):
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(ours))


def write(folder, trees, model, **options):
    write_model(folder, trees, model=model, licence="CC0", source="a test", **options)


def run(*arguments):
    """Runs the command as the program does."""
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(a) for a in arguments])
    parsed.run(parsed)


def test_a_folder_records_the_framing_of_its_training_images(tmp_path):
    trees = random_trees(LEARNED, ("motion",))
    write(tmp_path / "usual", trees, LEARNED)
    assert read_model(tmp_path / "usual").info["framing"] == FRAMING.to_dict()
    assert load(tmp_path / "usual").framing == FRAMING

    other = Framing(left_eye=(0.3, 0.35), right_eye=(0.7, 0.35))
    write(tmp_path / "other", trees, LEARNED, framing=other)
    assert load(tmp_path / "other").framing == other
    assert "(0.3, 0.35)" in (tmp_path / "other" / "README.md").read_text()


@pytest.mark.parametrize(
    "framing", [None, {}, {"left_eye": [0.3, 0.4], "right_eye": [0.2, 0.4]}]
)
def test_a_wrong_framing_of_a_folder_is_one_sentence(tmp_path, framing):
    write(tmp_path / "model", random_trees(LEARNED, ("motion",)), LEARNED)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"framing": framing}))
    with pytest.raises(ValueError, match=r"does not describe a model: framing"):
        read_model(tmp_path / "model")


def test_folders_without_a_framing_are_read(tmp_path):
    write(tmp_path / "model", random_trees(LEARNED, ("motion",)), LEARNED)
    path = tmp_path / "model" / "config.json"
    content = json.loads(path.read_text())
    del content["framing"]
    path.write_text(json.dumps(content))
    assert load(tmp_path / "model").framing == FRAMING


@pytest.mark.parametrize(
    "stages", [("motion",), ("motion", "identity")], ids=["stage 1", "both"]
)
@pytest.mark.parametrize(
    "model",
    [LEARNED, VGG, {**LEARNED, "image_skip": True}],
    ids=["learned", "vgg", "image skip"],
)
def test_a_round_trip_keeps_every_bit(tmp_path, model, stages):
    trees = random_trees(model, stages)
    write(tmp_path / "new" / "model", trees, model)

    # No temporary folder stays behind.
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["model"]
    read = read_model(tmp_path / "new" / "model")
    assert_same(read.trees, trees)
    assert read.model == model
    assert read.info["stages"] == list(stages)
    assert (read.info["licence"], read.info["source"]) == ("CC0", "a test")
    assert read.info["input"]["size"] == 64

    card = (tmp_path / "new" / "model" / "README.md").read_text()
    assert "CC0" in card
    assert read.info["weights"]["sha256"] in card


@pytest.mark.parametrize("model", [LEARNED, VGG], ids=["learned", "vgg"])
def test_names_and_shapes_are_those_of_the_networks(model):
    networks = make_face_networks(model, vgg_width=model.get("vgg_width"))
    key = jax.random.key(0)
    trees = jax.eval_shape(
        lambda: {**init_motion(networks, key), **init_identity(networks, key)}
    )

    # The VGG-19 of training, cut as `write_model` cuts it.
    if model["trunk"] == "vgg":
        whole = jax.eval_shape(functools.partial(random_vgg, width=0.0625))
        trees["vgg"] = {layer: whole[layer] for layer in TRUNK_LAYERS}

    expected = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        expected[name] = leaf.shape
    assert weight_shapes(model) == expected


def test_a_bucket_holds_the_same_model_as_a_local_folder(tmp_path):
    trees = random_trees(LEARNED, ("motion",))
    with fake_bucket.bucket(tmp_path):
        write("gs://models/tiny", trees, LEARNED)
        assert_same(read_model("gs://models/tiny").trees, trees)
        assert_same(read_model(epath.Path("gs://models") / "tiny").trees, trees)
        loaded = facecycle_jax.load("gs://models/tiny")
        assert loaded.info["licence"] == "CC0"
        with pytest.raises(FileExistsError, match="gs://models/tiny exists already"):
            write("gs://models/tiny", trees, LEARNED)
        with pytest.raises(FileNotFoundError, match="no model 'gs://models/none'"):
            facecycle_jax.load("gs://models/none")

    # The same bytes as in a local folder.
    assert_same(read_model(tmp_path / "models" / "tiny").trees, trees)
    write(epath.Path(tmp_path) / "local", trees, LEARNED)
    assert_same(read_model(epath.Path(tmp_path) / "local").trees, trees)


def test_a_model_folder_in_a_bucket_is_no_model_before_it_is_whole(
    tmp_path, monkeypatch
):
    order = []
    written = epath.Path.write_bytes

    def breaks(path, content):
        order.append(path.name)
        if path.name == "config.json":
            raise OSError("the connection is gone")
        return written(path, content)

    monkeypatch.setattr(gpath._GPath, "write_bytes", breaks)
    with fake_bucket.bucket(tmp_path), pytest.raises(OSError, match="connection"):
        write("gs://models/tiny", random_trees(LEARNED, ("motion",)), LEARNED)
    assert order[-1] == "config.json"
    assert not list((tmp_path / "models" / "tiny").iterdir())


def test_only_the_vgg_layers_a_model_needs_are_written(tmp_path):
    loss_vgg = jax.tree.map(np.asarray, random_vgg(width=0.0625))
    write(tmp_path / "vgg", {**random_trees(VGG), "vgg": loss_vgg}, VGG)
    expected = {layer: loss_vgg[layer] for layer in TRUNK_LAYERS}
    assert_same(read_model(tmp_path / "vgg").trees["vgg"], expected)

    write(tmp_path / "learned", {**random_trees(LEARNED), "vgg": loss_vgg}, LEARNED)
    assert "vgg" not in read_model(tmp_path / "learned").trees


def test_half_precision_rounds_weights_and_halves_the_file(tmp_path):
    trees = random_trees(LEARNED)
    write(tmp_path / "full", trees, LEARNED)
    write(tmp_path / "half", trees, LEARNED, dtype="float16")
    full, half = (
        (tmp_path / name / "weights.safetensors").stat().st_size
        for name in ("full", "half")
    )
    assert half < 0.6 * full

    rounded = jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), trees)
    assert_same(read_model(tmp_path / "half").trees, rounded)

    trees["generator"]["to_rgb"]["bias"][0] = 1e5
    message = "generator/to_rgb/bias holds values too large for float16"
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "large", trees, LEARNED, dtype="float16")


def _drop_bias(trees):
    del trees["generator"]["to_rgb"]["bias"]


def _misshape_bias(trees):
    trees["generator"]["to_rgb"]["bias"] = np.zeros(4)


def _make_bias_infinite(trees):
    trees["generator"]["to_rgb"]["bias"] = np.full(3, np.inf)


# How trees are spoiled, and the message.
WRONG_WEIGHTS = [
    (_drop_bias, r"generator/to_rgb/bias of shape \(3,\) is missing"),
    (_misshape_bias, r"to_rgb/bias has shape \(4,\), the model needs \(3,\)"),
    (_make_bias_infinite, "to_rgb/bias holds values that are not finite"),
    (
        lambda trees: trees["generator"].update(more=np.zeros(4)),
        "'generator/more' is not a weight",
    ),
    (
        lambda trees: trees.update(discriminator={}),
        "'discriminator' is not a network",
    ),
    (lambda trees: trees.pop("normaliser"), "normaliser/.* is missing"),
    (lambda trees: trees.pop("trunk"), "trunk/.* is missing"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG_WEIGHTS)
def test_wrong_weights_are_not_written(tmp_path, spoil, message):
    trees = random_trees(LEARNED)
    spoil(trees)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "model", trees, LEARNED)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("model", "link"):
        with pytest.raises(FileExistsError, match=f"{name} exists already"):
            write(tmp_path / name, random_trees(LEARNED), LEARNED)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "new", random_trees(LEARNED), LEARNED)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "model.width must be a number above 0"),
        ({"width": float("nan")}, "model.width"),
        ({"code_dim": 2.5}, "model.code_dim must be a whole number"),
        ({"image_size": 63}, "image_size must be one of"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"trunk": "resnet"}, "trunk must be"),
        ({"depth": 3}, "unknown field 'depth'"),
        ({"image_skip": 1}, "model.image_skip must be true or false"),
    ],
)
def test_configurations_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_model({**LEARNED, **change})


def test_damaged_folders_are_read_or_refused_in_one_line(tmp_path):
    trees = random_trees(LEARNED, ("motion",))
    folder = tmp_path / "model"
    write(folder, trees, LEARNED)
    rng = random.Random(0)
    messages = []

    # Cut off, or with one bit flipped.
    for name, count in (("config.json", 400), ("weights.safetensors", 30)):
        path = folder / name
        data = path.read_bytes()
        for _ in range(count):
            if rng.random() < 0.3:
                path.write_bytes(data[: rng.randrange(len(data))])
            else:
                changed = bytearray(data)
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                path.write_bytes(changed)

            try:
                assert_same(read_model(folder).trees, trees)
            except ValueError as error:
                messages.append(str(error))
        path.write_bytes(data)

    assert len(messages) > 250
    for message in messages:
        assert message.isprintable()
        assert len(message) < 900
        assert str(folder) in message
    assert_same(read_model(folder).trees, trees)


def test_anything_but_a_model_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "file.tar").write_bytes(b"")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "bare", random_trees(LEARNED), LEARNED)
    (tmp_path / "bare" / "weights.safetensors").unlink()
    write(tmp_path / "later", random_trees(LEARNED), LEARNED)
    config = tmp_path / "later" / "config.json"
    content = json.loads(config.read_text()) | {"format_version": 2}
    config.write_text(json.dumps(content))

    cases = {
        "missing": "No model folder",
        "file.tar": "facecycle import-torch",
        "run": "facecycle export",
        "empty": "has no config.json",
        "bare": "has no weights.safetensors",
        "later": "newer than 1: update the package",
    }
    for name, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as info:
            read_model(tmp_path / name)
        assert name in str(info.value)
        assert "\n" not in str(info.value)


@functools.cache
def translate(networks):
    """Returns a jitted function of (trees, images) to outputs by golden name."""

    @jax.jit
    def results(trees, images):
        code, flow, back = networks.motion(trees, images)
        neutral = networks.generate(trees, networks.features(trees, images), flow)

        identity = networks.identity_code(trees, images)
        of_neutral = networks.features(trees, neutral)
        mean = networks.remove_identity(trees, of_neutral, identity)

        # The two images are each other's drivers, so reversing exchanges them.
        of_other_mean = networks.features(trees, mean[::-1])
        restored = networks.restore_identity(trees, of_other_mean, identity)
        moved = networks.generate(trees, of_neutral, back[::-1])
        last = networks.generate(trees, networks.features(trees, restored), back[::-1])

        return {
            "motion/code": code,
            "motion/flow": flow,
            "motion/backflow": back,
            "motion/neutral": neutral,
            "identity/code": identity,
            "identity/de_identified": mean,
            "translate/rec_face": moved,
            "translate/mean_face": mean,
            "translate/renorm": restored,
            "translate/id{}_rec_face": last,
        }

    return results


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_imported_checkpoint_gives_the_golden_numbers(tmp_path, capsys, legacy):
    # DataParallel puts `module.` before every name.
    state = {}
    for module, weights in reference.torch_state().items():
        state[module] = {f"module.{name}": array for name, array in weights.items()}
    path = tmp_path / "original.tar"
    path.write_bytes(torch_files.checkpoint(state, legacy=legacy))

    run(
        "import-torch",
        path,
        "--out",
        tmp_path / "model",
        "--licence",
        "as is",
    )
    assert "normaliser" in capsys.readouterr().out

    folder = read_model(tmp_path / "model")
    assert folder.info["licence"] == "as is"
    assert "original.tar" in folder.info["source"]
    expected_trees = dict(reference.trees())
    vgg = expected_trees["vgg"]
    expected_trees["vgg"] = {layer: vgg[layer] for layer in TRUNK_LAYERS}
    assert_same(folder.trees, expected_trees)
    if legacy:
        return  # The same bits as the zip's: computing once is enough.

    assert folder.model == check_model(ORIGINAL_MODEL)
    numbers = reference.golden()
    networks = make_face_networks(folder.model, vgg_width=folder.model["vgg_width"])
    images = normalise(jnp.asarray(numbers["images_u8"][:2]))
    results = translate(networks)(folder.trees, images)

    # Names of a translation end in the number of the face.
    for key, result in results.items():
        for face in (1, 2):
            if key.startswith("translate/"):
                name = key.format(face) if "{}" in key else f"{key}{face}"
                expected = numbers[name][0]
            else:
                name = key
                expected = numbers[key][face - 1]
            np.testing.assert_allclose(
                result[face - 1], expected, rtol=1e-4, atol=2e-4, err_msg=name
            )


def test_a_checkpoint_without_a_trunk_needs_one(tmp_path):
    whole = reference.torch_state()
    state = {
        "codegeneration": dict(whole["codegeneration"]),
        "exptoflow": dict(whole["exptoflow"]),
        "Swap_Generator": {
            name: array
            for name, array in whole["Swap_Generator"].items()
            if name.split(".")[0] not in TRUNK_LAYERS
        },
    }
    (tmp_path / "file.tar").write_bytes(torch_files.checkpoint(state, legacy=False))

    with pytest.raises(ValueError, match="--vgg"):
        run("import-torch", tmp_path / "file.tar", "--out", tmp_path / "model")
    assert not (tmp_path / "model").exists()

    write_vgg(reference.vgg(), tmp_path / "vgg.npz")
    run(
        "import-torch",
        tmp_path / "file.tar",
        "--out",
        tmp_path / "model",
        "--vgg",
        tmp_path / "vgg.npz",
    )
    folder = read_model(tmp_path / "model")
    expected = {layer: reference.vgg()[layer] for layer in TRUNK_LAYERS}
    assert_same(folder.trees["vgg"], expected)
    assert folder.info["stages"] == ["motion"]


@pytest.mark.parametrize("trunk", ["learned", "vgg"])
def test_export_of_a_run_keeps_its_averaged_weights(tmp_path, trunk):
    model = LEARNED if trunk == "learned" else VGG
    trees = random_trees(model)
    loss_vgg = jax.tree.map(np.asarray, random_vgg(width=0.0625))

    # The state of a run of stage 2.
    frozen = {
        "vgg": loss_vgg,
        **{n: trees[n] for n in ("motion_encoder", "flow_decoder", "generator")},
    }
    if trunk == "learned":
        frozen["trunk"] = trees["trunk"]
    else:
        trees["vgg"] = {layer: loss_vgg[layer] for layer in TRUNK_LAYERS}
    params = {name: trees[name] for name in ("identity_encoder", "normaliser")}

    # Its folder.
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = {
        f"model.{name}": value for name, value in model.items() if name != "vgg_width"
    }
    config |= {"method": "identity_cycle", "loss.vgg": "random", "loss.vgg_width": 0.0}
    (workdir / "config.json").write_text(json.dumps(config))

    checkpointer = Checkpointer(workdir)
    zeros = jax.tree.map(np.zeros_like, params)
    checkpointer.save(1, {"params": zeros, "frozen": frozen})
    # Averaged weights come before the trained ones.
    checkpointer.save(2, {"params": zeros, "frozen": frozen, "ema": params})
    checkpointer.close()

    run("export", workdir, "--out", tmp_path / "newest", "--licence", "Apache-2.0")
    folder = read_model(tmp_path / "newest")
    assert_same(folder.trees, trees)
    assert (folder.model, folder.info["licence"]) == (model, "Apache-2.0")
    assert "identity_cycle, step 2" in folder.info["source"]

    run(
        "export",
        workdir / "checkpoints" / "1",
        "--out",
        tmp_path / "first",
        "--dtype",
        "float16",
    )
    first = read_model(tmp_path / "first").trees["normaliser"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))

    with pytest.raises(FileExistsError, match="exists already"):
        run("export", workdir, "--out", tmp_path / "first")
    with pytest.raises(ValueError, match="is a model already"):
        run("export", tmp_path / "newest", "--out", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no checkpoint under"):
        run("export", tmp_path / "nothing", "--out", tmp_path / "other")
