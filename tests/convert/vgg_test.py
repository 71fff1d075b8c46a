"""VGG-19 converters, on files of the true names and shapes."""

import golden as reference
import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax.cli import main
from facecycle_jax.convert.vgg import vgg_from_keras, vgg_from_torchvision, write_vgg
from facecycle_jax.models import VGG19, read_vgg_npz
from facecycle_jax.models.vgg import LAYERS
from facecycle_jax.ops import normalise


def write_keras(path, tree, *, nested):
    """The two layouts Keras has used: layer/layer/kernel:0 and layer/layer_W_1:0."""
    with h5py.File(path, "w") as file:
        for layer, parts in tree.items():
            name = f"block{layer[4]}_conv{layer[6]}"
            group = file.create_group(f"{name}/{name}" if nested else name)
            group["kernel:0" if nested else f"{name}_W_1:0"] = parts["kernel"]
            group["bias:0" if nested else f"{name}_b_1:0"] = parts["bias"]


def test_torchvision_file_round_trip(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file with PyTorch, which is no dependency")
    state = {}
    for layer, (index, _) in reference.VGG_LAYERS.items():
        part = reference.vgg()[layer]
        state[f"features.{index}.weight"] = torch.tensor(part["kernel"].transpose(3, 2, 0, 1).copy())
        state[f"features.{index}.bias"] = torch.tensor(part["bias"])
    for legacy in (False, True):
        torch.save(state, tmp_path / "vgg.pth", _use_new_zipfile_serialization=not legacy)
        out = tmp_path / f"vgg{legacy}.npz"
        assert main(["import-vgg", str(tmp_path / "vgg.pth"), "--out", str(out)]) == 0
        for layer, parts in read_vgg_npz(out).items():
            for kind, value in parts.items():
                np.testing.assert_array_equal(value, reference.vgg()[layer][kind])
    state["features.5.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"features\.5\.weight.*\(2, 2\).*\(128, 64, 3, 3\)"):
        vgg_from_torchvision(tmp_path / "wrong.pth")


@pytest.mark.parametrize("nested", [True, False])
def test_keras_file_computes_what_keras_does_inside_the_picture(tmp_path, nested):
    tree = reference.vgg()
    write_keras(tmp_path / "vgg.h5", tree, nested=nested)
    ours = vgg_from_keras(tmp_path / "vgg.h5")
    images = reference.golden()["images_u8"][:1]
    keras_input = images[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    expected = VGG19().apply({"params": tree}, jnp.asarray(keras_input), taps=("conv1_1",))["conv1_1"]
    actual = VGG19().apply({"params": ours}, normalise(jnp.asarray(images)), taps=("conv1_1",))["conv1_1"]
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(actual[inner], expected[inner], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(ours["conv2_1"]["kernel"], tree["conv2_1"]["kernel"])


def test_wrong_files_are_told_in_a_sentence(tmp_path, capsys):
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
