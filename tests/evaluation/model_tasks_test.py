"""Evaluations of a whole, tiny model.

They cover rows of its codes, galleries, synthetic faces and probes while it trains.
"""

import dataclasses
import json
import pathlib
import tracemalloc

import numpy as np
import pytest
from lfw_files import lfw
from PIL import Image

from facecycle_jax import cli
from facecycle_jax.data.images.reading import as_images
from facecycle_jax.evaluation import (
    EvaluationOptions,
    check_probe,
    draw_gallery,
    evaluate,
    feature_sets,
    gallery,
    headlines,
    probe_while_training,
    random_model,
    run_evaluation,
)
from facecycle_jax.evaluation import synthetic as synthetic_module
from facecycle_jax.evaluation.features import FeatureSet, with_normalised_light
from facecycle_jax.evaluation.report import markdown, write_report
from facecycle_jax.inference import FaceCycle
from facecycle_jax.ops import normalise, normalise_lighting
from facecycle_jax.storage.model_spec import nest, weight_shapes

TINY = {
    "width": 0.0625,
    "image_size": 64,
    "code_dim": 16,
    "dtype": "float32",
    "trunk": "learned",
}


@pytest.fixture(scope="module")
def model():
    return random_model(TINY)


def sets(model, baselines, **options):
    return feature_sets(EvaluationOptions(baselines=baselines, **options), model)


def test_codes_are_evaluated_as_they_are_and_centred(tmp_path, model):
    pytest.importorskip("sklearn")
    result = evaluate("lfw", lfw(tmp_path), model=model)
    names = [
        "identity_code",
        "identity_code centred",
        "identity_code whitened",
        "motion_code",
        "both",
    ]
    assert list(result.rows) == names
    # With nothing left but the origin moved, scores differ.
    assert (
        result.rows["identity_code"].thresholds
        != result.rows["identity_code centred"].thresholds
    )
    assert "not the published protocol" in result.protocol
    assert result.settings["model"]["config"]["width"] == 0.0625
    json.dumps(result.settings)


@pytest.fixture(scope="module")
def vgg_model():
    """A model whose configuration has the fields of a frozen trunk."""
    config = {**TINY, "trunk": "vgg", "vgg_width": 0.0625, "image_skip": True}
    rng = np.random.default_rng(0)
    weights = {
        name: 0.1 * rng.standard_normal(shape, np.float32)
        for name, shape in weight_shapes(config).items()
    }
    return FaceCycle(nest(weights), model=config)


@pytest.mark.parametrize("trunk", ["learned", "vgg"])
def test_random_weights_have_the_width_of_the_model(request, trunk):
    model = request.getfixturevalue({"learned": "model", "vgg": "vgg_model"}[trunk])
    of_model = sets(model, ["random"], task="fer2013")
    alone = sets(None, ["random"], task="fer2013")
    image = np.zeros((1, 100, 100, 3), np.uint8)
    size = {name: kind.fitted()(image).size for name, kind in of_model.items()}
    assert size["random"] == size["feature_map"] == 7 * 7 * 8
    assert alone["random"].fitted()(image).size == 7 * 7 * 128


def test_earlier_layers_are_averaged_to_as_many_places(model):
    kinds = sets(model, ["random"], task="fer2013", layer="conv2_2")
    image = np.full((1, 100, 100, 3), 200, np.uint8)
    values = {name: kind.fitted()(image) for name, kind in kinds.items()}
    assert values["random"].size == values["feature_map"].size == 7 * 7 * 4
    for name in ("random", "feature_map"):
        traced = np.asarray(kinds[name].encode(normalise(image)))
        np.testing.assert_allclose(traced, values[name], rtol=1e-4, atol=1e-5)


def test_maps_of_several_layers_are_joined(model):
    kinds = sets(model, ["random"], task="fer2013", layer="residual2,conv6_2")
    image = np.full((1, 100, 100, 3), 200, np.uint8)
    for name in ("random", "feature_map"):
        value = kinds[name].fitted()(image)
        assert value.size == 7 * 7 * (8 + 8)
        traced = np.asarray(kinds[name].encode(normalise(image)))
        np.testing.assert_allclose(traced, value, rtol=1e-4, atol=1e-5)


