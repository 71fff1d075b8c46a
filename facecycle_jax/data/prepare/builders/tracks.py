"""Base class of the builders of tracks.

One example is one track with its encoded frames. Splits are by person.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_datasets as tfds

from facecycle_jax.data.images.framing import read_cut
from facecycle_jax.data.prepare.encoding import FrameOptions, Prepared, Source
from facecycle_jax.data.prepare.lock import locked
from facecycle_jax.data.prepare.workers import Work, collect_left_out, prepare_all
from facecycle_jax.data.sources.record_index import (
    FRAMES,
    LEFT_OUT,
    TRACKS,
    write_index,
)
from facecycle_jax.data.sources.tracks import make_tracks, split_people
from facecycle_jax.errors import UserError

# Folder alongside the shards while they are written.
_PARTS = "left_out.parts"
# The key is bytes, because names of folders may hold bytes that are not UTF-8.
Example = tuple[bytes, dict[str, Any]]


@dataclasses.dataclass(eq=False)
class TrackConfig(tfds.core.BuilderConfig):
    """Options of a set of tracks.

    Attributes:
      name: name of the configuration and of its folder.
      eval_fraction: fraction of the people in the split `eval`; 0: all in `train`.
      min_frames: smallest number of frames of a track; images in the root itself are
        always kept.
      max_frames: largest number of frames of a track, evenly spread; 0: all.
      fps: frames per second taken from videos.
      size: side in pixels to which frames are centre-cropped and resized; 0: unchanged.
      crop: whether the face is found and cut out first (extra `face`).
      cut: left, top and side of a square, see `FrameOptions`; (): none.
      identity_depth: number of folders that name a person (builder of folders).
      identities: number of people (synthetic faces).
      frames_per_track: number of images of each person (synthetic faces).
      seed: seed of the people (synthetic faces).
    """

    name: str = "default"
    eval_fraction: float = 0.02
    min_frames: int = 1
    max_frames: int = 0
    fps: float = 5.0
    size: int = 0
    crop: bool = False
    cut: tuple[float, ...] = ()
    identity_depth: int = 1
    identities: int = 64
    frames_per_track: int = 16
    seed: int = 0

    def check(self) -> None:
        """Checks the options.

        Raises:
          UserError: If one is out of range; the message names it as `facecycle prepare`
            does.
        """
        for name in ("min_frames", "identity_depth", "identities", "frames_per_track"):
            value = getattr(self, name)
            if value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} must be at least 1, got {value}.")

        if 0 < self.max_frames < self.min_frames:
            raise UserError(
                f"--max-frames {self.max_frames} leaves fewer frames of a track than "
                f"--min-frames {self.min_frames} asks for: no track would be kept."
            )

        if not 0 <= self.eval_fraction < 1:
            raise UserError(
                f"--eval-fraction must be from 0 to below 1, got {self.eval_fraction}."
            )

        self.frame_options()

    def frame_options(self) -> FrameOptions:
        """Returns the options of single frames."""
        cut = read_cut(self.cut) if self.cut else None
        return FrameOptions(
            fps=self.fps,
            max_frames=self.max_frames,
            size=self.size,
            crop=self.crop,
            cut=cut,
        )


class TrackBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes tracks as TFRecord and indexes them; subclasses list the tracks.

    Apache Beam prepares the tracks if the DownloadConfig has Beam options. Otherwise
    `workers` processes do.

    Attributes:
      workers: number of processes that prepare tracks.
      uses_beam: whether Apache Beam prepares them.
      empty_splits: names of the splits that are not written because no track is left
        for them.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[TrackConfig]] = [
        TrackConfig(description="All frames, as they are.")
    ]
    builder_config_cls = TrackConfig
    workers = 1
    uses_beam = False
    empty_splits: tuple[str, ...] = ()

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        text = tfds.features.Text
        frames = tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=tf.string))

        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"identity": text(), "track": text(), "frames": frames}
            ),
            description=(
                f"{type(self).__doc__} One example is one track with its encoded "
                "frames."
            ),
            supervised_keys=None,
        )

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the set and indexes it; finished parts are not repeated.

        Args:
          **options: options of TFDS.

        Raises:
          UserError: If an option is out of range, the set would be written to a bucket,
            no track is left, or another run prepares the same configuration.
        """
        self.builder_config.check()
        with locked(os.path.dirname(os.fspath(self.data_path))) as is_locked:
            self._prepare(is_locked=is_locked, **options)

    def _prepare(self, *, is_locked: bool, **options: Any) -> None:
        """Prepares the set, indexes it and removes what stopped runs left."""
        given = options.get("download_config")
        self.uses_beam = bool(given and (given.beam_runner or given.beam_options))
        try:
            super().download_and_prepare(**options)
        except AssertionError as error:
            # Splits of Beam are not checked before they are written.
            if "No examples" not in str(error):
                raise
            raise self._nothing_left() from error

        folder = pathlib.Path(self.data_path)
        is_records = self.info.file_format == tfds.core.FileFormat.TFRECORD
        is_indexed = (folder / TRACKS).exists() and (folder / FRAMES).exists()
        if is_records and not is_indexed:
            shards: list[str] = []
            for split in self.info.splits.values():
                shards += sorted(split.filenames)

            write_index(folder, shards, left_out=_left_out(folder))

        # Remove what stopped runs of this configuration left: notes, finished tracks
        # and, if no other run can be at work, unfinished folders.
        stale = [folder / _PARTS, self._finished()]
        if is_locked:
            stale += folder.parent.glob(f"incomplete.*_{folder.name}")
        for path in stale:
            shutil.rmtree(path, ignore_errors=True)

    def _finished(self) -> pathlib.Path:
        """Names the folder of tracks that a stopped run has finished."""
        name = f".{self.name}.{self.builder_config.name}.finished"
        return pathlib.Path(self.data_dir_root) / name

    def _nothing_left(self) -> UserError:
        """Builds the error of a set that would be empty."""
        config = self.builder_config
        return UserError(
            f"{self.name}: no track of the train or the eval split has "
            f"{config.min_frames} or more frames that can be read; see --min-frames "
            "and --eval-fraction."
        )

    def _sources(self, root: str) -> list[Source]:
        """Lists the tracks of the raw data."""
        raise NotImplementedError

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        """Splits by person, as the other sources do."""
        sources = self._sources(str(dl_manager.manual_dir))
        return self._by_split(
            [source.identity for source in sources], sources, self._generate_examples
        )

    def _by_split(
        self, people: list[str], items: list[Any], generate: Callable[[list[Any]], Any]
    ) -> dict[str, Any]:
        """Assigns items to the splits by their people."""
        # Tracks whose only frame is the item's number, so that people are split here as
        # in every source.
        numbered = [
            (person, f"{number:012}", [number]) for number, person in enumerate(people)
        ]
        tracks = make_tracks(numbered, origin=f"{self.name}'s raw data")
        fraction = self.builder_config.eval_fraction
        try:
            train, held = split_people(tracks, eval_fraction=fraction)
        except UserError:
            # The message names a field of training. The range is checked before, so
            # people are too few.
            raise UserError(
                f"{self.name}'s raw data has {len(set(people))} people, too few to "
                f"hold out the share --eval-fraction {fraction:g}, at least two, and "
                "to keep two; give a smaller one, or 0 for no split eval."
            ) from None

        splits = {"train": train}
        if held is not train:
            splits["eval"] = held

        generators = {}
        for split, chosen in splits.items():
            examples = generate([items[int(frames[0])] for frames in chosen.frames])

            # TFDS fails at the very end if a split is empty, so the first example is
            # prepared now.
            if isinstance(examples, Iterator):
                first = next(examples, None)
                if first is None:
                    self.empty_splits += (split,)
                    continue
                examples = itertools.chain([first], examples)

            generators[split] = examples

        if not generators:
            raise self._nothing_left()

        return generators

    def _generate_examples(self, sources: list[Source]) -> Any:
        """Prepares tracks."""
        config = self.builder_config
        parts = pathlib.Path(self.data_path) / _PARTS
        work = Work(config.frame_options(), str(parts), str(self._finished()))
        if not self.uses_beam:
            return _local(sources, work, self.workers, config.min_frames)

        import apache_beam as beam

        # Reshuffling spreads the tracks over all workers.
        make = functools.partial(_prepare, work=work, min_frames=config.min_frames)

        return beam.Create(sources) | beam.Reshuffle() | beam.FlatMap(make)


