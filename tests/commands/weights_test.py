"""`facecycle import-torch` gives a whole model folder, or one sentence and nothing."""

import functools
import random

import numpy as np
import pytest
import torch_files

from facecycle_jax import cli
from facecycle_jax.commands import weights as convert
from facecycle_jax.interop import read_original
from facecycle_jax.interop.original_names import to_torch
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.storage import read_model
from facecycle_jax.storage.model_spec import nest, weight_shapes

SMALL = {"width": 0.0625, "image_size": 64, "code_dim": 16, "dtype": "float32"}
SMALL |= {"trunk": "vgg", "vgg_width": 0.0625}


@functools.cache
def checkpoint(legacy):
    """Returns a file of stage 1, a sixteenth as wide as the original's."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes(SMALL, ("motion",)).items():
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    trees = nest(weights)

    state = {}
    for module, name, array in to_torch(trees):
        state.setdefault(module, {})[name] = array

    # The original's generator holds its trunk; kernels from HWIO to OIHW.
    for layer in TRUNK_LAYERS:
        part = trees["vgg"][layer]
        kernel = np.ascontiguousarray(part["kernel"].transpose(3, 2, 0, 1))
        state["Swap_Generator"][f"{layer}.0.weight"] = kernel
        state["Swap_Generator"][f"{layer}.0.bias"] = part["bias"]
    return torch_files.checkpoint(state, legacy=legacy)


def damaged(data, rng):
    """Cuts the data, or flips some bits, mostly where the pickles are."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]

    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        place = (
            rng.randrange(20_000) if rng.random() < 0.7 else -rng.randrange(1, 20_000)
        )
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_checkpoints_are_refused_in_one_line(
    tmp_path, capsys, monkeypatch, legacy
):
    monkeypatch.setattr(convert, "ORIGINAL_MODEL", SMALL)
    monkeypatch.setattr(
        convert, "read_original", functools.partial(read_original, model=SMALL)
    )
    rng = random.Random(1)
    file = tmp_path / "file.tar"
    whole = checkpoint(legacy)
    refused = 0

    for number in range(101):
        # The first is whole.
        file.write_bytes(damaged(whole, rng) if number else whole)
        out = tmp_path / f"model{number}"
        status = cli.main(["import-torch", str(file), "--out", str(out)])
        error = capsys.readouterr().err
        if status == 0:
            assert not error
            assert read_model(out).info["stages"] == ["motion"]
            continue

        refused += 1
        assert number
        assert status == 2
        assert error.startswith(f"facecycle: {file}: ")
        assert error.count("\n") == 1
        assert not out.exists()
    assert refused > 50

    # Nothing else is left behind.
    left = {path.name.rstrip("0123456789") for path in tmp_path.iterdir()}
    assert left <= {"file.tar", "model"}


def test_converted_vgg_names_the_option_of_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "vgg_from_torchvision", lambda file: {})
    monkeypatch.setattr(convert, "write_vgg", lambda weights, out: None)
    out = tmp_path / "vgg19.npz"
    assert cli.main(["import-vgg", "vgg19.pth", "--out", str(out)]) == 0
    assert f"train with --set loss.vgg={out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"model": 1, "model.width": 2}',
            "model is both a value and a block of fields",
        ),
        ('{"model.width": 2, "model": 1}', "is not a configuration of a run"),
        ("[1, 2]", "is broken"),
    ],
)
def test_a_broken_configuration_of_a_run_is_one_sentence(
    tmp_path, capsys, content, words
):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "config.json").write_text(content)
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
