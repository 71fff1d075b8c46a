"""Builders of any folders of images, and of synthetic faces."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from facecycle_jax.data.prepare.builders.tracks import Example, TrackBuilder
from facecycle_jax.data.prepare.encoding import Source, encode_png, image_sources
from facecycle_jax.data.sources.synthetic import synthetic_tracks


class FacecycleTracks(TrackBuilder):
    """Folders of images; every folder that holds images is a track."""

    name = "facecycle_tracks"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds <identity>/[.../]*.jpg. Every folder that holds images is a track.
    Its first folder names the person (or as many folders as identity_depth). Images in
    manual_dir itself are people of one image each.
    """

    def _sources(self, root: str) -> list[Source]:
        """Lists the folders."""
        return image_sources(root, identity_depth=self.builder_config.identity_depth)


class FacecycleSynthetic(TrackBuilder):
    """Synthetic faces, one track a person, in PNG; nothing is downloaded."""

    name = "facecycle_synthetic"

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        """Splits people by their names."""
        del dl_manager
        people = [
            f"synthetic-{number:06}" for number in range(self.builder_config.identities)
        ]
        return self._by_split(people, people, self._draw)

    def _draw(self, people: list[str]) -> Iterator[Example]:
        """Renders the tracks of some people.

        A track does not depend on the number of other people.
        """
        config = self.builder_config
        size = config.size or 72
        drawn = synthetic_tracks(
            config.seed,
            identities=config.identities,
            frames_per_track=config.frames_per_track,
            size=size,
        )
        for person in people:
            number = int(person.rsplit("-", 1)[1])
            rows = np.flatnonzero(drawn["identity"] == number)
            frames = [encode_png(frame) for frame in drawn["frames"][rows]]
            example = {"identity": person, "track": person, "frames": frames}
            yield person.encode(), example
