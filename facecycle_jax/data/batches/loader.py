"""The loader: from a configuration to batches.

A batch holds frames, uint8 [B, n, S, S, 3], mirror, bool [B], and track and identity,
int32 [B, n]. For pairs n is 2, otherwise `data.item_frames`. Where `mirror` is set, the
second image is to be the mirror image of the first.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from facecycle_jax.data.batches.device_memory import place_frames, resident_batches
from facecycle_jax.data.batches.frame_reader import (
    ReadFrame,
    UnreadableFrames,
    file_reader,
    record_reader,
)
from facecycle_jax.data.batches.host_memory import check_memory, decode_all
from facecycle_jax.data.batches.sampling import (
    Items,
    check_items,
    check_pairing,
    draw_items,
    draw_pairs,
    items_of,
    make_table,
)
from facecycle_jax.data.batches.tf_pipeline import tf_batches
from facecycle_jax.data.batches.thread_pipeline import thread_batches
from facecycle_jax.data.sources.folder import by_root, read_list, roots_of, scan_folder
from facecycle_jax.data.sources.records import open_records
from facecycle_jax.data.sources.synthetic import synthetic_tracks
from facecycle_jax.data.sources.tracks import Tracks, split_people
from facecycle_jax.errors import UserError

FILE_SOURCES = {"folder": scan_folder, "list": read_list}
SOURCES = (*FILE_SOURCES, "records", "synthetic")
# Backends that read files during training; the others decode all frames beforehand.
PIPELINES = {"tf": tf_batches, "threads": thread_batches}
BACKENDS = ("memory", "device", *PIPELINES)


@dataclasses.dataclass
class Loader:
    """Draws batches from tracks, each process its part.

    Attributes:
      tracks: all tracks.
      frames: decoded frames, uint8 [frames, S, S, 3], or None where they are read
        during training.
      batch_size: items over all processes.
      pairing: 'same' or 'different'.
      seed: seed of the draws.
      decode_size: side of a frame in pixels, S.
      report: collects the frames that cannot be read.
      mirrored: probability that a frame is paired with its own mirror image, [tracks]
        or one number.
      backend: 'memory', 'device' (see `resident_batches`), or one of `PIPELINES`,
        which read during training.
      read: reads a frame, where `frames` is None.
      items: what an item is, where it is not a pair.
    """

    tracks: Tracks
    frames: np.ndarray | None
    batch_size: int
    pairing: str
    seed: int
    decode_size: int
    report: UnreadableFrames
    mirrored: np.ndarray | float = 0.0
    backend: str = "memory"
    read: ReadFrame | None = None
    items: Items | None = None

    @property
    def num_tracks(self) -> int:
        """Number of tracks, over all processes."""
        return len(self.tracks)

    def on_devices(
        self, mesh: jax.sharding.Mesh
    ) -> Callable[[int], Iterator[dict[str, jax.Array]]] | None:
        """Places the frames on the devices if the backend is 'device'.

        Args:
          mesh: as `devices.make_mesh` builds it.

        Returns:
          None for other backends. Otherwise `batches(start)`, which yields the batches
          of steps start, start + 1, ... of all processes without end. They are drawn
          and gathered on the devices.
        """
        if self.backend != "device" or self.frames is None:
            return None

        # The table is small and lies whole on every device; the frames are split.
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        table = jax.device_put(make_table(self.tracks, mirrored=self.mirrored), whole)
        frames = place_frames(self.frames, mesh)

        draw = resident_batches(
            mesh,
            batch_size=self.batch_size,
            pairing=self.pairing,
            seed=self.seed,
            items=self.items,
        )

        def batches(start: int) -> Iterator[dict[str, jax.Array]]:
            # The step is counted on the devices, so that nothing is sent to them.
            step = jax.device_put(np.uint32(start), whole)
            while True:
                step, batch = draw(step, table, frames)
                yield batch

        return batches

    @property
    def unreadable(self) -> dict[str, str]:
        """Reasons, by frame, why this process has left out images so far."""
        return {str(frame): reason for frame, reason in self.report.unreadable.items()}

    def fingerprint(self) -> dict[str, str]:
        """Describes the tracks that batches are drawn from, to compare processes.

        Returns:
          Numbers and digests by 'tracks', 'people', 'frames' and 'mirrored'. They are
          equal if the same batches are drawn. The folder that holds the data does not
          count.
        """
        tracks = self.tracks
        # Names are those below the root, so a copy elsewhere has the same digests.
        names = _digest(tracks.names)
        people = _digest(tracks.identities)

        counts = [len(frames) for frames in tracks.frames]
        files = _digest(
            "/".join(os.path.basename(str(frame)) for frame in frames)
            for frames in tracks.frames
        )

        mirrored = np.broadcast_to(np.asarray(self.mirrored, np.float64), len(tracks))
        probabilities = _digest(map(str, mirrored.tolist()))

        return {
            "tracks": f"{len(tracks)}, digest {names}",
            "people": f"{len(set(tracks.identities))}, digest {people}",
            "frames": f"{sum(counts)}, digest {files}",
            "mirrored": f"{mirrored.mean():g} on average, digest {probabilities}",
        }

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of the batches from step `start` on, without end.

        Args:
          start: first step.

        Yields:
          The arrays of a batch, by name, of the items of this process.
        """
        table = make_table(self.tracks, mirrored=self.mirrored)

        # Every process draws the whole batch and keeps its own items.
        part = self.batch_size // jax.process_count()
        mine = slice(part * jax.process_index(), part * (jax.process_index() + 1))
        cpu = jax.local_devices(backend="cpu")[0]

        # On the CPU: a draw takes microseconds and must not wait for the training step.
        def draw(step: int) -> dict[str, np.ndarray]:
            with jax.default_device(cpu), jax.transfer_guard("allow"):
                options = {"batch_size": self.batch_size, "seed": self.seed}
                if self.items is None:
                    drawn = draw_pairs(
                        np.uint32(step), table, pairing=self.pairing, **options
                    )
                else:
                    drawn = draw_items(
                        np.uint32(step), table, items=self.items, **options
                    )

                return {name: np.asarray(value)[mine] for name, value in drawn.items()}

        def draw_positions(step: int) -> dict[str, np.ndarray]:
            drawn = draw(step)
            frame = drawn.pop("frame")
            return {"position": frame - table.first[drawn["track"]], **drawn}

        if self.frames is None and self.read is not None:
            yield from PIPELINES[self.backend](
                self.tracks,
                draw_positions,
                start=start,
                size=self.decode_size,
                read=self.read,
                report=self.report,
            )

        step = start
        while self.frames is not None:
            drawn = draw(step)
            yield {"frames": self.frames[drawn.pop("frame")], **drawn}
            step += 1