def _left_out(folder: pathlib.Path) -> list[str]:
    """Reads the lines about what was left out, also after the notes are removed."""
    notes = folder / _PARTS
    listed = folder / LEFT_OUT
    if notes.is_dir() or not listed.exists():
        return collect_left_out(notes)
    return listed.read_text(encoding="utf-8").splitlines()


def _prepare(source: Source, *, work: Work, min_frames: int) -> list[Example]:
    """Prepares a track; returns no example if too few frames are left."""
    return _example(source, work(source), work, min_frames)


def _local(
    sources: list[Source], work: Work, workers: int, min_frames: int
) -> Iterator[Example]:
    """Prepares tracks in processes of this machine."""
    for source, prepared in prepare_all(sources, work, workers=workers):
        yield from _example(source, prepared, work, min_frames)


def _example(
    source: Source, prepared: Prepared, work: Work, min_frames: int
) -> list[Example]:
    """Builds the example of a track; notes it and returns none if it is too short."""
    # A track without frames is noted already.
    count = len(prepared.frames)
    if not count:
        return []

    # Images in the root itself are kept, as by `data.source='folder'`.
    if count < min_frames and not source.is_single:
        line = (
            f"{source.path}: the track has fewer frames that can be read ({count}) "
            f"than --min-frames ({min_frames})."
        )
        lines = (*prepared.left_out, line)
        work.note(source, dataclasses.replace(prepared, left_out=lines))
        return []

    name = os.fsencode(source.name)
    example = {
        "identity": os.fsencode(source.identity),
        "track": name,
        "frames": list(prepared.frames),
    }

    return [(name, example)]
