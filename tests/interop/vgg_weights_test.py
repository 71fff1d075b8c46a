"""VGG-19 weights of torchvision and Keras are read from files of the true shapes."""

import golden as reference
import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files

from facecycle_jax.cli import main
from facecycle_jax.errors import ConversionError
from facecycle_jax.interop import torch_file
from facecycle_jax.interop.vgg_weights import (
    vgg_from_keras,
    vgg_from_torchvision,
    write_vgg,
)
from facecycle_jax.networks import VGG19, read_vgg_npz
from facecycle_jax.networks.vgg import LAYERS
from facecycle_jax.ops import normalise


def write_keras(path, tree, *, nested):
    """Writes one of Keras's layouts: layer/layer/kernel:0 or layer/layer_W_1:0."""
    with h5py.File(path, "w") as file:
        for layer, parts in tree.items():
            name = f"block{layer[4]}_conv{layer[6]}"
            group = file.create_group(f"{name}/{name}" if nested else name)
            group["kernel:0" if nested else f"{name}_W_1:0"] = parts["kernel"]
            group["bias:0" if nested else f"{name}_b_1:0"] = parts["bias"]


def test_a_written_file_has_weights_alone(tmp_path, monkeypatch):
    """Up to NumPy 2.1 every keyword of `savez` is an array."""
    kept = []
    monkeypatch.setattr(np, "savez", lambda _, **arrays: kept.extend(arrays))
    write_vgg({"conv1_1": {"kernel": np.zeros(1), "bias": np.zeros(1)}}, tmp_path / "a")
    assert kept == ["conv1_1/kernel", "conv1_1/bias"]


def test_files_of_torchvision_keep_every_bit(tmp_path):
    torch = pytest.importorskip(
        "torch", reason="writes the file with PyTorch, which is not a dependency"
    )
    state = {}
    for layer, (index, _) in reference.VGG_LAYERS.items():
        part = reference.vgg()[layer]
        kernel = part["kernel"].transpose(3, 2, 0, 1).copy()
        state[f"features.{index}.weight"] = torch.tensor(kernel)
        state[f"features.{index}.bias"] = torch.tensor(part["bias"])

    for legacy in (False, True):
        torch.save(
            state, tmp_path / "vgg.pth", _use_new_zipfile_serialization=not legacy
        )
        out = tmp_path / f"vgg{legacy}.npz"
        assert main(["import-vgg", str(tmp_path / "vgg.pth"), "--out", str(out)]) == 0
        for layer, parts in read_vgg_npz(out).items():
            for kind, value in parts.items():
                np.testing.assert_array_equal(value, reference.vgg()[layer][kind])

    state["features.5.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "wrong.pth")
    message = r"features\.5\.weight.*\(2, 2\).*\(128, 64, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        vgg_from_torchvision(tmp_path / "wrong.pth")


@pytest.mark.parametrize("nested", [True, False])
def test_a_keras_file_computes_what_keras_does_inside_the_image(tmp_path, nested):
    tree = reference.vgg()
    write_keras(tmp_path / "vgg.h5", tree, nested=nested)
    ours = vgg_from_keras(tmp_path / "vgg.h5")

    def first_layer(params, x):
        return VGG19().apply({"params": params}, x, taps=("conv1_1",))["conv1_1"]

    # Keras's preprocessing: blue-green-red, less the mean of 0..255.
    images = reference.golden()["images_u8"][:1]
    mean = np.array([103.939, 116.779, 123.68], np.float32)
    keras_input = images[..., ::-1].astype(np.float32) - mean
    expected = first_layer(tree, jnp.asarray(keras_input))
    actual = first_layer(ours, normalise(jnp.asarray(images)))

    # The border is padded with another mean.
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(actual[inner], expected[inner], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(ours["conv2_1"]["kernel"], tree["conv2_1"]["kernel"])


def torchvision_file(changes, *, legacy=False):
    """Returns a file of torchvision's names, dense layers too, with some changes."""
    state = {}
    for layer, (index, _) in reference.VGG_LAYERS.items():
        part = reference.vgg()[layer]
        kernel = np.ascontiguousarray(part["kernel"].transpose(3, 2, 0, 1))
        state[f"features.{index}.weight"] = kernel
        state[f"features.{index}.bias"] = part["bias"]
    state["classifier.0.weight"] = np.zeros((4, 4), np.float32)
    return torch_files.checkpoint(state | changes, legacy=legacy)


def test_only_the_layers_of_torchvision_that_are_needed_are_read(tmp_path, monkeypatch):
    path = tmp_path / "vgg.pth"
    path.write_bytes(torchvision_file({}))
    sizes = []
    decode = torch_file.decode

    def counted(data, storage, **options):
        sizes.append(storage.size)
        return decode(data, storage, **options)

    monkeypatch.setattr(torch_file, "decode", counted)
    tree = vgg_from_torchvision(path)
    expected = reference.vgg()
    assert tree.keys() == expected.keys()
    for layer, parts in tree.items():
        assert parts.keys() == {"kernel", "bias"}
        for kind, value in parts.items():
            np.testing.assert_array_equal(value, expected[layer][kind])

    # The dense layer has 16 weights.
    assert len(sizes) == 2 * len(LAYERS)
    assert 16 not in sizes


def test_values_of_torchvision_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "vgg.pth"
    spoiled = {"features.5.bias": np.full(128, np.nan, np.float32)}
    path.write_bytes(torchvision_file(spoiled))
    message = r"features\.5\.bias holds values that are not finite"
    with pytest.raises(ConversionError, match=message):
        vgg_from_torchvision(path)


def keras_file(path, key, **options):
    """Writes a file of Keras with one array made with the given options of HDF5."""
    write_keras(path, reference.vgg(), nested=True)
    with h5py.File(path, "a") as file:
        del file[key]
        file.create_dataset(key, **options)
    return path


KERNEL = "block1_conv2/block1_conv2/kernel:0"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        # Never written, so the file is small whatever it claims.
        (
            {"shape": (3, 3, 1 << 15, 1 << 15), "dtype": "f4"},
            r"has shape \(3, 3, 32768, 32768\)",
        ),
        ({"shape": (3, 3, 64, 64), "dtype": "i8"}, "holds int64"),
        (
            {
                "shape": (3, 3, 64, 64),
                "dtype": "f4",
                "chunks": (3, 3, 2048, 2048),
                "maxshape": (3, 3, None, None),
            },
            "blocks larger than itself",
        ),
        (
            {
                "shape": (3, 3, 64, 64),
                "dtype": "f4",
                "external": [("/etc/passwd", 0, h5py.h5f.UNLIMITED)],
            },
            "lies in another file",
        ),
        ({"data": np.full((3, 3, 64, 64), np.inf, np.float32)}, "not finite"),
    ],
    ids=["shape", "type", "blocks", "external", "infinite"],
)
def test_arrays_of_keras_are_checked_before_they_are_read(tmp_path, options, words):
    path = keras_file(tmp_path / "vgg.h5", KERNEL, **options)
    with pytest.raises(ConversionError, match=words):
        vgg_from_keras(path)


