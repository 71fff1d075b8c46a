"""Outputs of the authors' PyTorch program on weights of a known recipe."""

import functools
import json
import math
import pathlib
import zlib

import numpy as np

from facecycle_jax.interop.original_names import from_torch

DATA = pathlib.Path(__file__).parents[1] / "golden"
VGG_LAYERS = {
    "conv1_1": (0, 64),
    "conv1_2": (2, 64),
    "conv2_1": (5, 128),
    "conv2_2": (7, 128),
    "conv3_1": (10, 256),
    "conv3_2": (12, 256),
    "conv3_3": (14, 256),
    "conv3_4": (16, 256),
    "conv4_1": (19, 512),
}


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """All reference arrays by key."""
    with np.load(DATA / "golden.npz") as file:
        return {name: file[name] for name in file.files}


def draw(module: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws one array by the recipe: seeded by its name, scaled by its fan in."""
    rng = np.random.default_rng([zlib.crc32(f"{module}.{name}".encode()), 0])
    if len(shape) == 1:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)
    gain = 1.0
    if name == "toflow4.3.weight":
        gain = 0.5
    elif name.endswith("conv2.weight"):
        gain = 0.2
    elif name.endswith("torgb.weight"):
        gain = 0.25
    scale = gain * math.sqrt(2 / math.prod(shape[1:]))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


@functools.cache
def vgg() -> dict[str, dict[str, np.ndarray]]:
    """The VGG-19 of the reference as our tree."""
    tree, incoming = {}, 3
    for layer, (index, channels) in VGG_LAYERS.items():
        kernel = draw("vgg19.features", f"{index}.weight", (channels, incoming, 3, 3))
        bias = draw("vgg19.features", f"{index}.bias", (channels,))
        tree[layer] = {
            "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
            "bias": bias,
        }
        incoming = channels
    return tree


@functools.cache
def torch_state() -> dict[str, dict[str, np.ndarray]]:
    """The five modules' arrays under the original's names, frozen trunks included."""
    shapes = json.loads((DATA / "state_dict.json").read_text())
    state: dict[str, dict[str, np.ndarray]] = {}
    for module, names in shapes.items():
        state[module] = {}
        for name, shape in names.items():
            layer = name.split(".")[0]
            if module.startswith("Swap_") and layer in VGG_LAYERS:
                part = vgg()[layer]
                is_kernel = name.endswith("weight")
                array = (
                    part["kernel"].transpose(3, 2, 0, 1) if is_kernel else part["bias"]
                )
                assert array.shape == tuple(shape)
            else:
                array = draw(module, name, tuple(shape))
            state[module][name] = array
    return state


@functools.cache
def trees() -> dict:
    """Our parameter trees of the reference weights, the whole VGG-19 included."""
    return {**from_torch(torch_state()), "vgg": vgg()}


def input_images() -> np.ndarray:
    """The four reference images as two pairs, uint8 [2, 2, 64, 64, 3].

    (x0, x1) side by side.
    """
    images = golden()["images_u8"]
    return np.stack([images[:2], images[2:]], axis=1)


def paired(x: np.ndarray) -> np.ndarray:
    """Reorders [x0; x1] into our side-by-side order."""
    half = len(x) // 2
    return np.stack([x[:half], x[half:]], axis=1).reshape(x.shape)
