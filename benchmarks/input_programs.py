"""One side of the input benchmark, run by `input_pipeline` in its own process.

Counts the processor time of the process and its workers, so that other programs on the
machine matter little.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# name: (source, backend, decoder) of ours; torch's have none.
OURS = {
    "records": ("records", "threads", "opencv"),
    "folder": ("folder", "threads", "opencv"),
    "records, pillow": ("records", "threads", "pillow"),
    "folder, pillow": ("folder", "threads", "pillow"),
}
TORCH = ("torch", "torch, reduced decoding")
# Pairs are of two different frames: both sides then decode two images a pair. Ours
# reads the frame of a mirrored pair, and so of a track of one frame, only once.
MIN_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
      program: a name of `OURS` or `TORCH`.
      folder: of images, <person>/.../*.jpg.
      records: the same images, prepared.
      batch: pairs.
      size: side of the images in pixels.
      images: how many are read while the clock runs.
      workers: processes of PyTorch's loader; ours takes as many threads as cores.
    """

    program: str
    folder: str
    records: str
    batch: int
    size: int
    images: int
    workers: int


def measure(setting: Setting) -> dict[str, Any]:
    """Measures one program in this process.

    Args:
      setting: what is measured.

    Returns:
      first_batch_s (from building the loader), images_per_s, images_per_core_s (a
      second of processor time), memory_mb (of the process and its workers, shared pages
      counted once); of ours also interpreter_us, the time per image that runs under
      the interpreter's lock, and resume_ms, the times to the first batch at step 0 and
      at step 1,000,000.
    """
    start = time.perf_counter()
    loader = None if setting.program in TORCH else _loader(setting)
    batches: Any = _torch_batches(setting) if loader is None else loader.batches(0)
    shown = next(batches)
    result: dict[str, Any] = {"first_batch_s": time.perf_counter() - start}
    per_batch = int(np.prod(shown["frames"].shape[:2]))
    for _ in itertools.islice(batches, 10):
        pass
    rounds = max(1, setting.images // per_batch)
    began, spent = time.perf_counter(), _cpu_seconds()
    for _ in itertools.islice(batches, rounds):
        pass
    took, spent = time.perf_counter() - began, _cpu_seconds() - spent
    result |= {
        "images_per_s": rounds * per_batch / took,
        "images_per_core_s": rounds * per_batch / max(spent, 0.01),
        "memory_mb": sum(_memory_mb(process) for process in _processes()),
    }
    if loader is not None:
        batches.close()
        result["interpreter_us"] = _interpreter_us(loader, rounds)
        result["resume_ms"] = _resume_ms(loader)
    return result


def _loader(setting: Setting) -> Any:
    """Builds our loader."""
    from facecycle_jax.data import make_loader

    source, backend, decoder = OURS[setting.program]
    data = {
        "source": source,
        "backend": backend,
        "decoder": decoder,
        "memory_gb": 1.0,
        "min_frames": MIN_FRAMES,
        "mirror_pair_probability": 0.0,
        "path": setting.records if source == "records" else setting.folder,
        "identity_depth": 1,
        "max_tracks": 0,
        "decode_size": setting.size,
        "eval_fraction": 0.0,
    }
    config = {
        "method": "motion_cycle",
        "batch_size": setting.batch,
        "seed": 0,
        "data": data,
    }
    return make_loader(config, split="train")


def _interpreter_us(loader: Any, rounds: int) -> float:
    """Times the pipeline with images that need no reading.

    What remains is the time of Python itself.
    """
    side = loader.decode_size
    blank = np.zeros((side, side, 3), np.uint8)
    batches = dataclasses.replace(loader, read=lambda frame: blank).batches(0)
    first = next(batches)
    spent = time.process_time()
    for _ in itertools.islice(batches, rounds):
        pass
    spent = time.process_time() - spent
    batches.close()
    return 1e6 * spent / (rounds * int(np.prod(first["frames"].shape[:2])))


def _resume_ms(loader: Any, repeats: int = 9) -> dict[str, float]:
    """Times the first batch of steps far apart, interleaved, as medians."""
    times: dict[int, list[float]] = {0: [], 1_000_000: []}
    for _ in range(repeats):
        for step, taken in times.items():
            start = time.perf_counter()
            batches = loader.batches(step)
            next(batches)
            taken.append(1e3 * (time.perf_counter() - start))
            batches.close()
    return {str(step): statistics.median(taken) for step, taken in times.items()}


def torch_tracks(setting: Setting) -> Sequence[Any]:
    """Finds the tracks that PyTorch's loader reads, the same as ours.

    Args:
      setting: what is measured.

    Returns:
      The image files of each track.

    Raises:
      UserError: If there are fewer tracks than a batch has pairs.
    """
    from facecycle_jax.data import scan_folder
    from facecycle_jax.errors import UserError

    tracks = scan_folder(setting.folder, min_frames=MIN_FRAMES).frames
    # Without one whole batch, the loader would begin epoch after epoch for ever.
    if len(tracks) < setting.batch:
        raise UserError(
            f"{setting.folder} has {len(tracks)} tracks of at least {MIN_FRAMES} "
            f"images and --batch {setting.batch} needs {setting.batch} of them; "
            "choose a smaller --batch."
        )

    return tracks


def _torch_batches(setting: Setting) -> Iterator[dict[str, Any]]:
    """Yields batches of PyTorch's DataLoader over the same tracks.

    Pillow opens, converts and resizes. The workers are processes.
    """
    import torch
    from PIL import Image

    tracks, side = torch_tracks(setting), setting.size
    reduced = setting.program == TORCH[1]

    class Pairs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(tracks)

        def __getitem__(self, index: int) -> torch.Tensor:
            frames = tracks[index]
            chosen = torch.randint(len(frames), (2,)).tolist()
            return torch.stack([self.read(str(frames[place])) for place in chosen])

        def read(self, path: str) -> torch.Tensor:
            with Image.open(path) as image:
                if reduced:
                    image.draft("RGB", (side, side))
                resized = image.convert("RGB").resize(
                    (side, side), Image.Resampling.BILINEAR
                )
            return torch.from_numpy(np.array(resized))

    loader: Any = torch.utils.data.DataLoader(
        Pairs(),
        batch_size=setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        persistent_workers=setting.workers > 0,
    )
    while True:
        for batch in loader:
            yield {"frames": batch}


def _processes() -> list[int]:
    """Lists this process and its workers."""
    return [
        os.getpid(),
        *(child.pid for child in multiprocessing.active_children() if child.pid),
    ]


def _cpu_seconds() -> float:
    """Adds up the processor time of this process and its workers from /proc."""
    ticks = 0
    for process in _processes():
        fields = (
            pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        )
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(process: int) -> float:
    """Reads a process's proportional share of memory."""
    for line in pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1e3
    return 0.0


def main(setting: Setting) -> int:
    """Prints the figures of one program as JSON.

    Args:
      setting: what is measured.

    Returns:
      The exit status: 2 after a user's mistake, whose sentence is on stderr.
    """
    from facecycle_jax.errors import UserError

    try:
        print(json.dumps(measure(setting)))
    except (UserError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Setting(**json.loads(sys.argv[1]))))