def _digest(texts: Iterable[str]) -> str:
    """Computes a short digest of texts in their order."""
    digest = hashlib.sha256()

    # A file name need not be valid UTF-8; the zero byte keeps texts apart.
    for text in texts:
        digest.update(text.encode(errors="surrogateescape") + b"\0")

    return digest.hexdigest()[:16]


class _Source(NamedTuple):
    """A source of tracks that was listed once.

    Attributes:
      train: tracks of the people to train on.
      held_out: tracks of the other people; the same object as `train` if none are held
        out.
      read: reads a frame; None if all frames are in memory.
      frames: all frames, uint8 [F, S, S, 3], if they are in memory; tracks hold their
        indices.
    """

    train: Tracks
    held_out: Tracks
    read: ReadFrame | None
    frames: np.ndarray | None


def make_loaders(config: Mapping[str, Any]) -> tuple[Loader, Loader]:
    """Builds the loaders of a run's training and held-out people.

    The data are listed once, so that nobody is in both splits even if the data change
    meanwhile. If no people are held out, both loaders share their frames in host
    memory.

    Args:
      config: a run's configuration: method, batch_size, seed and data.

    Returns:
      The loader of the people to train on, and that of the held-out people.

    Raises:
      UserError: If a value is out of range, or no part of the data can be used.
      FileNotFoundError: If the data are missing.
      OSError: If the storage does not deliver a file.
    """
    source = _open_source(config)
    train = _loader(config, source, source.train)
    if source.held_out is source.train:
        return train, _held_out(train)
    return train, _held_out(_loader(config, source, source.held_out))


def make_loader(config: Mapping[str, Any], *, split: str) -> Loader:
    """Builds the loader of a run's training or held-out people.

    A run that needs both calls `make_loaders`.

    Args:
      config: a run's configuration: method, batch_size, seed and data.
      split: 'train' or 'eval'.

    Returns:
      The loader.

    Raises:
      UserError: If a value is out of range, or no part of the data can be used.
      FileNotFoundError: If the data are missing.
      OSError: If the storage does not deliver a file.
    """
    if split not in ("train", "eval"):
        raise UserError(f"split must be 'train' or 'eval', got {split!r}.")

    source = _open_source(config)
    tracks = source.train if split == "train" else source.held_out
    loader = _loader(config, source, tracks)
    return _held_out(loader) if split == "eval" else loader


def _open_source(config: Mapping[str, Any]) -> _Source:
    """Lists the tracks of a configuration and splits them by people."""
    options = config["data"]
    backend = options["backend"]
    if backend not in BACKENDS:
        raise UserError(f"data.backend must be one of {BACKENDS}, got {backend!r}.")

    size = options["decode_size"]
    read: ReadFrame | None = None
    frames: np.ndarray | None = None

    # Synthetic faces come as arrays; frames of all other sources are read.
    if options["source"] == "synthetic":
        tracks, frames = _synthetic(options, seed=config["seed"], size=size)
    else:
        tracks, read = _stored(options, size=size)
        # Both splits lie in memory at the same time.
        if backend not in PIPELINES:
            check_memory(tracks, size=size, limit_gb=options["memory_gb"])

    train, held_out = split_people(tracks, eval_fraction=options["eval_fraction"])

    return _Source(train=train, held_out=held_out, read=read, frames=frames)


