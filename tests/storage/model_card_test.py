"""The card of a model folder, and the head that the Hub reads."""

import json

import numpy as np
import pytest
import tiny_model
import yaml

from facecycle_jax import cli
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.classification import classification
from facecycle_jax.evaluation.probes.verification import Verification
from facecycle_jax.evaluation.report import Evaluation, write_report
from facecycle_jax.storage import read_model, write_model
from facecycle_jax.storage.card_results import read_report

SOURCE = "training run mine of facecycle_jax, identity_cycle, step 9"


def head(folder):
    """Returns the YAML head of a folder's card."""
    _, text, body = (folder / "README.md").read_text().split("---\n", 2)
    assert body.startswith("\n# A FaceCycle model")
    return yaml.safe_load(text)


def write(folder, **options):
    given = {"licence": "CC0", "source": SOURCE, **options}
    write_model(folder, tiny_model.trees(), model=tiny_model.MODEL, **given)


def report(
    folder, *, task="lfw", source=SOURCE, rows=None, protocol="View 1.", **fields
):
    """Writes a report as `facecycle evaluate` does; the first row is the model's."""
    figures = Verification(
        accuracy=0.705,
        standard_error=0.015,
        fold_accuracies=(0.705,),
        thresholds=(0.3,),
        auc=0.787,
        eer=0.29,
        tar_at_far={0.01: 0.19},
        false_accept=np.array([0.0, 1.0]),
        true_accept=np.array([0.0, 1.0]),
        same=500,
        different=500,
    )
    model = {"config": tiny_model.MODEL, "info": {"source": source}}
    rows = rows or {
        "identity_code": figures,
        "lbp": figures,
        "lbp (PrivateTest)": figures,
    }
    evaluation = Evaluation(
        task=task,
        protocol=protocol,
        rows=rows,
        details={},
        classes=("a", "b"),
        counts={"test pairs": 1000},
        warnings=(),
        settings={"model": model, "limit": 0, "people_left_out": 0, **fields},
        model_rows=tuple(rows)[:1],
    )
    write_report(evaluation, folder)
    return folder


def test_the_head_names_library_task_licence_and_sets(tmp_path):
    write(tmp_path / "model", datasets=["user/faces", "lfw"])
    found = head(tmp_path / "model")
    assert found["library_name"] == "facecycle_jax"
    assert found["pipeline_tag"] == "image-feature-extraction"
    assert found["datasets"] == ["user/faces", "lfw"]
    assert "arxiv:2108.03427" in found["tags"]
    assert "model-index" not in found
    assert read_model(tmp_path / "model").info["datasets"] == ["user/faces", "lfw"]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("not stated", {"license": "unknown"}),
        ("Nur für: Forschung", {"license_name": "nur-f-r-forschung"}),
        ("yes", {"license": "other", "license_name": "yes"}),
    ],
)
def test_licences_have_the_names_that_the_hub_knows(tmp_path, licence, expected):
    write(tmp_path / "model", licence=licence)
    found = head(tmp_path / "model")
    assert expected.items() <= found.items()


def test_results_of_reports_are_in_the_card_without_baselines(tmp_path):
    results = read_report(report(tmp_path / "report"), source=SOURCE)
    write(tmp_path / "model", results=results)

    [entry] = head(tmp_path / "model")["model-index"]
    assert entry["name"] == "model"
    found = {r["metrics"][0]["type"]: r for r in entry["results"]}
    assert list(found) == ["accuracy", "roc_auc", "eer"]
    assert found["accuracy"]["metrics"][0]["value"] == 0.705
    assert found["accuracy"]["dataset"] == {"type": "lfw", "name": "LFW"}

    text = (tmp_path / "model" / "README.md").read_text()
    assert "| LFW | identity_code | accuracy | 0.705 |" in text
    assert "LFW: View 1." in text
    assert "lbp" not in text


