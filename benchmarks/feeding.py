"""The input side: image files to batches, and their augmentation on the device."""

import contextlib
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.ours import Setting, device_of
from facecycle_jax import data, ops
from facecycle_jax.errors import UserError

_SIDE = 112  # pixels of the files, as face crops of videos have
_DECODED = 72  # pixels decoded to


def write_tracks(folder: pathlib.Path, *, people: int = 32, frames: int = 8) -> None:
    """Writes drawn faces as JPEG files, FOLDER/<person>/<frame>.jpg."""
    drawn = data.synthetic_tracks(
        0, identities=people, frames_per_track=frames, size=64
    )
    for number, (person, frame) in enumerate(
        zip(drawn["identity"], drawn["frames"], strict=True)
    ):
        track = folder / f"{person:03}"
        track.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(frame)).resize((_SIDE, _SIDE)).save(
            track / f"{number:05}.jpg", quality=90
        )


def programs(
    folder: str, setting: Setting, stack: contextlib.ExitStack
) -> dict[str, timing.Program | str]:
    """Builds the programs; one call of each is one batch.

    Loaders that read files do so ahead of the calls: their time is what training waits
    for, and no rate of reading follows from it.

    Args:
      folder: with tracks of image files.
      setting: gives batch and device.
      stack: ends the loaders, which read ahead, when it is closed.

    Returns:
      Batches of frames held in memory, of frames read from files by each backend, and
      the augmentation.
    """
    built: dict[str, timing.Program | str] = {}
    for backend in ("memory", "threads", "tf"):
        config = _config(folder, backend, setting)
        # Any: a generator, which can be closed.
        batches: Any = data.make_loader(config, split="train").batches(0)
        stack.callback(batches.close)
        try:
            first = next(batches)
        except UserError as error:
            built[f"frames, {backend}"] = str(error)
            continue
        built[f"frames, {backend}"] = _next(itertools.chain([first], batches))
        example = first
    augment = jax.jit(lambda key, batch: ops.augment_pairs(key, batch, size=64))
    arguments = jax.device_put(
        (jax.random.key(0), dict(example)), device_of(setting.device)
    )
    built["augmentation on the device"] = lambda: jax.block_until_ready(
        augment(*arguments)
    )
    return built


def _next(batches: Any) -> Callable[[], Any]:
    return lambda: next(batches)


def _config(folder: str, backend: str, setting: Setting) -> dict[str, Any]:
    """The fields of a run's configuration that loading needs."""
    options = {
        "source": "folder",
        "path": folder,
        "backend": backend,
        "memory_gb": 1.0,
        "min_frames": 4,
        "decode_size": _DECODED,
        "eval_fraction": 0.05,
        "identity_depth": 1,
        "max_tracks": 0,
        "mirror_pair_probability": (0.5,),
    }
    return {
        "method": "motion_cycle",
        "batch_size": setting.batch,
        "seed": 0,
        "data": options,
    }
