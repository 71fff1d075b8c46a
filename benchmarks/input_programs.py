"""One program of the input benchmark, run by `input_pipeline` in its own process.

It measures the processor time of the process and its workers, so that other programs on
the machine matter little.

The process of a program of PyTorch imports neither this package nor JAX. They would
count in its time to the first batch and in its memory.
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
from collections.abc import Iterator
from typing import Any

import numpy as np

# Our programs: source, backend and decoder by name.
OURS = {
    "records": ("records", "threads", "opencv"),
    "folder": ("folder", "threads", "opencv"),
    "records, pillow": ("records", "threads", "pillow"),
    "folder, pillow": ("folder", "threads", "pillow"),
}
# PyTorch's programs. The second one decodes JPEG at the smallest sufficient scale.
TORCH = ("torch", "torch, reduced decoding")
# Pairs are of two different frames: both sides then decode two images a pair. Ours
# reads the frame of a mirrored pair, and so of a track of one frame, only once.
MIN_FRAMES = 2

# Batches that are read before the clock starts.
_WARM_UP = 10


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
      program: a name of `OURS` or `TORCH`.
      folder: folder of images, <person>/.../*.jpg.
      records: the same images, prepared; '' if no program reads them.
      tracks: JSON file with the image files of each track, for PyTorch's programs; ''
        if there are none.
      batch: number of pairs.
      size: side of the decoded images in pixels.
      images: number of images that are read while the clock runs.
      workers: processes of PyTorch's loader; ours has as many threads as cores.
    """

    program: str
    folder: str
    records: str
    tracks: str
    batch: int
    size: int
    images: int
    workers: int


def measure(setting: Setting) -> dict[str, Any]:
    """Measures one program in this process.

    Args:
      setting: what is measured.

    Returns:
      first_batch_s: seconds to the first batch. In a new process they include the
        imports; of ours also the listing of the tracks.
      images_per_s: images a second.
      images_per_core_s: images a second of processor time.
      memory_mb: megabytes of the process and its workers; shared pages count once.
      interpreter_us: only of ours, microseconds an image that run under the
        interpreter's lock.
      resume_ms: only of ours, milliseconds to the first batch at step 0 and at step
        1,000,000.

    Raises:
      UserError: If a package is missing, or the images do not serve our program.
    """
    start = time.perf_counter()
    is_torch = setting.program in TORCH
    loader = None if is_torch else _loader(setting)
    batches: Any = _torch_batches(setting) if loader is None else loader.batches(0)
    images = _images(next(batches))
    result: dict[str, Any] = {"first_batch_s": time.perf_counter() - start}

    _take(batches, _WARM_UP)
    rounds = max(1, setting.images // images)
    start = time.perf_counter()
    worked = _cpu_seconds()
    _take(batches, rounds)
    seconds = time.perf_counter() - start
    # The system counts processor time in hundredths of a second.
    cpu_seconds = max(_cpu_seconds() - worked, 0.01)

    result["images_per_s"] = rounds * images / seconds
    result["images_per_core_s"] = rounds * images / cpu_seconds
    result["memory_mb"] = sum(_memory_mb(process) for process in _processes())
    if loader is not None:
        batches.close()
        result["interpreter_us"] = _interpreter_us(loader, rounds)
        result["resume_ms"] = _resume_ms(loader)
    return result


def _take(batches: Iterator[Any], count: int) -> None:
    """Takes batches and drops them."""
    for _ in itertools.islice(batches, count):
        pass


def _images(batch: dict[str, Any]) -> int:
    """Counts the images of a batch [B, 2, H, W, 3]."""
    pairs, frames = batch["frames"].shape[:2]
    return int(pairs * frames)


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

    Args:
      loader: ours.
      rounds: number of timed batches.

    Returns:
      Microseconds an image.
    """
    side = loader.decode_size
    blank = np.zeros((side, side, 3), np.uint8)
    batches = dataclasses.replace(loader, read=lambda frame: blank).batches(0)
    images = _images(next(batches))

    start = time.process_time()
    _take(batches, rounds)
    seconds = time.process_time() - start

    batches.close()
    return 1e6 * seconds / (rounds * images)


def _resume_ms(loader: Any, repeats: int = 9) -> dict[str, float]:
    """Times the first batch at steps far apart, interleaved.

    Args:
      loader: ours.
      repeats: number of times; the median counts.

    Returns:
      Milliseconds by step.
    """
    times: dict[int, list[float]] = {0: [], 1_000_000: []}
    for _ in range(repeats):
        for step, taken in times.items():
            start = time.perf_counter()
            batches = loader.batches(step)
            next(batches)
            taken.append(1e3 * (time.perf_counter() - start))
            batches.close()
    return {str(step): statistics.median(taken) for step, taken in times.items()}


def _torch_batches(setting: Setting) -> Iterator[dict[str, Any]]:
    """Yields batches of PyTorch's DataLoader over the same tracks as ours.

    Pillow opens, converts and resizes. The workers are processes.
    """
    import torch
    from PIL import Image

    tracks = json.loads(pathlib.Path(setting.tracks).read_text())
    side = setting.size
    is_reduced = setting.program == TORCH[1]

    class Pairs(torch.utils.data.Dataset):
        """One pair of frames of each track, uint8 [2, side, side, 3]."""

        def __len__(self) -> int:
            return len(tracks)

        def __getitem__(self, index: int) -> torch.Tensor:
            frames = tracks[index]
            chosen = torch.randint(len(frames), (2,)).tolist()
            return torch.stack([self.read(frames[index]) for index in chosen])

        def read(self, path: str) -> torch.Tensor:
            with Image.open(path) as image:
                if is_reduced:
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
    """Lists the ids of this process and its workers."""
    children = [child.pid for child in multiprocessing.active_children()]
    return [os.getpid(), *(pid for pid in children if pid)]


def _cpu_seconds() -> float:
    """Adds up the processor time of this process and its workers."""
    ticks = 0
    for process in _processes():
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
        # The fields after the program's name, which may have spaces. Two of them are
        # the ticks in user and in system mode.
        fields = text.rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(process: int) -> float:
    """Reads a process's memory, of which shared pages count proportionally."""
    text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
    for line in text.splitlines():
        if line.startswith("Pss:"):
            kibibytes = int(line.split()[1])
            return kibibytes * 1024 / 1e6
    return 0.0


def main(setting: Setting) -> int:
    """Prints the figures of one program as JSON.

    Args:
      setting: what is measured.

    Returns:
      The exit status: 2 after a user's mistake, whose sentence is on stderr.
    """
    mistakes: tuple[type[Exception], ...] = (FileNotFoundError,)
    if setting.program not in TORCH:
        from facecycle_jax.errors import UserError

        mistakes = (UserError, FileNotFoundError)

    try:
        print(json.dumps(measure(setting)))
    except mistakes as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Setting(**json.loads(sys.argv[1]))))
