"""Translation of names and array layouts between the original program and ours.

PyTorch stores convolutions as O x I x kh x kw, transposed convolutions as
I x O x kh x kw and dense layers as O x I. Flax stores kh x kw x I x O and I x O. Two
differences go beyond transposition. Transposed convolutions flip their kernel in space.
The first dense layer reads its 4x4 map channel by channel in PyTorch, and pixel by
pixel here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.networks.vgg import TRUNK_LAYERS

# Modules of the checkpoint -> our networks, in the order of the file.
MODULES = {
    "codegeneration": "motion_encoder",
    "exptoflow": "flow_decoder",
    "Swap_Generator": "generator",
    "idcodegen": "identity_encoder",
    "Swap_Norm": "normaliser",
}

# For each module: layers of PyTorch -> paths in our trees.
_ENCODER = {
    "conv1.0": "features/conv1_1",
    "conv1.2": "features/conv1_2",
    "layer1.0": "features/conv2_1",
    **{f"layer1.2.{n}": f"features/attention2/{n}" for n in ("g", "theta", "phi")},
    "layer1.3": "features/conv2_2",
    "layer2_1.0": "features/conv3_1",
    **{f"layer2_1.2.{n}": f"features/attention3/{n}" for n in ("g", "theta", "phi")},
    "layer2_1.3": "features/conv3_2",
    **{
        f"resblock{b}.conv{c}": f"features/residual{b}/conv{c}"
        for b in (1, 2)
        for c in (1, 2)
    },
    "layer2_2.0": "features/conv4_1",
    "layer2_2.2": "features/conv4_2",
    "layer3_1.0": "features/conv5_1",
    "layer3_1.2": "features/conv5_2",
    "layer3_2.0": "features/conv6_1",
    "layer3_2.2": "features/conv6_2",
    "expresscode.0": "hidden",
    "expresscode.2": "code",
}
_FLOW_DECODER = {
    "motiongen1.0": "seed",
    **{f"motiongen1.3.{n}": f"attention1/{n}" for n in ("g", "theta", "phi")},
    "motiongen1.4": "conv1",
    "motiongen2.1": "conv2_1",
    **{f"motiongen2.3.{n}": f"attention2/{n}" for n in ("g", "theta", "phi")},
    "motiongen2.4": "conv2_2",
    **{f"resblock{b}.conv{c}": f"residual{b}/conv{c}" for b in (1, 2) for c in (1, 2)},
    "toflow4.1": "conv3",
    "toflow4.3": "flow",
}
_GENERATOR = {
    "redconv.0": "reduce",
    **{
        f"cnn.{b}.conv{c}": f"residual{b + 1}/conv{c}" for b in range(8) for c in (1, 2)
    },
    "up.0": "up1",
    "up.2": "conv1",
    "up2.0": "up2",
    "up2.2": "conv2",
    "torgb": "to_rgb",
    "noise_encoding1.0": "noise_fine/conv1",
    "noise_encoding1.2": "noise_fine/conv2",
    "noise_encoding0.0": "noise_coarse/conv1",
    "noise_encoding0.2": "noise_coarse/conv2",
}
_NORMALISER = {
    **{f"denorm.{n}": f"remove_identity/{n}" for n in ("beta", "gamma")},
    **{f"renorm.{n}": f"restore_identity/{n}" for n in ("beta", "gamma")},
    **{
        f"cnn.{b}.conv{c}": f"decoder/residual{b + 1}/conv{c}"
        for b in range(6)
        for c in (1, 2)
    },
    **{f"cnn3.0.conv{c}": f"decoder/residual7/conv{c}" for c in (1, 2)},
    "up.0": "decoder/up1",
    "up.2": "decoder/conv1",
    "up.4": "decoder/up2",
    "torgb": "decoder/to_rgb",
}
LAYERS: dict[str, dict[str, str]] = {
    "codegeneration": _ENCODER,
    "exptoflow": _FLOW_DECODER,
    "Swap_Generator": _GENERATOR,
    "idcodegen": _ENCODER,
    "Swap_Norm": _NORMALISER,
}
# Names of our transposed convolutions.
_TRANSPOSED = ("up1", "up2")


def split_name(name: str) -> tuple[str, str]:
    """Splits 'layer.weight' into 'layer' and 'kernel', 'layer.bias' likewise."""
    layer, _, kind = name.rpartition(".")
    return layer, {"weight": "kernel", "bias": "bias"}[kind]


def _to_ours(array: np.ndarray, path: str) -> np.ndarray:
    """Converts one kernel's layout; biases pass through."""
    last = path.split("/")[-1]
    if array.ndim == 4 and last in _TRANSPOSED:
        # [I, O, kh, kw] to [kh, kw, I, O], turned by 180 degrees.
        return array.transpose(2, 3, 0, 1)[::-1, ::-1]
    if array.ndim == 4:
        # [O, I, kh, kw] to [kh, kw, I, O].
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and last == "hidden":
        # Inputs are the 16 pixels of a map: from [O, C, 4, 4] to [O, 4, 4, C].
        outputs = array.shape[0]
        channels = array.shape[1] // 16
        maps = array.reshape(outputs, channels, 4, 4).transpose(0, 2, 3, 1)
        return maps.reshape(outputs, -1).T
    return array.T if array.ndim == 2 else array