def test_maps_of_larger_images_are_averaged_to_as_many_places(model):
    kinds = sets(
        model, ["random", "pixels"], task="fer2013", layer="residual2", size=160
    )
    # Baselines that are not encoders keep their own sizes.
    assert {name: kind.size for name, kind in kinds.items()} == {
        "feature_map": 160,
        "motion_code": 64,
        "random": 160,
        "pixels": 32,
    }
    image = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), np.uint8)
    values = {name: kinds[name].fitted()(image) for name in ("feature_map", "random")}
    assert values["random"].size == values["feature_map"].size == 7 * 7 * 8
    for name, value in values.items():
        traced = np.asarray(kinds[name].encode(normalise(image)))
        np.testing.assert_allclose(traced, value, rtol=1e-4, atol=1e-5)
    expected = model.feature_map(image, size=160, layer="residual2", side=7)
    np.testing.assert_allclose(values["feature_map"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["fer2013", "lfw"])
def test_features_with_flip_are_averages_with_those_of_the_mirror_image(model, task):
    plain = sets(model, ["random", "pixels"], task=task)
    averaged = sets(model, ["random", "pixels"], task=task, flip=True)
    assert list(plain) == list(averaged)
    for name, kind in averaged.items():
        faces = np.random.default_rng(0).integers(
            0, 256, (2, kind.size, kind.size, 3), np.uint8
        )
        function, mirrored = kind.fitted(), faces[:, :, ::-1]
        before = plain[name].fitted()
        mean = (before(faces) + before(mirrored)) / 2
        np.testing.assert_allclose(function(faces), mean, rtol=1e-4, atol=1e-5)
        # What a probe sees no longer tells a face from its mirror image.
        np.testing.assert_allclose(
            function(mirrored), function(faces), rtol=1e-4, atol=1e-5
        )
        assert np.abs(before(mirrored) - before(faces)).max() > 1e-4
        if kind.encode is not None:
            traced = np.asarray(kind.encode(normalise(faces)))
            np.testing.assert_allclose(
                traced, function(faces).reshape(2, -1), rtol=1e-4, atol=1e-5
            )


def test_the_report_states_that_features_were_averaged(tmp_path):
    options = {"path": lfw(tmp_path), "baselines": ["pixels"]}
    with_mirror_image, without = (
        evaluate("lfw", **options, flip=True),
        evaluate("lfw", **options),
    )
    assert (
        "Features averaged over an image and its mirror image."
        in with_mirror_image.protocol
    )
    assert "mirror" not in without.protocol
    assert with_mirror_image.settings["flip"] is True
    assert (
        with_mirror_image.rows["pixels"].thresholds != without.rows["pixels"].thresholds
    )


@pytest.mark.parametrize("task", ["fer2013", "lfw"])
def test_features_with_light_are_those_of_images_of_normalised_lighting(model, task):
    plain = sets(model, ["random", "pixels"], task=task)
    even = sets(model, ["random", "pixels"], task=task, light=1.0)
    both = sets(model, ["random", "pixels"], task=task, light=1.0, flip=True)
    assert list(plain) == list(even)
    for name, kind in even.items():
        faces = np.random.default_rng(0).integers(
            60, 200, (2, kind.size, kind.size, 3), np.uint8
        )
        darker = (0.6 * faces + 10).astype(np.uint8)
        function, before = kind.fitted(), plain[name].fitted()
        expected = before(np.asarray(normalise_lighting(faces, strength=1.0)))
        np.testing.assert_allclose(function(faces), expected, rtol=1e-4, atol=1e-5)
        # The features hardly depend on the light any more; those of pixels never do.
        if name != "pixels":
            moved, moved_before = (
                function(darker) - function(faces),
                before(darker) - before(faces),
            )
            assert np.abs(moved).mean() < 0.3 * np.abs(moved_before).mean()
        averaged = (function(faces) + function(faces[:, :, ::-1])) / 2
        np.testing.assert_allclose(
            both[name].fitted()(faces), averaged, rtol=1e-4, atol=1e-5
        )
        if kind.encode is not None:
            traced = np.asarray(kind.encode(normalise(faces)))
            np.testing.assert_allclose(
                traced, function(faces).reshape(2, -1), rtol=1e-4, atol=1e-5
            )


def test_what_is_fitted_is_fitted_to_images_of_normalised_lighting():
    seen = []
    kind = FeatureSet(
        lambda sample: (seen.append(sample), lambda images: images)[1],
        8,
        True,
    )
    sample = np.random.default_rng(0).integers(0, 100, (3, 8, 8, 3), np.uint8)
    function = with_normalised_light(kind, 1.0).fit(sample)
    np.testing.assert_array_equal(seen[0], function(sample))
    assert seen[0].dtype == np.uint8
    assert seen[0].mean() > sample.mean() + 40


def test_the_report_states_that_lighting_was_normalised(tmp_path):
    result = evaluate("lfw", lfw(tmp_path), baselines=["pixels"], light=0.5)
    assert result.protocol.endswith(
        " Brightness and contrast of all images normalised by 0.5."
    )
    assert result.settings["light"] == 0.5


def test_a_gallery_has_all_panels_and_refuses_invalid_options(tmp_path, model, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    result = draw_gallery(model, faces, projection="pca")
    assert set(result.panels) == {
        "frontalisation",
        "translation_1",
        "translation_2",
        "neighbours_motion_code",
        "map_motion_code",
        "neighbours_identity_code",
        "map_identity_code",
    }
    write_report(result, tmp_path / "gallery")
    content = json.loads((tmp_path / "gallery" / "results.json").read_text())
    assert len(content["details"]["maps"]["identity_code"]) == 4
    assert all(
        (tmp_path / "gallery" / f"{name}.png").is_file() for name in result.panels
    )
    assert "![frontalisation](frontalisation.png)" in markdown(result)
    with pytest.raises(
        ValueError, match=r"crop must be above 0 and at most 1, got 2\.0"
    ):
        draw_gallery(model, faces, crop=2.0)
    with pytest.raises(ValueError, match="at least three images, got 2"):
        draw_gallery(model, faces[:2])
    assert (
        cli.main(
            [
                "evaluate",
                "--task",
                "gallery",
                "--data",
                "x",
                "--out",
                str(tmp_path / "no"),
            ]
        )
        == 2
    )
    assert "needs --model and --data, a folder of images" in capsys.readouterr().err


def test_a_gallery_crops_images_before_it_resizes_them(tmp_path):
    """No image larger than the file is made, however small the crop."""
    faces = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    tracemalloc.start()
    kept, names, problems = gallery._read(faces, size=64, crop=0.0005)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Before, four images with sides of 128,000 pixels.
    assert peak < 10e6
    assert kept.shape == (4, 64, 64, 3)
    assert len(names) == 4
    assert not problems

    half, _, _ = gallery._read(faces, size=64, crop=0.5)
    expected, _, _ = as_images(faces[:, 24:72, 24:72], size=64)
    np.testing.assert_array_equal(half, expected)

    (tmp_path / "letter.png").write_text("no image")
    Image.fromarray(faces[0]).save(tmp_path / "face.png")
    kept, names, problems = gallery._read(tmp_path, size=64, crop=0.5)
    np.testing.assert_array_equal(kept[0], expected[0])
    assert names == [str(tmp_path / "face.png")]
    assert len(problems) == 1
    assert "letter.png" in problems[0]


def test_a_gallery_reads_only_the_images_it_draws(tmp_path, monkeypatch):
    for number in range(12):
        colour = (20 * number, 100, 100)
        Image.new("RGB", (70, 70), colour).save(tmp_path / f"{number:02}.png")

    tried = []
    read = gallery.read_image

    def counted(path, **options):
        tried.append(str(path))
        return read(path, **options)

    monkeypatch.setattr(gallery, "read_image", counted)
    kept, names, problems = gallery._read(tmp_path, size=64, crop=1.0, limit=4, seed=3)
    assert sorted(tried) == names
    assert kept.shape == (4, 64, 64, 3)
    assert not problems

    # Another image is drawn for one that cannot be read.
    pathlib.Path(names[1]).write_text("no image")
    tried.clear()
    _, others, problems = gallery._read(tmp_path, size=64, crop=0.5, limit=4, seed=3)
    assert len(tried) == 5
    assert len(others) == 4
    assert set(names) - set(others) == {names[1]}
    assert [names[1] in problem for problem in problems] == [True]


def test_a_gallery_of_too_few_images_says_why(tmp_path, model):
    with pytest.raises(ValueError, match=r"limit must be 0 .all. or 3 and more, got 2"):
        draw_gallery(model, tmp_path, limit=2)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(ValueError, match=r"three images, got 0\. .*a\.png cannot be"):
        draw_gallery(model, tmp_path)
    with pytest.raises(FileNotFoundError):
        draw_gallery(model, tmp_path / "none.png")


def test_probes_while_training_give_the_figures_of_the_evaluation(tmp_path, model):
    config = {
        "fsdp": False,
        "seed": 0,
        "model": TINY,
        "probe": {"task": "", "path": "", "limit": 8},
    }
    trees = model.trees
    assert probe_while_training(config, trees) == {}
    assert probe_while_training({**config, "probe": None}, trees) == {}
    config["probe"] = {"task": "lfw", "path": lfw(tmp_path), "limit": 8}
    figures = probe_while_training(config, trees)
    assert figures.keys() >= {
        "identity_code/accuracy",
        "identity_code/auc",
        "motion_code/accuracy",
    }
    whole = headlines(evaluate("lfw", config["probe"]["path"], model=model, limit=8))
    assert figures == pytest.approx(whole, abs=1e-6)


def test_probes_that_cannot_run_are_refused_before_training(tmp_path):
    def config(task, path=""):
        return {"fsdp": False, "probe": {"task": task, "path": path, "limit": 8}}

    for fine in (
        config(""),
        config("synthetic"),
        config("lfw", str(tmp_path)),
        {"fsdp": False},
    ):
        check_probe(fine)
    with pytest.raises(
        ValueError, match=r"probe\.task must be one of lfw, .*, got 'gallery'"
    ):
        check_probe({"stages": ("a",), "a": config("gallery")})
    with pytest.raises(
        FileNotFoundError,
        match=r"probe\.path: there is no '/none', which probe\.task=lfw",
    ):
        check_probe(config("lfw", "/none"))
    for task, limit, fewest in (("synthetic", 4, 8), ("faces", 2, 3)):
        few = config(task, str(tmp_path))
        few["probe"]["limit"] = limit
        with pytest.raises(ValueError, match=f"must be 0 or at least {fewest}"):
            check_probe(few)
    with pytest.raises(ValueError, match="seed must be 0 to 4294967295"):
        check_probe({**config("synthetic"), "seed": -1})


@pytest.mark.parametrize(
    ("method", "generator", "task", "words"),
    [
        ("motion_cycle", False, "synthetic", "with loss.generator=False does not have"),
        ("identity_cycle", False, "lfw", "does not have: use none"),
        ("fab_net", None, "faces", "needs networks that fab_net does not have"),
    ],
)
def test_probes_of_networks_that_a_stage_lacks_are_refused(
    tmp_path, method, generator, task, words
):
    config = {
        "fsdp": False,
        "method": method,
        "loss": {} if generator is None else {"generator": generator},
        "probe": {"task": task, "path": str(tmp_path), "limit": 8},
    }
    with pytest.raises(ValueError, match=words):
        check_probe(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"task": "lfw", "probe": "linear"},
            "probe linear is for the tasks fer2013, raf-db, not for lfw",
        ),
        (
            {"task": "pose", "without": ["Ann"]},
            "without is for the tasks lfw, cplfw, faces, not for pose",
        ),
        (
            {"task": "raf-db", "test_split": "both"},
            "test_split is for the task fer2013, not for raf-db",
        ),
        ({"task": "synthetic", "crop": 0.5}, "crop is for .*, not for synthetic"),
        ({"task": "lfw", "crop": 0.0}, "crop must be above 0 and at most 1, got 0.0"),
        (
            {"task": "lfw", "layer": "conv2_2"},
            "layer is for the tasks fer2013, raf-db, pose, not for lfw",
        ),
        (
            {"task": "lfw", "size": 160},
            "size is for the tasks fer2013, raf-db, pose, not for lfw",
        ),
        ({"task": "pose", "size": 16}, "size must be 32 to 512 pixels, got 16"),
        (
            {"task": "pose", "flip": True},
            "flip is for the tasks lfw, cplfw, fer2013, raf-db, lights, not for pose",
        ),
        (
            {"task": "pose", "light": 0.5},
            "light is for the tasks lfw, cplfw, fer2013, raf-db, lights, not for pose",
        ),
        ({"task": "lfw", "light": 1.5}, "light must be 0 to 1, got 1.5"),
        (
            {"task": "fer2013", "layer": "conv9"},
            "layer must be one of conv1_2, .*, got 'conv9'",
        ),
        (
            {"task": "fer2013", "epochs": 3},
            "epochs are for the probe linear, not for logistic",
        ),
        (
            {"task": "faces"},
            "baselines is for the tasks lfw, .*, synthetic, not for faces",
        ),
        (
            {"task": "lfw", "projection": "tsne"},
            "map is for the task gallery, not for lfw",
        ),
        ({"task": "gallery", "projection": "no"}, "map must be one of pca, tsne"),
        ({"task": "lfw", "limit": -1}, "a limit must be 0 .all. or more, got -1"),
        ({"task": "lfw", "seed": -1}, "seed must be 0 to 4294967295, got -1"),
        ({"task": "lfw", "seed": 2**32}, "seed must be 0 to 4294967295, got"),
        (
            {"task": "mnist"},
            "task must be one of lfw, cplfw, fer2013, raf-db, pose, lights, faces, ",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(path="x", baselines=["pixels"], **options)


def test_the_report_has_all_options_but_names_of_people(tmp_path):
    options = EvaluationOptions(
        "lfw",
        lfw(tmp_path),
        baselines=["pixels"],
        without=["P7", "P7"],
        crop=0.9,
        flip=True,
        seed=3,
    )
    settings = run_evaluation(options).settings
    assert settings["baselines"] == ["pixels"]
    assert (settings["crop"], settings["flip"], settings["seed"]) == (0.9, True, 3)
    assert settings["people_left_out"] == 1
    assert "P7" not in json.dumps(settings)
    fields = {field.name for field in dataclasses.fields(EvaluationOptions)} - {
        "task",
        "without",
    }
    assert set(settings) == fields | {"version", "people_left_out", "model"}


def test_an_unknown_option_is_a_defect_of_the_caller():
    with pytest.raises(TypeError, match="colour"):
        evaluate("lfw", "x", colour=1)


@pytest.mark.slow
def test_synthetic_faces_are_evaluated_with_baselines_and_references(
    tmp_path, monkeypatch, model
):
    monkeypatch.setattr(synthetic_module, "FRAMES", 6)
    other = random_model(TINY, seed=1)
    monkeypatch.setattr(synthetic_module, "random_model", lambda *_, **__: other)

    # The figures of each model, as they are measured.
    figures = {}
    measure = synthetic_module._evaluate_model

    def noted(one, **options):
        figures[id(one)], panel = measure(one, **options)
        return figures[id(one)], panel

    monkeypatch.setattr(synthetic_module, "_evaluate_model", noted)
    result = evaluate("synthetic", model=model, baselines=["random", "pixels"], limit=8)
    rows = result.rows

    for name, figure in figures[id(model)].items():
        assert rows[name].model == figure
        assert rows[name].random == figures[id(other)][name]
    neutral = rows["neutral face to the true one"]
    assert neutral.model != neutral.random
    assert rows["identity from motion code"].model.reference == 100 / 8
    assert rows["identity from pixels"].random is None
    assert rows["mean face to the true one"].model.value > 0
    assert set(result.panels) == {"truth", "truth_random_weights"}
    text = markdown(result)
    assert "| reference | the reference is |" in text
    assert "| identity from identity code |" in text
    assert (
        headlines(result)["yaw_from_motion_code"]
        == rows["yaw from motion code"].model.value
    )
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate("synthetic")
    with pytest.raises(ValueError, match="at least 8 people"):
        evaluate("synthetic", baselines=["pixels"], limit=3)
