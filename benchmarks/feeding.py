"""The input side: image files to batches, and their augmentation on the device.

Images have 64 pixels, whatever the size of the setting.
"""

import contextlib
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.ours import Setting, device_of
from facecycle_jax import data, ops
from facecycle_jax.errors import UserError

# Sides in pixels: of the files, which is usual for face crops of videos, of the decoded
# frames, and of the augmented images.
_FILE_SIDE = 112
_DECODED_SIDE = 72
_IMAGE_SIDE = 64
# 'memory' holds decoded frames. The other two read files.
_BACKENDS = ("memory", "threads", "tf")


def write_tracks(folder: pathlib.Path, *, people: int = 32, frames: int = 8) -> None:
    """Writes synthetic faces as JPEG files, FOLDER/<person>/<frame>.jpg.

    Args:
      folder: an empty folder.
      people: number of people, each of whom has one track.
      frames: number of frames of a track.
    """
    tracks = data.synthetic_tracks(
        0, identities=people, frames_per_track=frames, size=64
    )
    pairs = zip(tracks["identity"], tracks["frames"], strict=True)
    for number, (person, frame) in enumerate(pairs):
        track = folder / f"{person:03}"
        track.mkdir(exist_ok=True)
        image = Image.fromarray(np.asarray(frame)).resize((_FILE_SIDE, _FILE_SIDE))
        image.save(track / f"{number:05}.jpg", quality=90)


def programs(
    folder: str, setting: Setting, stack: contextlib.ExitStack
) -> tuple[dict[str, timing.Program | str], dict[str, float]]:
    """Builds the programs; one call of each is one batch.

    Loaders that read files do so ahead of the calls. Their time is what training waits
    for, and no rate of reading follows from it.

    Args:
      folder: holds tracks of image files.
      setting: gives batch and device.
      stack: closing it ends the loaders.

    Returns:
      The programs: batches of frames held in memory, batches of frames read from files
      by each backend, and the augmentation. A backend that cannot run here has the
      reason. Then the seconds to the first batch, by program: it is drawn here, and the
      first call returns it.
    """
    built: dict[str, timing.Program | str] = {}
    ahead: dict[str, float] = {}
    example: Any = None
    for backend in _BACKENDS:
        loader = data.make_loader(_config(folder, backend, setting), split="train")
        # Any: a generator, which can be closed.
        batches: Any = loader.batches(0)
        stack.callback(batches.close)

        name = f"frames, {backend}"
        start = time.perf_counter()
        try:
            example = next(batches)
        except UserError as error:
            built[name] = str(error)
            continue
        ahead[name] = time.perf_counter() - start
        built[name] = _next(itertools.chain([example], batches))

    augment = jax.jit(
        lambda key, batch: ops.augment_pairs(key, batch, size=_IMAGE_SIDE)
    )
    arguments = jax.device_put(
        (jax.random.key(0), dict(example)), device_of(setting.device)
    )
    built["augmentation on the device"] = lambda: jax.block_until_ready(
        augment(*arguments)
    )
    return built, ahead


def _next(batches: Iterator[Any]) -> Callable[[], Any]:
    """Returns a program that takes the next batch."""
    return lambda: next(batches)


def _config(folder: str, backend: str, setting: Setting) -> dict[str, Any]:
    """Returns the fields of a run's configuration that loading needs."""
    options = {
        "source": "folder",
        "path": folder,
        "backend": backend,
        "memory_gb": 1.0,
        "min_frames": 4,
        "decode_size": _DECODED_SIDE,
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