def test_virtual_arrays_of_keras_are_refused(tmp_path):
    path = tmp_path / "vgg.h5"
    write_keras(path, reference.vgg(), nested=True)
    layout = h5py.VirtualLayout((3, 3, 64, 64), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "kernel", shape=(3, 3, 64, 64))

    with h5py.File(path, "a") as file:
        del file[KERNEL]
        file.create_virtual_dataset(KERNEL, layout)
    with pytest.raises(ConversionError, match="lies in another file"):
        vgg_from_keras(path)


def test_other_arrays_of_keras_are_ignored_and_duplicates_refused(tmp_path):
    path = tmp_path / "vgg.h5"
    write_keras(path, reference.vgg(), nested=True)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "block9_conv1/kernel:0", shape=(3, 3, 1 << 15, 1 << 15), dtype="f4"
        )
        file.create_dataset(
            "optimizer_weights/block1_conv2/kernel:0", data=np.ones((3, 3, 64, 64))
        )
    expected = reference.vgg()["conv1_2"]["kernel"]
    np.testing.assert_array_equal(vgg_from_keras(path)["conv1_2"]["kernel"], expected)

    with h5py.File(path, "a") as file:
        file.create_dataset("more/block1_conv2/kernel:0", data=np.ones((3, 3, 64, 64)))
    with pytest.raises(ConversionError, match="holds block1_conv2/kernel twice"):
        vgg_from_keras(path)


def test_wrong_files_are_refused_in_one_sentence(tmp_path, capsys):
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass

    for name in ("text.h5", "text.pth", "empty.h5", "missing.h5", "missing.pth"):
        out = tmp_path / "out.npz"
        assert main(["import-vgg", str(tmp_path / name), "--out", str(out)]) == 2
        message = capsys.readouterr().err
        assert name in message
        assert message.count("\n") == 1
        assert not out.exists()


def test_files_are_not_overwritten(tmp_path):
    path = tmp_path / "vgg.npz"
    write_vgg(reference.vgg(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["vgg.npz"]

    with pytest.raises(FileExistsError, match="exists already"):
        write_vgg(reference.vgg(), path)
    assert len(read_vgg_npz(path)) == len(LAYERS)
