"""Methods are compared by the same probes, and the report says by which."""

import functools
import json
import math
import types

import numpy as np
import pytest
import tiny_model
from drawn import drawn_state, unit_gain
from etils import epath
from PIL import Image

from facecycle_jax import methods
from facecycle_jax.configs import fab_net
from facecycle_jax.data.labelled.images import LabelledImages
from facecycle_jax.data.sources.synthetic import MOTION
from facecycle_jax.evaluation import (
    comparison,
    comparison_report,
    comparison_results,
    tasks,
)
from facecycle_jax.evaluation.comparison import (
    AUTHORS,
    COMMON,
    Checkpoint,
    ComparisonOptions,
    curve_of,
    evaluate_method,
    method_features,
)
from facecycle_jax.evaluation.comparison_report import (
    ComparedRun,
    comparison_markdown,
    run_from_json,
    run_to_json,
    statistic,
    summarise,
    write_comparison,
)
from facecycle_jax.evaluation.probes import code_probes
from facecycle_jax.evaluation.probes.code_probes import ProbeSet
from facecycle_jax.evaluation.probes.linear import DivergedProbeError, LinearOptions
from facecycle_jax.evaluation.synthetic import random_peer
from facecycle_jax.inference import FaceCycle, PeerModel


def peer_config():
    config = fab_net.get_config("small")
    config.model.width = 0.0625
    config.model.image_size = 32
    config.model.code_dim = 8
    return config.to_dict()


def peer():
    return random_peer(peer_config())


def peer_of_unit_gain():
    """A model whose features are about as large as its images, as trained ones are."""
    config = peer_config()
    params, frozen = drawn_state(methods.make(config), deviation=unit_gain)
    return PeerModel({**frozen, **params}, config=config, info={})


