"""ONNX programs, run by onnxruntime, compute what JAX does."""

import importlib.util
import sys
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax import ops
from facecycle_jax.errors import MissingExtraError
from facecycle_jax.interop.onnx_program import run_onnx, to_onnx

REASON = "needs the extra `onnx`"
RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(3, 3, 3, 32)).astype(np.float32) / 5
UP = RNG.normal(size=(4, 4, 32, 2)).astype(np.float32) / 20


def program(images, flow):
    """Every operation of the networks that has forms of its own, once."""
    faces = ops.normalise(images)
    maps = ops.conv(faces, CONV, stride=2, padding=((1, 1), (1, 1)))
    moved = ops.warp(maps, flow)
    return {
        "moved": ops.max_pool(moved),
        "larger": jnp.tanh(ops.transposed_conv(moved, UP)),
        "backward": ops.backward_flow(flow),
    }


@pytest.fixture(scope="module")
def inputs():
    return {
        "images": RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8),
        "flow": RNG.uniform(-0.6, 0.6, (3, 2, 2, 2)).astype(np.float32),
    }


def export(**options):
    pytest.importorskip("jax2onnx", reason=REASON)
    pytest.importorskip("onnxruntime", reason=REASON)
    shapes = {
        "images": jax.ShapeDtypeStruct(("n", 8, 8, 3), np.uint8),
        "flow": jax.ShapeDtypeStruct(("n", 2, 2, 2), np.float32),
    }
    outputs = ("larger", "moved", "backward")
    return to_onnx(program, shapes, outputs=outputs, **options)


def test_grid_sampling_and_convolutions_agree_for_any_batch(inputs):
    data = export(metadata={"facecycle": "text"})
    expected = program(**inputs)

    for count in (3, 1):
        some = {name: array[:count] for name, array in inputs.items()}
        found = run_onnx(data, some)
        assert list(found) == ["larger", "moved", "backward"]
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name][:count], atol=1e-4)
    assert b"facecycle" in data


def test_weights_in_float16_take_half_the_space_and_change_little(inputs):
    whole = export()
    half = export(weights="float16")
    saved = 2 * (CONV.size + UP.size)
    assert len(whole) - len(half) > 0.7 * saved

    expected = run_onnx(whole, inputs)
    found = run_onnx(half, inputs)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=0.02)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "jax2onnx" else found(name),
    )
    message = r"ONNX programs need jax2onnx: pip install 'facecycle_jax\[onnx\]'"
    with pytest.raises(MissingExtraError, match=message):
        to_onnx(program, {}, outputs=())


def test_running_a_program_needs_the_runtime_alone(monkeypatch):
    installed = {"onnxruntime": True, "jax2onnx": False, "onnx": False}
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: object() if installed[name] else None,
    )
    runtime = types.ModuleType("onnxruntime")
    runtime.SessionOptions = types.SimpleNamespace
    session = mock.Mock()
    session.get_outputs.return_value = [types.SimpleNamespace(name="twice")]
    session.run.side_effect = lambda names, inputs: [2 * inputs["x"]]
    runtime.InferenceSession = mock.Mock(return_value=session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert run_onnx(b"", {"x": np.float32(3)}) == {"twice": 6}

    installed["onnxruntime"] = False
    with pytest.raises(MissingExtraError, match="ONNX programs need onnxruntime:"):
        run_onnx(b"", {})
