"""Conversion of the original program's checkpoints to parameter trees.

Such a file is a dict of state dicts: codegeneration, exptoflow and Swap_Generator
(stage 1), and for both stages also idcodegen and Swap_Norm. Its tensors have PyTorch's
layouts; the trees have those of Flax, in float32. Nothing in the file is executed.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from facecycle_jax.errors import ConversionError, UserError, shorten
from facecycle_jax.interop.original_names import MODULES, from_torch, to_torch
from facecycle_jax.interop.torch_file import read_torch
from facecycle_jax.networks import Tree
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.storage.model_spec import (
    ORIGINAL_MODEL,
    STAGES,
    check_model,
    nest,
    weight_shapes,
)

# What DataParallel puts before every name.
_PREFIX = "module."
# The modules that hold a copy of the frozen trunk.
_WITH_TRUNK = ("Swap_Generator", "Swap_Norm")
# The modules of each stage.
_MOTION = tuple(name for name, net in MODULES.items() if net in STAGES["motion"])
_IDENTITY = tuple(name for name, net in MODULES.items() if net in STAGES["identity"])


def read_original(
    path: str | os.PathLike[str], *, model: Mapping[str, Any] = ORIGINAL_MODEL
) -> dict[str, Tree]:
    """Reads a checkpoint of the original program, of stage 1 or of both stages.

    Both formats of PyTorch are read, and names may carry the `module.` of DataParallel.
    Entries of the file that are not networks (epochs, optimisers) are not read.

    Args:
      path: the file, whatever its suffix.
      model: configuration whose names and shapes the file must have, with trunk 'vgg'.

    Returns:
      Trees by name, float32: motion_encoder, flow_decoder and generator; for both
      stages also identity_encoder and normaliser; and 'vgg', the frozen trunk
      conv1_1 .. conv3_1, if the file has it.

    Raises:
      UserError: If the configuration is out of range or has another trunk.
      ConversionError: If the file cannot be read, or a name is missing, unknown or of a
        wrong shape; the sentence names the file and the first such name.
    """
    checked_model = check_model(model)
    if checked_model["trunk"] != "vgg":
        raise UserError(
            "checkpoints of the original program have the trunk 'vgg', and model.trunk "
            f"is {checked_model['trunk']!r}."
        )
    state = read_torch(path, wanted=lambda name: name.split("/")[0] in MODULES)

    try:
        found = _modules(state)
        expected = _torch_shapes(tuple(checked_model.items()))
        arrays = {}
        for module, values in found.items():
            arrays[module] = _checked(values, expected[module], module)
        _move_trunk(arrays)
        trees = from_torch(arrays)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}.") from None

    return {name: _contiguous(tree) for name, tree in trees.items() if tree}


def _modules(state: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Finds the networks of a file and removes the `module.` of their names."""
    present = [module for module in MODULES if module in state]
    if not present:
        keys = ", ".join(shorten(key, 40) for key in list(state)[:3]) or "none"
        raise ConversionError(
            f"it is not a checkpoint of the original program: it has no key "
            f"{_MOTION[0]!r}, its first keys are {keys}"
        )

    # One module of stage 2 requires the other.
    needed = _MOTION
    if any(module in present for module in _IDENTITY):
        needed += _IDENTITY
    for module in needed:
        if module not in state:
            raise ConversionError(f"it has {', '.join(present)} and lacks {module}")
        if type(state[module]) is not dict:
            raise ConversionError(
                f"its {module} is {shorten(state[module])}, not a dict of tensors"
            )

    found: dict[str, dict[str, Any]] = {}
    for module in needed:
        names: dict[str, Any] = {}
        for key, value in state[module].items():
            name = str(key).removeprefix(_PREFIX)
            if name in names:
                raise ConversionError(
                    f"it holds {module}.{shorten(name)} with and without 'module.'"
                )
            names[name] = value
        found[module] = names
    return found


@functools.lru_cache(maxsize=4)
def _torch_shapes(
    items: tuple[tuple[str, Any], ...],
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Computes PyTorch's names and shapes of every module, frozen trunks included."""
    shapes = weight_shapes(dict(items))
    result: dict[str, dict[str, tuple[int, ...]]] = {module: {} for module in MODULES}
    for module in _WITH_TRUNK:
        for layer in TRUNK_LAYERS:
            kernel = shapes[f"vgg/{layer}/kernel"]
            result[module][f"{layer}.0.weight"] = (kernel[3], kernel[2], *kernel[:2])
            result[module][f"{layer}.0.bias"] = (kernel[3],)

    # Arrays are converted for their shapes alone, so one byte per weight will do.
    blank = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    for module, name, array in to_torch(nest(blank)):
        result[module][name] = array.shape
    return result


def _is_trunk(name: str) -> bool:
    """Says whether a name of the original's belongs to the frozen trunk."""
    return name.split(".")[0] in TRUNK_LAYERS


def _checked(
    arrays: dict[str, Any], expected: dict[str, tuple[int, ...]], module: str
) -> dict[str, np.ndarray]:
    """Checks a module's names and shapes, and returns its arrays as float32."""
    # A file may lack the trunk as a whole.
    has_trunk = module in _WITH_TRUNK and any(_is_trunk(name) for name in arrays)
    if module in _WITH_TRUNK and not has_trunk:
        expected = {
            name: shape for name, shape in expected.items() if not _is_trunk(name)
        }

    checked = {}
    for name, shape in expected.items():
        value = arrays.get(name)
        if name not in arrays:
            raise ConversionError(f"it lacks {module}.{name} of shape {shape}")
        if not isinstance(value, np.ndarray):
            raise ConversionError(
                f"its {module}.{name} is {shorten(value)}, not a tensor of shape "
                f"{shape}"
            )
        if value.shape != shape:
            raise ConversionError(
                f"its {module}.{name} has shape {value.shape}, not {shape}"
            )
        if value.dtype.kind in "iub":
            raise ConversionError(
                f"its {module}.{name} holds {value.dtype}, not floating-point numbers"
            )

        # Doubles may be too large for float32.
        with np.errstate(over="ignore", invalid="ignore"):
            checked[name] = value.astype(np.float32)
        if not np.isfinite(checked[name]).all():
            raise ConversionError(
                f"its {module}.{name} holds values that are not finite"
            )

    for name in arrays:
        if name not in expected:
            raise ConversionError(
                f"its {module}.{shorten(name)} is unknown to the original program"
            )
    return checked


def _move_trunk(arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """Leaves one trunk, that of the generator.

    The normaliser's trunk must be equal, and replaces a missing one of the generator.
    """
    generator, normaliser = (arrays.get(module, {}) for module in _WITH_TRUNK)
    own = {name: normaliser.pop(name) for name in list(normaliser) if _is_trunk(name)}
    for name, value in own.items():
        # The original loads both from one VGG-19 and never trains them.
        if name in generator and not np.array_equal(generator[name], value):
            raise ConversionError(
                f"its Swap_Generator and Swap_Norm have different frozen {name}"
            )
        generator.setdefault(name, value)


def _contiguous(tree: Mapping[str, Any]) -> Tree:
    """Copies transposed views into arrays in the usual order of memory."""
    result: Tree = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            result[name] = _contiguous(value)
        else:
            result[name] = np.ascontiguousarray(value)
    return result
