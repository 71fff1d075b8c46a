"""Options of TFDS: where the raw data are, and the engine that prepares a set."""

import shlex

import tensorflow_datasets as tfds

from facecycle_jax.errors import importing


def download_config(
    manual_dir: str | None, *, beam: str | None = None
) -> tfds.download.DownloadConfig:
    """Builds TFDS's options.

    Args:
      manual_dir: folder of the raw data; None for sets that need none.
      beam: options of Apache Beam's pipelines as on a command line; None: without Beam.

    Returns:
      The options.

    Raises:
      MissingExtraError: If Beam is requested and not installed.
    """
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    if beam is not None:
        with importing("--beam needs Apache Beam", extra="beam"):
            from apache_beam.options.pipeline_options import PipelineOptions
        config.beam_options = PipelineOptions(shlex.split(beam))

    return config
