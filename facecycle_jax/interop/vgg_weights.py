"""Readers of VGG-19 weights of torchvision and Keras, and the writer of our .npz.

Our layout is {layer: {'kernel' [3, 3, in, out], 'bias' [out]}} for conv1_1 .. conv4_1,
float32, for RGB images in ImageNet normalisation.
"""

import io
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from facecycle_jax.errors import ConversionError, importing, shorten
from facecycle_jax.files import check_new, write_whole
from facecycle_jax.interop.torch_file import read_torch
from facecycle_jax.networks.vgg import LAYERS
from facecycle_jax.ops.normalisation import MEAN, STD

Vgg = dict[str, dict[str, np.ndarray]]
# Index of every convolution in torchvision's `features`.
_TORCH_INDEX = dict(
    zip([name for name, _, _ in LAYERS], (0, 2, 5, 7, 10, 12, 14, 16, 19), strict=True)
)
# What Keras's preprocessing subtracts from images in 0..255, blue first.
_KERAS_MEAN = np.array([103.939, 116.779, 123.68])


def vgg_from_torchvision(path: str | os.PathLike[str]) -> Vgg:
    """Reads torchvision's VGG-19 (vgg19-*.pth) without executing anything in the file.

    Args:
      path: the .pth file, with names `features.N.weight` or, for the features alone,
        `N.weight`.

    Returns:
      The weights in our layout.

    Raises:
      ConversionError: If the file cannot be read, or an array is missing, of a wrong
        shape or not finite; the sentence names the first such array.
    """
    # Only these are read, because the dense layers are nine tenths of the file.
    wanted = set()
    for index in _TORCH_INDEX.values():
        wanted |= {f"{index}.weight", f"{index}.bias"}
    state = read_torch(
        path, wanted=lambda name: name.removeprefix("features.") in wanted
    )
    is_whole = any(str(key).startswith("features.") for key in state)
    prefix = "features." if is_whole else ""

    # From [out, in, 3, 3] to [3, 3, in, out].
    tree: Vgg = {}
    incoming = 3
    for layer, channels, _ in LAYERS:
        stem = f"{prefix}{_TORCH_INDEX[layer]}"
        kernel = _expect(state, f"{stem}.weight", (channels, incoming, 3, 3), path)
        bias = _expect(state, f"{stem}.bias", (channels,), path)
        tree[layer] = {
            "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
            "bias": bias,
        }
        incoming = channels
    return tree


def vgg_from_keras(path: str | os.PathLike[str]) -> Vgg:
    """Reads Keras's VGG19 (.h5), folding its preprocessing into the first layer.

    Keras's network expects blue-green-red images in 0..255 minus their mean. Inside an
    image the folded layer computes the same. At the border it pads with our mean colour
    instead of Keras's, and the two differ by less than a grey level.

    Args:
      path: the .h5 file of `keras.applications.VGG19`, with or without its top.

    Returns:
      The weights in our layout.

    Raises:
      MissingExtraError: If h5py is not installed.
      ConversionError: If the file is not an HDF5 file, or an array is missing, of a
        wrong shape, not finite or stored elsewhere.
      FileNotFoundError: If there is no such file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"No file {path}.")

    with importing("Reading .h5 needs h5py", extra="h5"):
        import h5py

    shapes = _keras_shapes()
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, node: Any) -> None:
        key = _keras_key(name)
        if key not in shapes or not isinstance(node, h5py.Dataset):
            return
        if key in arrays:
            raise ConversionError(
                f"{path} holds {key} twice, the second time as {shorten(name)}."
            )

        # These checks precede reading, because a small file may claim arrays of any
        # size.
        if node.shape != shapes[key]:
            raise ConversionError(
                f"{path}: {key} has shape {node.shape}, VGG-19 has {shapes[key]}."
            )
        if node.dtype.kind != "f" or node.dtype.itemsize > 8:
            raise ConversionError(
                f"{path}: {key} holds {node.dtype}, not floating-point numbers."
            )
        if node.external or node.is_virtual:
            raise ConversionError(
                f"{path}: {key} lies in another file, which is not read."
            )
        if node.chunks and math.prod(node.chunks) > math.prod(node.shape):
            raise ConversionError(
                f"{path}: {key} is stored in blocks larger than itself."
            )

        arrays[key] = np.asarray(node)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError) as error:
        raise ConversionError(
            f"{path} is not a readable HDF5 file ({error})."
        ) from None

    tree: Vgg = {}
    for layer, _, _ in LAYERS:
        stem = _keras_stem(layer)
        parts = {}
        for kind in ("kernel", "bias"):
            key = f"{stem}/{kind}"
            parts[kind] = _expect(arrays, key, shapes[key], path)
        tree[layer] = parts
    return {**tree, "conv1_1": _fold_keras_preprocessing(tree["conv1_1"])}


def _keras_stem(layer: str) -> str:
    """Turns 'conv1_2' into Keras's 'block1_conv2'."""
    return f"block{layer[4]}_conv{layer[6]}"


