"""`facecycle export` of programs and Spaces."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import fake_bucket
import jax
import numpy as np
import pytest
import tiny_model
import yaml
from etils import epath
from etils.epath import gpath

from facecycle_jax import FaceCycle, cli
from facecycle_jax.commands import exported, space
from facecycle_jax.storage import read_model

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "model")


def run(*arguments):
    return cli.main(["export", *map(str, arguments)])


def test_a_stablehlo_program_computes_what_the_model_does_for_any_batch(
    folder, tmp_path, capsys
):
    out = tmp_path / "program"
    names = "motion_code,neutral"
    given = (folder, "--format", "stablehlo", "--outputs", names, "--out", out)
    assert run(*given) == 0, capsys.readouterr().err

    # Without a function of this package.
    program = jax.export.deserialize(
        bytearray((out / "program.jax_export").read_bytes())
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
    images = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    found = program.call(images)
    assert list(found) == ["motion_code", "neutral"]

    devices = jax.devices()[:1]
    model = FaceCycle(tiny_model.trees(), model=tiny_model.MODEL, devices=devices)
    expected = model.outputs(images, ("motion_code", "neutral"))
    np.testing.assert_allclose(found["motion_code"], expected["motion_code"], atol=1e-4)
    difference = np.abs(np.int32(found["neutral"]) - expected["neutral"])
    assert difference.max() <= 1

    interface = json.loads((out / "interface.json").read_text())
    described = {"shape": ["n", 64, 64, 3], "dtype": "uint8"}
    assert interface["inputs"] == {"images": described}
    assert interface["outputs"]["motion_code"]["shape"] == ["n", 16]
    assert interface["outputs"]["neutral"]["dtype"] == "uint8"
    assert interface["licence"] == "CC0"


@pytest.mark.slow
def test_an_onnx_program_computes_what_the_model_does_for_any_batch(
    folder, tmp_path, capsys
):
    pytest.importorskip("jax2onnx", reason="needs the extra `onnx`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    out = tmp_path / "program"
    names = ("motion_code", "identity_code", "flow", "neutral", "mean_face")
    wanted = ",".join((*names, "reexpressed"))
    given = (folder, "--format", "onnx", "--outputs", wanted, "--out", out)
    assert run(*given) == 0, capsys.readouterr().err

    session = onnxruntime.InferenceSession(out / "program.onnx")
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    driver = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    values = session.run(None, {"images": images, "driver": driver})
    found = dict(zip(wanted.split(","), values, strict=True))

    devices = jax.devices()[:1]
    model = FaceCycle(tiny_model.trees(), model=tiny_model.MODEL, devices=devices)
    expected = model.outputs(images, names)
    expected["reexpressed"] = model.reexpress(images, driver)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        tolerance = 1 if array.dtype == np.uint8 else 1e-4
        difference = np.abs(array.astype(np.float64) - expected[name])
        assert difference.max() <= tolerance, name

    interface = json.loads((out / "interface.json").read_text())
    assert list(interface["inputs"]) == ["images", "driver"]
    assert interface["framing"]["left_eye"] == [0.36, 0.41]
    assert interface["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    stored = session.get_modelmeta().custom_metadata_map["facecycle"]
    assert json.loads(stored)["framing"] == interface["framing"]


def test_a_program_that_computes_something_else_is_a_defect_and_not_written(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        exported,
        "run_stablehlo",
        lambda data, x: {"motion_code": np.ones((len(x), 16))},
    )
    monkeypatch.setattr(exported, "to_stablehlo", lambda program, **options: b"")
    given = (folder, "--format", "stablehlo", "--outputs", "motion_code")
    assert run(*given, "--out", tmp_path / "program") == 70
    assert "computes another motion_code" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "p", "--outputs", "flow"), "--outputs is for programs"),
        (("--format", "stablehlo"), "export needs --out DIR, --space DIR or both"),
        (("--format", "stablehlo", "--space", "s"), "needs --out DIR and no --space"),
        (("--format", "stablehlo", "--out", "p", "--outputs", "x"), "outputs must be"),
        (("--out", "p", "--with-runtime", "r"), "--with-runtime is for --format web"),
        (
            ("--format", "web", "--out", "p", "--outputs", "flow"),
            "--outputs is for prog",
        ),
        (("--out", "p", "--package", "x"), "--package is for a Space: give --space"),
        (("--space", "s", "--dataset", "lfw"), "--dataset is for model folders: make"),
        (("--out", "p"), "is a model already, and a model folder is made of a run"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    folder, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_space_holds_page_model_and_requirements(folder, tmp_path, capsys):
    out = tmp_path / "space"
    source = "facecycle_jax[demo] @ git+https://example.org/facecycle_jax"
    assert run(folder, "--space", out, "--package", source) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "app.py",
        "model",
        "requirements.txt",
    ]
    assert read_model(out / "model").info == read_model(folder).info
    assert (out / "requirements.txt").read_text() == f"{source}\n"
    compile((out / "app.py").read_text(), "app.py", "exec")

    _, head, _ = (out / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["sdk"] == "gradio"
    assert found["app_file"] == "app.py"
    assert found["license"] == "other"
    assert found["python_version"] == "3.12"

    # The smallest version that the package works with.
    setup = (ROOT / "setup.cfg").read_text()
    smallest = re.search(r"gradio>=([\d.]+)", setup)[1]
    assert [int(n) for n in space.GRADIO.split(".")][:2] == [
        int(n) for n in smallest.split(".")
    ]
    assert found["sdk_version"] == space.GRADIO

    assert run(folder, "--space", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_space_in_a_bucket_holds_the_model_and_gets_its_readme_last(
    folder, tmp_path, monkeypatch
):
    order = []
    written = epath.Path.write_bytes

    def noted(path, content):
        if str(path).startswith("gs://"):
            order.append(str(path).removeprefix("gs://spaces/face/"))
        return written(path, content)

    monkeypatch.setattr(gpath._GPath, "write_bytes", noted)
    with fake_bucket.bucket(tmp_path):
        assert run(folder, "--space", "gs://spaces/face") == 0
    assert order[-1] == "README.md"
    assert sorted(order[:-1]) == [
        "app.py",
        "model/README.md",
        "model/config.json",
        "model/weights.safetensors",
        "requirements.txt",
    ]

    found = read_model(tmp_path / "spaces/face/model")
    assert found.info == read_model(folder).info


def _get(address, *, host, origin=None):
    """Returns status and headers of a request as the Hub forwards it."""
    headers = {"Host": host}
    data = None
    if origin:
        headers["Origin"] = origin
        data = b"{}"
    request = urllib.request.Request(address, headers=headers, data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


@pytest.mark.slow
def test_a_space_serves_its_page_under_the_name_that_the_hub_gives(folder, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    out = tmp_path / "space"
    assert run(folder, "--space", out) == 0

    host = "user-name.hf.space"
    server = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPACE_HOST": host},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 150
        text = ""
        while "The demo is at" not in text and time.monotonic() < deadline:
            text += server.stdout.readline()
        assert f"The demo is at https://{host}" in text, text

        page = "http://127.0.0.1:7860"
        status, headers = _get(page, host=host)
        assert status == 200
        policy = headers["content-security-policy"]
        assert "frame-ancestors https://huggingface.co" in policy

        # Requests that write must come from the Space's own page.
        own = _get(f"{page}/gradio_api/cancel", host=host, origin=f"https://{host}")
        other = _get(f"{page}/gradio_api/cancel", host=host, origin="https://a.example")
        assert own[0] != 403
        assert other[0] == 403
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0
