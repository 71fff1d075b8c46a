"""VGG-19 weights of torchvision and Keras as our .npz, and its writer.

Our layout: {layer: {'kernel' [3, 3, in, out], 'bias' [out]}} for conv1_1 .. conv4_1, float32, taking
RGB pictures in ImageNet normalisation.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from facecycle_jax.convert.errors import ConversionError
from facecycle_jax.convert.torch_file import read_torch
from facecycle_jax.models.vgg import LAYERS
from facecycle_jax.ops.normalise import MEAN, STD

Vgg = dict[str, dict[str, np.ndarray]]
# Index of every convolution in torchvision's `features`.
_TORCH_INDEX = dict(zip([name for name, _, _ in LAYERS], (0, 2, 5, 7, 10, 12, 14, 16, 19), strict=True))
# What Keras's preprocessing subtracts from pictures in 0..255, blue first.
_KERAS_MEAN = np.array([103.939, 116.779, 123.68])


def vgg_from_torchvision(path: str | os.PathLike[str]) -> Vgg:
    """Reads torchvision's VGG-19 (vgg19-*.pth) without running anything in the file.

    Args:
      path: the .pth file; names `features.N.weight` or, of the features alone, `N.weight`.

    Returns:
      The weights in our layout.

    Raises:
      ConversionError: in one sentence that names the first missing or misshapen array.
      FileNotFoundError: if there is no such file.
    """
    state = read_torch(path)
    prefix = "features." if any(str(key).startswith("features.") for key in state) else ""
    tree: Vgg = {}
    incoming = 3
    for layer, channels, _ in LAYERS:
        stem = f"{prefix}{_TORCH_INDEX[layer]}"
        kernel = _expect(state, f"{stem}.weight", (channels, incoming, 3, 3), path)
        bias = _expect(state, f"{stem}.bias", (channels,), path)
        tree[layer] = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias}
        incoming = channels
    return tree


def vgg_from_keras(path: str | os.PathLike[str]) -> Vgg:
    """Reads Keras's VGG19 (.h5), folding its preprocessing into the first layer.

    Keras's network takes blue-green-red pictures in 0..255 less their mean. Inside a picture the folded
    layer computes the same; at the border it pads with our mean colour instead of Keras's, which differ by
    less than a grey level.

    Args:
      path: the .h5 file of `keras.applications.VGG19`, with or without its top.

    Returns:
      The weights in our layout.

    Raises:
      ConversionError: if h5py is not installed, the file is no HDF5 file, or an array is missing or
        misshapen.
      FileNotFoundError: if there is no such file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"No file {path}.")
    try:
        import h5py
    except ImportError:
        raise ConversionError("Reading .h5 needs h5py: pip install 'facecycle_jax[h5]'.") from None
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            parts = name.split("/")
            block = next((part for part in parts if part.startswith("block")), "")
            rank = len(node.shape)
            if block and rank in (1, 4):
                arrays[f"{block}/{'kernel' if rank == 4 else 'bias'}"] = np.asarray(node)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError) as error:
        raise ConversionError(f"{path} is not a readable HDF5 file ({error}).") from None
    tree: Vgg = {}
    incoming = 3
    for layer, channels, _ in LAYERS:
        stem = f"block{layer[4]}_conv{layer[6]}"
        tree[layer] = {
            "kernel": _expect(arrays, f"{stem}/kernel", (3, 3, incoming, channels), path),
            "bias": _expect(arrays, f"{stem}/bias", (channels,), path),
        }
        incoming = channels
    return {**tree, "conv1_1": _fold_keras_preprocessing(tree["conv1_1"])}


def _fold_keras_preprocessing(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes the first layer take our normalised RGB: y_bgr = 255 (std x + mean) - keras mean."""
    kernel = layer["kernel"][:, :, ::-1].astype(np.float64)
    scale = 255.0 * np.asarray(STD)
    offset = 255.0 * np.asarray(MEAN) - _KERAS_MEAN[::-1]
    bias = layer["bias"] + np.einsum("hwio,i->o", kernel, offset)
    return {
        "kernel": (kernel * scale[None, None, :, None]).astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def _expect(
    arrays: Mapping[Any, Any], key: str, shape: tuple[int, ...], path: str | os.PathLike[str]
) -> np.ndarray:
    """Fetches an array as float32, or says what is wrong with it."""
    value = arrays.get(key)
    if not isinstance(value, np.ndarray):
        raise ConversionError(f"{path} has no array {key!r}, so it is no VGG-19.")
    if value.shape != shape:
        raise ConversionError(f"{path}: {key} has shape {value.shape}, VGG-19 has {shape}.")
    return np.asarray(value, np.float32)


def write_vgg(tree: Vgg, path: str | os.PathLike[str]) -> None:
    """Writes weights as the .npz that `loss.vgg` takes; a file appears whole or not at all.

    Args:
      tree: weights in our layout.
      path: the file to write.

    Raises:
      FileExistsError: if the file is there already.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another name or remove it.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            named = {f"{layer}/{kind}": a for layer, parts in tree.items() for kind, a in parts.items()}
            np.savez(file, allow_pickle=False, **named)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