def _keras_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of Keras's arrays by names such as 'block1_conv2/kernel'."""
    shapes: dict[str, tuple[int, ...]] = {}
    incoming = 3
    for layer, channels, _ in LAYERS:
        stem = _keras_stem(layer)
        shapes[f"{stem}/kernel"] = (3, 3, incoming, channels)
        shapes[f"{stem}/bias"] = (channels,)
        incoming = channels
    return shapes


def _keras_key(name: str) -> str:
    """Returns the array that a path in the file means, or '' for none."""
    *groups, last = name.split("/")

    # The state of an optimiser repeats the names of the weights.
    if any(group.startswith("optimizer") for group in groups):
        return ""

    # Groups may be nested; the innermost block names the layer.
    blocks = [group for group in groups if group.startswith("block")]
    stem = blocks[-1] if blocks else ""

    # Keras has used three kinds of names.
    for kind, names in (
        ("kernel", ("kernel:0", "kernel", f"{stem}_W_1:0")),
        ("bias", ("bias:0", "bias", f"{stem}_b_1:0")),
    ):
        if last in names:
            return f"{stem}/{kind}"
    return ""


def _fold_keras_preprocessing(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes the first layer accept our normalised RGB.

    Keras's input is 255 (std x + mean) - keras_mean, with x our normalised image, so
    the scale goes into the kernel and the offset into the bias.
    """
    # Input channels from blue-green-red to red-green-blue.
    kernel = layer["kernel"][:, :, ::-1].astype(np.float64)
    scale = 255.0 * np.asarray(STD)
    offset = 255.0 * np.asarray(MEAN) - _KERAS_MEAN[::-1]

    bias = layer["bias"] + np.einsum("hwio,i->o", kernel, offset)
    return {
        "kernel": (kernel * scale[None, None, :, None]).astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def _expect(
    arrays: Mapping[Any, Any],
    key: str,
    shape: tuple[int, ...],
    path: str | os.PathLike[str],
) -> np.ndarray:
    """Returns an array as float32, or raises ConversionError naming it."""
    value = arrays.get(key)
    if not isinstance(value, np.ndarray):
        raise ConversionError(f"{path} has no array {key!r}, so it is not a VGG-19.")

    if value.shape != shape:
        raise ConversionError(
            f"{path}: {key} has shape {value.shape}, VGG-19 has {shape}."
        )
    if value.dtype.kind in "iub":
        raise ConversionError(
            f"{path}: {key} holds {value.dtype}, not floating-point numbers."
        )

    with np.errstate(over="ignore", invalid="ignore"):
        value = np.asarray(value, np.float32)
    if not np.isfinite(value).all():
        raise ConversionError(f"{path}: {key} holds values that are not finite.")
    return value


def write_vgg(tree: Vgg, path: epath.PathLike) -> None:
    """Writes weights as the .npz that `loss.vgg` names.

    The file appears whole or not at all.

    Args:
      tree: weights in our layout.
      path: the file to write, local or in the cloud.

    Raises:
      FileExistsError: If the file exists.
    """
    check_new(path)

    named: dict[str, Any] = {}
    for layer, parts in tree.items():
        for kind, array in parts.items():
            named[f"{layer}/{kind}"] = array

    buffer = io.BytesIO()
    np.savez(buffer, **named)
    write_whole(path, buffer.getvalue())