def noise(count, *, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture
def small_sets(monkeypatch):
    """Noise in place of synthetic faces and of FER-2013."""
    rng = np.random.default_rng(0)
    faces = ProbeSet(
        frames=noise(48, size=32),
        identity=np.repeat(np.arange(8, dtype=np.int32), 6),
        motion={name: rng.normal(size=48) for name in MOTION},
    )
    monkeypatch.setattr(comparison, "_rendered", lambda *_: faces)

    def read(path, *, split):
        labels = np.arange(40, dtype=np.int32) % 2
        images = noise(40, size=32, seed=len(split))
        return LabelledImages(images, labels, ("a", "b"), split)

    monkeypatch.setattr(tasks, "read_fer2013", read)


def test_a_method_has_figures_of_both_features_by_every_probe(small_sets, monkeypatch):
    pytest.importorskip("sklearn")

    # The linear protocol compiles for long; here it does not suit one feature.
    def linear(options, kinds):
        if options.probe != "linear":
            return plain_evaluation(options, kinds)
        assert options.epochs == 3
        if AUTHORS in kinds:
            raise DivergedProbeError("the linear protocol diverged in epoch 0.")
        return plain_evaluation(options.__class__("fer2013", options.path), kinds)

    plain_evaluation = tasks.evaluate_features
    # Few numbers, so that few programs are compiled.
    monkeypatch.setattr(comparison, "COMPONENTS", 8)
    monkeypatch.setattr(comparison, "evaluate_features", linear)

    options = ComparisonOptions(fer2013="somewhere", epochs=3, people=8)
    result = evaluate_method(peer(), options)
    json.dumps(result)

    assert result["numbers"]["fer2013"] == {AUTHORS: 8, COMMON: 2 * 2 * 16}
    assert result["parameters"]["all"] > result["parameters"]["encoder"] > 0
    figures = result["tasks"]["fer2013"]
    columns = ["logistic %", "PCA 256: logistic %", "20 nearest %"]
    assert list(figures[AUTHORS]) == columns
    assert list(figures[COMMON]) == ["linear protocol %", *columns]
    assert any("authors' feature: the linear" in note for note in result["notes"])

    synthetic = result["tasks"]["synthetic"][COMMON]
    assert set(synthetic) == {
        "head pose °",
        "identity %",
        "expression R2",
        "PCA 256: head pose °",
        "PCA 256: identity %",
        "20 nearest: head pose °",
        "20 nearest: identity %",
    }
    assert np.isfinite(list(synthetic.values())).all()


def test_a_curve_fits_the_probe_of_head_pose_alone(small_sets, monkeypatch):
    pytest.importorskip("sklearn")
    model = peer()
    monkeypatch.setattr(comparison, "load", lambda _: model)
    monkeypatch.setattr(comparison, "COMPONENTS", 8)
    options = ComparisonOptions(people=8)
    expected = evaluate_method(model, options)["tasks"]["synthetic"][AUTHORS]

    fitted = []
    fit = code_probes.fit_ridge

    def counted(codes, values, **others):
        fitted.append(values.shape[1])
        return fit(codes, values, **others)

    monkeypatch.setattr(code_probes, "fit_ridge", counted)
    monkeypatch.setattr(code_probes, "fit_logistic", None)
    points = curve_of([Checkpoint("a", 10), Checkpoint("b", 20)], options)
    assert points == [(10, expected["head pose °"]), (20, expected["head pose °"])]
    assert fitted == [3, 3]


def test_evaluations_of_another_version_are_made_anew(tmp_path, monkeypatch):
    evaluated = []
    result = run_of("a", 0, 40.0).result

    def evaluate(model, options):
        evaluated.append(options)
        return result

    monkeypatch.setattr(comparison_results, "evaluate_method", evaluate)
    monkeypatch.setattr(comparison_results, "random_weights", lambda *_, **__: None)
    stage = types.SimpleNamespace(config={})
    entry = types.SimpleNamespace(name="a", stages=[stage])

    def start(options):
        found = comparison_results.evaluate_all(
            [entry],
            epath.Path(tmp_path),
            seeds=(),
            plan={},
            options=options,
            untrained=True,
        )
        assert [run.result for run in found] == [result]
        return len(evaluated)

    options = ComparisonOptions(people=8)
    assert start(options) == start(options) == 1
    assert start(ComparisonOptions(people=9)) == 2
    monkeypatch.setattr("facecycle_jax._version.__version__", "0.0.1")
    assert start(ComparisonOptions(people=9)) == 3


def test_the_linear_protocol_learns_from_both_features_of_a_method(
    small_sets, monkeypatch
):
    """Networks, augmentation and updates are the real ones, of a tiny model."""
    pytest.importorskip("sklearn")

    def halves(path, *, split):
        # Bright above or below, which mirroring and changes of colour leave.
        count = 64 if split == "Training" else 48
        labels = np.arange(count, dtype=np.int32) % 2
        images = noise(count, size=32, seed=len(split)) // 4
        images[labels == 0, :16] += 150
        images[labels == 1, 16:] += 150
        return LabelledImages(images, labels, ("above", "below"), split)

    monkeypatch.setattr(tasks, "read_fer2013", halves)
    few = functools.partial(LinearOptions, batch=16)
    monkeypatch.setattr(tasks, "LinearOptions", few)
    monkeypatch.setattr(comparison, "COMPONENTS", 8)
    options = ComparisonOptions(
        fer2013="somewhere", probes=("linear",), epochs=30, people=8
    )

    result = evaluate_method(peer_of_unit_gain(), options)
    figures = result["tasks"]["fer2013"]
    assert {name: list(cells) for name, cells in figures.items()} == {
        AUTHORS: ["linear protocol %"],
        COMMON: ["linear protocol %"],
    }
    assert min(cells["linear protocol %"] for cells in figures.values()) > 80, figures
    assert not any("diverged" in note for note in result["notes"])


def test_face_cycle_has_its_map_for_emotion_and_its_identity_code_for_people():
    model = FaceCycle(tiny_model.trees(), model=tiny_model.MODEL)
    images = noise(1, size=64)
    for task, numbers in (("raf-db", 7 * 7 * 8), ("lfw", 16)):
        kinds = method_features(model, task=task)
        assert list(kinds) == [AUTHORS, COMMON]
        assert kinds[AUTHORS].fit(np.zeros(0))(images).size == numbers
    assert kinds[COMMON].fit(np.zeros(0))(images).size == 2 * 2 * 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"probes": ("svm",)}, "probes are some of logistic, linear, neighbours"),
        ({"probes": ()}, "got none"),
        ({"people": 4}, "at least 8 people, got 4"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"limit": -1}, "limit must be 0"),
        ({"test_split": "both"}, "one test split"),
        ({"fer2013": "x", "limit": 200}, "linear needs a limit of at least 256"),
    ],
)
def test_options_out_of_range_are_refused_before_training(fields, words):
    with pytest.raises(ValueError, match=words):
        ComparisonOptions(**fields)


