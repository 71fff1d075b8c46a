"""Data: images and tracks in, batches out.

Only `data.backend='tf'` and the builders of `data.prepare` need tensorflow.
"""

from facecycle_jax.data.batches.frame_source import FrameSource
from facecycle_jax.data.batches.loader import (
    Loader,
    batch_shapes,
    make_loader,
    make_loaders,
)
from facecycle_jax.data.images.reading import as_images, list_images, read_image
from facecycle_jax.data.sources.folder import read_list, scan_folder
from facecycle_jax.data.sources.records import open_records
from facecycle_jax.data.sources.synthetic import synthetic_tracks
from facecycle_jax.data.sources.tracks import Tracks, make_tracks, split_people

__all__ = [
    "FrameSource",
    "Loader",
    "Tracks",
    "as_images",
    "batch_shapes",
    "list_images",
    "make_loader",
    "make_loaders",
    "make_tracks",
    "open_records",
    "read_image",
    "read_list",
    "scan_folder",
    "split_people",
    "synthetic_tracks",
]
