"""Time from a fresh process to the first motion code, the weights on disk."""

import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.ours import Setting, model_of
from facecycle_jax.storage import write_model

_OURS = """
import sys, jax, numpy as np, facecycle_jax
folder, kind, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = facecycle_jax.load(folder, devices=jax.devices(kind))
model.motion_code(np.zeros((1, side, side, 3), np.uint8))
"""
# A traced network needs no source: PyTorch's side does not pay for importing JAX.
_TORCH = """
import sys, torch
path, device = sys.argv[1:]
encoder = torch.jit.load(path, map_location=device)
with torch.inference_mode():
    encoder(torch.zeros(1, 3, 64, 64, device=device)).cpu()
"""


def our_starts(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> dict[str, Callable[[], None]]:
    """Builds programs that start Python, load a model folder and encode an image.

    The model folder is written first.

    Args:
      folder: an empty folder.
      trees: parameters of stage 1.
      setting: gives width, image size, precision and device.

    Returns:
      The program as it is, and with compiled programs kept on disk.
    """
    names = ("motion_encoder", "flow_decoder", "generator", "vgg")
    write_model(
        folder / "model",
        {name: trees[name] for name in names},
        model=model_of(setting),
        licence="CC0",
        source="random numbers",
    )
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    # This process holds the GPU too: what JAX takes at once may not be free.
    there = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if setting.device == "cpu":
        # Otherwise JAX would start an accelerator that is there as well.
        there["JAX_PLATFORMS"] = "cpu"

    arguments = (str(folder / "model"), setting.device, str(setting.size))
    fresh = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    return {
        "ours": lambda: _run(_OURS, *arguments, **there, **fresh),
        "ours, compiled programs kept": lambda: _run(
            _OURS, *arguments, **there, **kept
        ),
    }


def torch_start(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> Callable[[], None]:
    """Saves the encoder with torch and builds the program that loads and calls it.

    Args:
      folder: for the file.
      trees: parameters of stage 1.
      setting: gives width and device.

    Returns:
      The program.

    Raises:
      UserError: If PyTorch cannot compute on the device.
    """
    import torch

    from benchmarks.torch_programs import torch_device
    from tests.reference_torch import networks as torch_networks
    from tests.reference_torch.training import Reference, load_trees

    device = torch_device(setting.device)
    reference = Reference("motion_cycle", width=setting.width)
    load_trees(reference, trees)
    encoder = next(
        m for m in reference.modules() if isinstance(m, torch_networks.CodeEncoder)
    )
    with warnings.catch_warnings():
        # TorchScript is old; nothing newer starts as fast.
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, 64, 64, device=device)
        traced = torch.jit.trace(encoder.to(device), image)
        traced.save(str(folder / "encoder.pt"))
    return lambda: _run(_TORCH, str(folder / "encoder.pt"), str(device))


def _run(code: str, *arguments: str, **variables: str) -> None:
    command, environment = (
        [sys.executable, "-c", code, *arguments],
        {**os.environ, **variables},
    )
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"a started process failed: {result.stderr.strip()}")