def test_two_protocols_of_one_set_are_told_apart(tmp_path):
    view_1 = report(tmp_path / "view_1")
    view_2 = report(tmp_path / "view_2", protocol="View 2.", people_left_out=7)
    results = [
        *read_report(view_1, source=SOURCE),
        *read_report(view_2, source=SOURCE),
    ]
    write(tmp_path / "model", results=results)

    text = (tmp_path / "model" / "README.md").read_text()
    for number in (1, 2):
        assert f"| LFW ({number}) | identity_code | accuracy | 0.705 |" in text
    assert "LFW (1): View 1.\n" in text
    assert "LFW (2): View 2. Without pairs that show one of 7 people trained" in text
    [entry] = head(tmp_path / "model")["model-index"]
    sets = [result["dataset"]["name"] for result in entry["results"]]
    assert sets == ["LFW (1)"] * 3 + ["LFW (2)"] * 3

    with pytest.raises(UserError, match="two figures accuracy of identity_code on LFW"):
        write(tmp_path / "other", results=results[:3] * 2)


def test_the_card_states_a_limit(tmp_path):
    results = read_report(report(tmp_path / "report", limit=600), source=SOURCE)
    write(tmp_path / "model", results=results)
    text = (tmp_path / "model" / "README.md").read_text()
    assert "LFW: View 1. Limited to 600 images or pairs of each split." in text


def _without_rows_of_the_model(content):
    content["model_rows"] = []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.pop("model_rows"), "does not name the rows of the m"),
        (_without_rows_of_the_model, "has no figures of the model"),
        (lambda content: content["rows"].update(identity_code=3), "evaluate again"),
        (lambda content: content.update(rows={"a": 3}), "evaluate again"),
        (lambda content: content.update(task=["x"]), "reports the task a list"),
        (lambda content: content.update(protocol=3), "evaluate again"),
        (
            lambda content: content["rows"]["identity_code"].update(auc=10**400),
            "results.json is damaged: a result's value is 1000",
        ),
    ],
)
def test_damaged_and_earlier_reports_are_one_sentence(tmp_path, spoil, message):
    folder = report(tmp_path / "report")
    path = folder / "results.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as raised:
        read_report(folder, source=SOURCE)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def _result(value):
    texts = dict.fromkeys(("task", "dataset", "features", "metric", "protocol"), "a")
    return [texts | {"value": value}]


def test_the_hubs_own_reader_understands_the_results(tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")
    rows = {
        "feature_map": classification(np.array([0, 1]), np.array([0, 0]), classes=2)
    }
    written = report(tmp_path / "report", task="fer2013", rows=rows)
    write(tmp_path / "model", results=read_report(written, source=SOURCE))

    card = hub.ModelCard.load(tmp_path / "model" / "README.md")
    first, second = card.data.eval_results
    assert (first.dataset_name, first.metric_value) == ("FER-2013", 0.5)
    assert first.metric_name == "accuracy of feature_map"
    assert second.metric_type == "f1"


def test_a_report_of_another_model_is_refused(tmp_path):
    other = report(tmp_path / "report", source="training run other")
    with pytest.raises(UserError, match="evaluates 'training run other', and the mod"):
        read_report(other, source=SOURCE)

    gallery = report(tmp_path / "gallery", task="gallery")
    with pytest.raises(UserError, match="reports the task 'gallery'; cards show"):
        read_report(gallery, source=SOURCE)
    with pytest.raises(FileNotFoundError, match=r"it has no results\.json"):
        read_report(tmp_path, source=SOURCE)

    (other / "results.json").write_text("{}")
    with pytest.raises(UserError, match="is not a report of this version"):
        read_report(other, source=SOURCE)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("datasets", ["a b"], "datasets holds 'a b', not a name"),
        ("datasets", "lfw", "datasets is not a list"),
        ("results", [{"task": "lfw"}], "a result's fields are not"),
        ("results", {}, "results is not a list"),
        ("results", _result(10**400), "a result's value is 1000"),
        ("results", _result(float("nan")), "a result's value is nan"),
        (
            "weights",
            {"file": "weights.safetensors", "dtype": ["float32"]},
            r"weights\.d",
        ),
    ],
)
def test_wrong_fields_of_a_folder_are_one_sentence(tmp_path, field, value, message):
    write(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=f"does not describe a model: {message}"):
        read_model(tmp_path / "model")


def test_export_needs_a_folder_to_make(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path)]) == 2
    assert "export needs --out DIR, --space DIR or both" in capsys.readouterr().err
