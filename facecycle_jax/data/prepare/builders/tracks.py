"""What the builders of tracks share.

One example is one track with its encoded frames, split by person.
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
from facecycle_jax.data.prepare.workers import Work, collect_left_out, prepare_all
from facecycle_jax.data.sources.record_index import TRACKS, write_index
from facecycle_jax.data.sources.tracks import make_tracks, split_people
from facecycle_jax.errors import UserError

# Beside the shards while they are made.
_PARTS = "left_out.parts"
# The key is bytes, because names of folders may hold bytes that are not UTF-8.
Example = tuple[bytes, dict[str, Any]]


@dataclasses.dataclass(eq=False)
class TrackConfig(tfds.core.BuilderConfig):
    """Options of a set of tracks.

    Attributes:
      name: of the configuration; a folder of the data.
      eval_fraction: share of the people in the split `eval`; 0: all in `train`.
      min_frames: fewest frames of a track.
      max_frames: most frames of a track, evenly spread; 0: all.
      fps: frames a second taken of videos.
      size: side in pixels to which frames are cut square and resized; 0: as they are.
      crop: find the face and cut it out first (extra `face`).
      cut: left, top and side of a square, see `FrameOptions`; () is none.
      identity_depth: folders that name a person, of the builder of folders.
      identities: people, of synthetic faces.
      frames_per_track: pictures of each, of synthetic faces.
      seed: of synthetic faces.
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

    def frame_options(self) -> FrameOptions:
        """Collects what concerns single frames."""
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

    With beam options in the DownloadConfig Apache Beam prepares the tracks, else
    `workers` processes do.

    Attributes:
      workers: processes that prepare tracks.
      uses_beam: whether Apache Beam does.
      empty_splits: names of the splits that are not written, because no track is left
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
            description=f"{type(self).__doc__} One example is one track with its encoded frames.",
            supervised_keys=None,
        )

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the set and indexes it; what is there already is not done again.

        Args:
          **options: those of TFDS.
        """
        given = options.get("download_config")
        self.uses_beam = bool(given and (given.beam_runner or given.beam_options))
        try:
            super().download_and_prepare(**options)
        except AssertionError as error:
            # Beam's splits are not looked into before they are written.
            if "No examples" not in str(error):
                raise
            raise self._nothing_left() from error
        folder = pathlib.Path(self.data_path)
        is_records = self.info.file_format == tfds.core.FileFormat.TFRECORD
        if is_records and not (folder / TRACKS).exists():
            shards = [
                name
                for split in self.info.splits.values()
                for name in sorted(split.filenames)
            ]
            write_index(folder, shards, left_out=collect_left_out(folder / _PARTS))
        # What stopped runs left: their notes, finished tracks and unfinished folders.
        stale = [
            folder / _PARTS,
            self._finished(),
            *folder.parent.glob(f"incomplete.*_{folder.name}"),
        ]
        for path in stale:
            shutil.rmtree(path, ignore_errors=True)

    def _finished(self) -> pathlib.Path:
        """Names the folder for tracks that a stopped run has finished."""
        return pathlib.Path(self.data_dir_root) / f".{self.name}.finished"

    def _nothing_left(self) -> UserError:
        """Says that a split, or the whole set, would be empty."""
        config = self.builder_config
        return UserError(
            f"{self.name}: no track of the train or the eval split has {config.min_frames} "
            "or more frames that can be read; see --min-frames and --eval-fraction."
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
        """Deals items to the splits by their people."""
        numbered = [
            (person, f"{number:012}", [number]) for number, person in enumerate(people)
        ]
        tracks = make_tracks(numbered, origin=f"{self.name}'s raw data")
        train, held = split_people(
            tracks, eval_fraction=self.builder_config.eval_fraction
        )
        splits = (
            {"train": train, "eval": held} if held is not train else {"train": train}
        )

        generators = {}
        for split, chosen in splits.items():
            examples = generate([items[int(frames[0])] for frames in chosen.frames])
            # TFDS stops at the very end if a split turns out to be empty, so the first
            # example is made now.
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

        make = functools.partial(_prepare, work=work, min_frames=config.min_frames)
        return beam.Create(sources) | beam.Reshuffle() | beam.FlatMap(make)


def _prepare(source: Source, *, work: Work, min_frames: int) -> list[Example]:
    """Prepares a track; none if too little is left of it."""
    return _example(source, work(source), min_frames)


def _local(
    sources: list[Source], work: Work, workers: int, min_frames: int
) -> Iterator[Example]:
    """Prepares tracks on this machine."""
    for source, prepared in prepare_all(sources, work, workers=workers):
        yield from _example(source, prepared, min_frames)


def _example(source: Source, prepared: Prepared, min_frames: int) -> list[Example]:
    """Makes the example of a track; none if too little is left of it."""
    if len(prepared.frames) < max(1, min_frames):
        return []
    name = os.fsencode(source.name)
    example = {
        "identity": os.fsencode(source.identity),
        "track": name,
        "frames": list(prepared.frames),
    }
    return [(name, example)]