def run_of(name, seed, accuracy, *, seconds=10.0, notes=(), curve=((100, 9.0),)):
    figures = {"linear protocol %": accuracy, "logistic %": accuracy + 1}
    return ComparedRun(
        name=name,
        seed=seed,
        images=100,
        seconds=seconds,
        result={
            "parameters": {"all": 2000, "encoder": 1000},
            "numbers": {"fer2013": {AUTHORS: 64}},
            "tasks": {"fer2013": {AUTHORS: figures}},
            "notes": list(notes),
        },
        curve=curve,
    )


def test_figures_over_seeds_have_standard_errors():
    found = statistic([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.cell() == "2.00 ± 0.58"
    assert statistic([1.0]).cell() == "1.00"

    runs = [run_of("a", 0, 40.0), run_of("b", 0, 10.0), run_of("a", 1, 44.0)]
    cells = summarise(runs)["fer2013"]["a"][AUTHORS]
    assert cells["linear protocol %"].mean == 42
    assert cells["linear protocol %"].standard_error == pytest.approx(2)


def test_the_table_has_published_rows_marked_so_and_tells_missing_seeds():
    runs = [run_of("a", 0, 40.0, notes=["x: y"]), run_of("a", 1, 44.0, notes=["x: y"])]
    del runs[1].result["tasks"]["fer2013"][AUTHORS]["logistic %"]
    other = run_of("b, random weights", None, 10.0, notes=["alone"], curve=())
    text = comparison_markdown([*runs, other], budget="Every run saw 100.")

    lines = text.splitlines()
    cells = "| a | authors' | this comparison | 64 | 42.00 ± 2.00 |"
    assert f"{cells} 41.00 (1 of 2 seeds) |" in lines
    assert "| FAb-Net |  | published |  | 46.98 |  |" in lines
    assert "| a | 0 1 | 100 | 10 ± 0 | 2,000 | 1,000 |" in lines
    assert "- b, random weights: alone" in lines
    assert "- a of seed 0, a of seed 1: x: y" in lines


def test_curves_begin_with_random_weights_where_they_were_evaluated(
    tmp_path, monkeypatch
):
    drawn = {}
    monkeypatch.setattr(
        comparison_report, "curves", lambda path, series, **labels: drawn.update(series)
    )
    untrained = run_of("a, random weights", None, 10.0, curve=())
    untrained.result["tasks"]["synthetic"] = {AUTHORS: {"head pose °": 12.0}}
    untrained.result["numbers"]["synthetic"] = {AUTHORS: 64}
    runs = [run_of("a", seed, 40.0) for seed in (0, 1)]
    write_comparison(
        tmp_path, [*runs, untrained, run_of("b", 0, 40.0)], budget="", settings={}
    )
    assert drawn == {"a": ([0, 100], [12.0, 9.0]), "b": ([100], [9.0])}


def test_reports_are_written_whole_and_read_again(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [run_of("a", 0, 40.0, seconds=float("nan")), run_of("a", 1, 44.0)]
    write_comparison(tmp_path, runs, budget="Every run saw 100.", settings={"limit": 0})

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["comparison.json", "comparison.md", "curves.png"]
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["runs"][0]["seconds"] is None
    assert content["published"]["fer2013"]["FAb-Net"] == {"accuracy %": 46.98}
    summary = content["summary"]["fer2013"]["a"][AUTHORS]["logistic %"]
    assert summary == {"mean": 43.0, "standard_error": 2.0, "seeds": 2}
    with Image.open(tmp_path / "curves.png") as image:
        image.verify()

    kept = json.loads(json.dumps(run_to_json(runs[1])))
    assert json.loads(json.dumps(run_to_json(run_from_json(kept)))) == kept
