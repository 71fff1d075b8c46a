"""Time from a fresh process to the first motion code, the weights on disk."""

import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.ours import Setting
from facecycle_jax.storage import write_model

_OURS = """
import sys, numpy as np, facecycle_jax
model = facecycle_jax.load(sys.argv[1])
model.motion_code(np.zeros((1, 64, 64, 3), np.uint8))
"""
# A traced network needs no source: PyTorch's side does not pay for importing JAX.
_TORCH = """
import sys, torch
encoder = torch.jit.load(sys.argv[1])
with torch.inference_mode():
    encoder(torch.zeros(1, 3, 64, 64))
"""


def our_starts(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> dict[str, Callable[[], None]]:
    """Builds programs that start Python, load a model folder and encode an image.

    The model folder is written first.

    Args:
      folder: an empty folder.
      trees: parameters of stage 1.
      setting: gives the width.

    Returns:
      The program as it is, and with compiled programs kept on disk.
    """
    names = ("motion_encoder", "flow_decoder", "generator", "vgg")
    model = {
        "width": setting.width,
        "image_size": setting.size,
        "code_dim": 256,
        "dtype": "float32",
        "trunk": "vgg",
    }
    write_model(
        folder / "model",
        {name: trees[name] for name in names},
        model=model | {"vgg_width": setting.width},
        licence="CC0",
        source="random numbers",
    )
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    model_folder = str(folder / "model")
    return {
        "ours": lambda: _run(_OURS, model_folder, JAX_ENABLE_COMPILATION_CACHE="0"),
        "ours, compiled programs kept": lambda: _run(_OURS, model_folder, **kept),
    }


def torch_start(
    folder: pathlib.Path, trees: Mapping[str, Any], setting: Setting
) -> Callable[[], None]:
    """Saves the encoder with torch and builds the program that loads and calls it."""
    import torch

    from tests.reference_torch import networks as torch_networks
    from tests.reference_torch.training import Reference, load_trees

    reference = Reference("motion_cycle", width=setting.width)
    load_trees(reference, trees)
    encoder = next(
        m for m in reference.modules() if isinstance(m, torch_networks.CodeEncoder)
    )
    with warnings.catch_warnings():
        # TorchScript is old; nothing newer starts as fast.
        warnings.simplefilter("ignore")
        torch.jit.trace(encoder, torch.zeros(1, 3, 64, 64)).save(
            str(folder / "encoder.pt")
        )
    return lambda: _run(_TORCH, str(folder / "encoder.pt"))


def _run(code: str, *arguments: str, **variables: str) -> None:
    command, environment = (
        [sys.executable, "-c", code, *arguments],
        {**os.environ, **variables},
    )
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(
            f"a started process failed: {result.stderr.strip().splitlines()[-1]}"
        )