def _to_torch(array: np.ndarray, path: str) -> np.ndarray:
    """Converts one of our kernels back, the inverse of `_to_ours`."""
    last = path.split("/")[-1]
    if array.ndim == 4 and last in _TRANSPOSED:
        return array[::-1, ::-1].transpose(2, 3, 0, 1)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and last == "hidden":
        outputs = array.shape[1]
        channels = array.shape[0] // 16
        maps = array.T.reshape(outputs, 4, 4, channels).transpose(0, 3, 1, 2)
        return maps.reshape(outputs, -1)
    return array.T if array.ndim == 2 else array


def _put(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    """Sets a leaf of nested dicts."""
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def from_torch(state: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Converts state dicts of the original's modules into our parameter trees.

    Args:
      state: {module of `MODULES`: {name: array}}, stage 1's three modules or all five.
        Completeness of the names is not checked.

    Returns:
      {network: tree} and 'vgg', the trunk's conv1_1 .. conv3_1, taken from the
      generator.

    Raises:
      UserError: If a module or name is unknown.
    """
    trees: dict[str, Any] = {}

    for module, arrays in state.items():
        if module not in MODULES:
            raise UserError(
                f"unknown module {module!r}; the original has {sorted(MODULES)}."
            )

        tree: dict[str, Any] = {}
        for name, array in arrays.items():
            layer, kind = split_name(name)

            # Both Swap modules hold the trunk; the generator's copy is enough.
            stem = layer.split(".")[0]
            is_trunk = stem in TRUNK_LAYERS and layer == f"{stem}.0"
            if is_trunk and module.startswith("Swap_"):
                if module == "Swap_Generator":
                    vgg = trees.setdefault("vgg", {})
                    _put(vgg, f"{stem}/{kind}", _to_ours(array, stem))
                continue

            if layer not in LAYERS[module]:
                raise UserError(f"unknown layer {module}.{name}.")
            path = LAYERS[module][layer]
            _put(tree, f"{path}/{kind}", np.ascontiguousarray(_to_ours(array, path)))
        trees[MODULES[module]] = tree

    return trees


def to_torch(trees: Mapping[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields the trees' arrays under the original's names and in its layouts.

    Frozen trunks are left out.

    Args:
      trees: {network: tree} of `from_torch`; other trees (vgg) are ignored. Gradients
        or averages in the same structure work as well.

    Yields:
      (module, name, array), in the order of `LAYERS`.
    """
    for module, network in MODULES.items():
        if network not in trees:
            continue

        for layer, path in LAYERS[module].items():
            node = trees[network]
            for part in path.split("/"):
                node = node[part]

            for kind, suffix in (("kernel", "weight"), ("bias", "bias")):
                if kind in node:
                    array = _to_torch(np.asarray(node[kind]), path)
                    yield module, f"{layer}.{suffix}", np.ascontiguousarray(array)
