"""Time from a new process to its first motion code, with the weights on disk.

Our process loads a whole model folder, as a user's does. PyTorch's loads the traced
encoder alone.
"""

import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.ours import Setting, model_of
from facecycle_jax.storage import write_model

_OUR_CODE = """
import sys, jax, numpy as np, facecycle_jax
folder, kind, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = facecycle_jax.load(folder, devices=jax.devices(kind))
model.motion_code(np.zeros((1, side, side, 3), np.uint8))
"""
# A traced network needs no source: PyTorch's process does not import JAX.
_TORCH_CODE = """
import sys, torch
path, device = sys.argv[1:]
encoder = torch.jit.load(path, map_location=device)
with torch.inference_mode():
    encoder(torch.zeros(1, 3, 64, 64, device=device)).cpu()
"""


def our_starts(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> dict[str, Callable[[], None]]:
    """Writes a model folder, and builds programs that start Python and use it.

    Each of them loads the folder and encodes one image.

    Args:
      folder: an empty folder.
      trees: parameters of stage 1.
      setting: gives width, image size, precision and device.

    Returns:
      The program that compiles, and the one that keeps its compiled programs on disk.
    """
    model_folder = folder / "model"
    names = ("motion_encoder", "flow_decoder", "generator", "vgg")
    write_model(
        model_folder,
        {name: trees[name] for name in names},
        model=model_of(setting),
        licence="CC0",
        source="random numbers",
    )

    # This process holds the GPU too, so the memory that JAX allocates in advance may
    # not be free.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if setting.device == "cpu":
        # Otherwise JAX would also start an accelerator of this machine.
        shared["JAX_PLATFORMS"] = "cpu"
    compiling = {**shared, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    kept = {
        **shared,
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    arguments = (str(model_folder), setting.device, str(setting.size))
    return {
        "ours": lambda: _run(_OUR_CODE, *arguments, **compiling),
        "ours, compiled programs kept": lambda: _run(_OUR_CODE, *arguments, **kept),
    }


def torch_start(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> Callable[[], None]:
    """Saves PyTorch's encoder, and builds the program that loads and calls it.

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
    from tests.reference_torch.training import Reference, load_trees

    device = torch_device(setting.device)
    reference = Reference("motion_cycle", width=setting.width)
    load_trees(reference, trees)
    encoder = reference.codegeneration.to(device)

    path = folder / "encoder.pt"
    with warnings.catch_warnings():
        # PyTorch advises against TorchScript, but nothing newer starts as fast.
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, 64, 64, device=device)
        torch.jit.trace(encoder, image).save(str(path))
    return lambda: _run(_TORCH_CODE, str(path), str(device))


def _run(code: str, *arguments: str, **variables: str) -> None:
    """Runs Python code in a new process.

    Args:
      code: the program.
      *arguments: of its command line.
      **variables: of its environment, in addition to those of this process.

    Raises:
      RuntimeError: If the process fails; the message has its stack trace.
    """
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    if result.returncode:
        raise RuntimeError(f"a started process failed: {result.stderr.strip()}")
