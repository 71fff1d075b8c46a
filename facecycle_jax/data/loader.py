"""From a configuration to batches.

A batch holds frames uint8 [B, 2, S, S, 3], mirror bool [B] (the track has one frame, its mirror image is
the second), track and identity int32 [B, 2].
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from facecycle_jax.data.folder import read_list, scan_folder
from facecycle_jax.data.memory import check_memory, decode_all
from facecycle_jax.data.reading import Report
from facecycle_jax.data.sampling import check_pairing, draw_pairs, make_table
from facecycle_jax.data.synthetic import synthetic_tracks
from facecycle_jax.data.tf_pipeline import tf_batches
from facecycle_jax.data.tracks import Tracks, split_people

FILE_SOURCES = {"folder": scan_folder, "list": read_list}
PAIRING = {"motion_cycle": "same", "identity_cycle": "different"}


@dataclasses.dataclass
class Loader:
    """Draws batches from tracks, each process its part.

    Attributes:
      tracks: all tracks.
      frames: decoded frames uint8 [frames, S, S, 3], or None where they are read while training.
      batch_size: items over all processes.
      pairing: 'same' or 'different'.
      seed: of the draws.
      decode_size: S, pixels.
      report: what could not be read.
    """

    tracks: Tracks
    frames: np.ndarray | None
    batch_size: int
    pairing: str
    seed: int
    decode_size: int
    report: Report

    @property
    def num_tracks(self) -> int:
        """Counts the tracks, of all processes."""
        return len(self.tracks)

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of the batches of steps start, start + 1, ... without end."""
        check_pairing(self.tracks, pairing=self.pairing)
        table = make_table(self.tracks)
        part = self.batch_size // jax.process_count()
        mine = slice(part * jax.process_index(), part * (jax.process_index() + 1))
        cpu = jax.local_devices(backend="cpu")[0]

        def draw(step: int) -> dict[str, np.ndarray]:
            with jax.default_device(cpu), jax.transfer_guard("allow"):
                drawn = draw_pairs(
                    np.uint32(step),
                    table,
                    batch_size=self.batch_size,
                    pairing=self.pairing,
                    seed=self.seed,
                )
                return {name: np.asarray(value)[mine] for name, value in drawn.items()}

        if self.frames is None:
            yield from tf_batches(
                self.tracks,
                draw,
                start=start,
                first=table.first,
                size=self.decode_size,
                report=self.report,
            )
        step = start
        while self.frames is not None:
            drawn = draw(step)
            yield {"frames": self.frames[drawn.pop("frame")], **drawn}
            step += 1


def make_loader(config: Mapping[str, Any], *, split: str) -> Loader:
    """Builds the loader of a run's training or held-out people.

    Args:
      config: a run's configuration: method, batch_size, seed and data.
      split: 'train' or 'eval'.

    Returns:
      The loader.

    Raises:
      ValueError: for values out of range, or data of which nothing can be used.
      FileNotFoundError: if the data are not there.
    """
    options = config["data"]
    if options["backend"] not in ("memory", "tf"):
        raise ValueError(f"data.backend must be 'memory' or 'tf', got {options['backend']!r}.")
    pairing, size, report = PAIRING[config["method"]], options["decode_size"], Report()
    frames = None
    if options["source"] == "synthetic":
        tracks, all_frames = _synthetic(options, seed=config["seed"], size=size)
    elif options["source"] in FILE_SOURCES:
        if not options["path"]:
            raise ValueError("data.path is empty: set --config.data.path=FOLDER, or data.source='synthetic'.")
        tracks = FILE_SOURCES[options["source"]](
            options["path"],
            identity_depth=options["identity_depth"],
            min_frames=options["min_frames"],
            max_tracks=options["max_tracks"],
        )
    else:
        known = (*FILE_SOURCES, "synthetic")
        raise ValueError(f"data.source must be one of {known}, got {options['source']!r}.")
    train, held = split_people(tracks, eval_fraction=options["eval_fraction"])
    tracks = {"train": train, "eval": held}[split]
    if options["source"] == "synthetic":
        chosen = [int(frame) for track in tracks.frames for frame in track]
        frames = all_frames[chosen]
    elif options["backend"] == "memory":
        check_memory(tracks, size=size, limit_gb=options["memory_gb"])
        tracks, frames = decode_all(tracks, size=size, report=report)
    check_pairing(tracks, pairing=pairing)
    return Loader(tracks, frames, config["batch_size"], pairing, config["seed"], size, report)


def batch_shapes(config: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Says what the batches of a configuration are, over all processes, without any data.

    Args:
      config: a run's configuration: batch_size and data.decode_size.

    Returns:
      Shape and type of every array of a batch, by name.
    """
    batch, size = config["batch_size"], config["data"]["decode_size"]
    return {
        "frames": jax.ShapeDtypeStruct((batch, 2, size, size, 3), np.uint8),
        "mirror": jax.ShapeDtypeStruct((batch,), np.bool_),
        "track": jax.ShapeDtypeStruct((batch, 2), np.int32),
        "identity": jax.ShapeDtypeStruct((batch, 2), np.int32),
    }


def _synthetic(options: Mapping[str, Any], *, seed: int, size: int) -> tuple[Tracks, np.ndarray]:
    """Draws faces; a track is one person, frames are numbers into the array."""
    drawn = synthetic_tracks(
        seed, identities=options["identities"], frames_per_track=options["frames_per_track"], size=size
    )
    people = np.unique(drawn["identity"])
    names = [f"synthetic-{person:06}" for person in people]
    frames = [[str(i) for i in np.flatnonzero(drawn["identity"] == person)] for person in people]
    return Tracks(frames, names, names, "the synthetic source"), drawn["frames"]