def _loader(config: Mapping[str, Any], source: _Source, tracks: Tracks) -> Loader:
    """Builds the loader of some of a source's tracks, to train on."""
    options = config["data"]
    backend = options["backend"]
    pairing = _pairing(config)
    report = UnreadableFrames()

    frames: np.ndarray | None = None
    if source.frames is not None:
        chosen = [int(frame) for track in tracks.frames for frame in track]
        frames = source.frames[chosen]
    elif source.read is not None and backend not in PIPELINES:
        tracks, frames = decode_all(
            tracks, read=source.read, report=report, min_frames=options["min_frames"]
        )

    items = items_of(options)
    if items is None:
        check_pairing(tracks, pairing=pairing)
    else:
        check_items(tracks, items)

    return Loader(
        tracks=tracks,
        frames=frames,
        batch_size=config["batch_size"],
        pairing=pairing,
        seed=config["seed"],
        decode_size=options["decode_size"],
        report=report,
        mirrored=_mirrored(tracks, options),
        backend=backend,
        read=source.read,
        items=items,
    )


def _held_out(loader: Loader) -> Loader:
    """Returns a loader of held-out people with the pairs that evaluations use.

    Tracks that are only ever paired with mirror images stay so. All others pair two
    different frames.
    """
    mirrored = np.where(np.asarray(loader.mirrored) == 1, 1.0, 0.0)
    return dataclasses.replace(loader, mirrored=mirrored)


def _stored(options: Mapping[str, Any], *, size: int) -> tuple[Tracks, ReadFrame]:
    """Opens a source on disk and returns its tracks and the reader of their frames."""
    source = options["source"]
    decoder = options.get("decoder", "pillow")

    if source not in SOURCES:
        raise UserError(f"data.source must be one of {SOURCES}, got {source!r}.")

    if not options["path"]:
        raise UserError(
            "data.path is empty: set it with --set data.path=FOLDER (of a launcher: "
            "--config.data.path=FOLDER), or data.source='synthetic'."
        )

    limits = {"min_frames": options["min_frames"], "max_tracks": options["max_tracks"]}
    if source == "records":
        tracks, records = open_records(options["path"], **limits)
        return tracks, record_reader(records, decoder, size=size)

    tracks = FILE_SOURCES[source](
        options["path"], identity_depth=options["identity_depth"], **limits
    )

    return tracks, file_reader(decoder, size=size)


def _pairing(config: Mapping[str, Any]) -> str:
    """Returns whose images a method pairs: those of one track, or of two people."""
    loss = config.get("loss", {})
    same_person = loss.get("exchange_identity") or loss.get("contrast_weight")
    of_one = config["method"] == "motion_cycle" or bool(same_person)
    return "same" if of_one else "different"


def _mirrored(tracks: Tracks, options: Mapping[str, Any]) -> np.ndarray:
    """Returns the probability of mirror-image pairs for each track, [tracks]."""
    option = options.get("mirror_pair_probability", 0.5)
    values = np.atleast_1d(np.asarray(option, np.float64))
    if not ((values >= 0) & (values <= 1)).all():
        raise UserError(
            f"data.mirror_pair_probability must be from 0 to 1, got {values.tolist()}."
        )

    if len(values) == 1:
        return np.full(len(tracks), values[0])

    # Several numbers: one for each folder of data.path.
    if options["source"] != "folder":
        raise UserError(
            f"data.mirror_pair_probability has {len(values)} numbers: with "
            f"data.source={options['source']!r} give one for all."
        )
    roots = len(roots_of(options["path"]))
    if len(values) != roots:
        raise UserError(
            f"data.mirror_pair_probability has {len(values)} numbers and data.path "
            f"{roots} folders: give one number for all, or one for each folder."
        )

    return by_root(tracks, options["path"], values.tolist())


def batch_shapes(config: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a configuration's batches without reading any data.

    Args:
      config: a run's configuration: batch_size and data.decode_size.

    Returns:
      Shape and type of every array of a batch over all processes, by name.
    """
    batch = config["batch_size"]
    size = config["data"]["decode_size"]
    items = items_of(config["data"])
    frames = 2 if items is None else items.frames

    return {
        "frames": jax.ShapeDtypeStruct((batch, frames, size, size, 3), np.uint8),
        "mirror": jax.ShapeDtypeStruct((batch,), np.bool_),
        "track": jax.ShapeDtypeStruct((batch, frames), np.int32),
        "identity": jax.ShapeDtypeStruct((batch, frames), np.int32),
    }


def _synthetic(
    options: Mapping[str, Any], *, seed: int, size: int
) -> tuple[Tracks, np.ndarray]:
    """Renders synthetic faces, one track a person; frames are indices of the array."""
    drawn = synthetic_tracks(
        seed,
        identities=options["identities"],
        frames_per_track=options["frames_per_track"],
        size=size,
        scene_variation=options.get("scene_variation", 1.0),
        motion_variation=options.get("motion_variation", 1.0),
    )
    people = np.unique(drawn["identity"])
    names = [f"synthetic-{person:06}" for person in people]
    frames = [np.flatnonzero(drawn["identity"] == person).tolist() for person in people]

    tracks = Tracks(
        frames=frames, identities=names, names=names, origin="the synthetic source"
    )
    return tracks, drawn["frames"]
