"""The config.json of a model folder, checked field by field."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from facecycle_jax.data.images.framing import Framing
from facecycle_jax.errors import ConversionError, shorten
from facecycle_jax.ops.normalisation import MEAN, STD
from facecycle_jax.storage.card_results import check_results
from facecycle_jax.storage.model_card import check_datasets
from facecycle_jax.storage.model_spec import Built, build_model

FORMAT = "facecycle_jax model"
FORMAT_VERSION = 1
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
DTYPES = {"float32": np.float32, "float16": np.float16}
# Bytes; a config.json is about 1 kB, so a larger file is something else.
_MAX_CONFIG = 1 << 20


def input_spec(model: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the images that the networks require.

    Args:
      model: configuration of the networks.

    Returns:
      size in pixels, layout, colour, range, and mean and std of each channel's values.
    """
    return {
        "size": model["image_size"],
        "layout": "NHWC",
        "colour": "RGB",
        "range": [0.0, 1.0],
        "mean": list(MEAN),
        "std": list(STD),
    }


class FolderConfig(NamedTuple):
    """The content of config.json.

    Attributes:
      info: all of it; `model` is completed.
      built: the model configuration and its networks.
    """

    info: dict[str, Any]
    built: Built


def read_config(folder: epath.Path) -> FolderConfig:
    """Reads config.json and checks every field that the program uses.

    Args:
      folder: the model folder.

    Returns:
      Its content, and the networks that it describes.

    Raises:
      FileNotFoundError: If there is no such folder, or no config.json in it.
      ConversionError: If it is not a model folder or a field is wrong, in one sentence.
    """
    path = folder / CONFIG
    if not folder.exists():
        raise FileNotFoundError(f"No model folder {folder}.")

    # What users give instead, with the command that makes a model folder of it.
    if not folder.is_dir():
        raise ConversionError(
            f"{folder} is a file, not a model folder; a checkpoint of the original "
            f"program becomes one by `facecycle import-torch {folder} --out DIR`."
        )
    if (folder / "checkpoints").is_dir():
        raise ConversionError(
            f"{folder} is the directory of a training run; make a model folder of it "
            f"with `facecycle export {folder} --out DIR`."
        )

    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}, so it is not a model folder: name one that "
            "`facecycle export` made, the workdir of a run, or a bundled model."
        )

    # RecursionError: json of deeply nested lists.
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG + 1)
        if len(content) > _MAX_CONFIG:
            raise ConversionError(f"it is larger than {_MAX_CONFIG} bytes")

        config = json.loads(content)
        if type(config) is not dict or config.get("format") != FORMAT:
            raise ConversionError(f"its format is not {FORMAT!r}")

        built = _check_config(config)
    except (ConversionError, OSError, ValueError, RecursionError) as error:
        reason = str(error).rstrip(".").replace("\n", " ")[:300]
        raise ConversionError(f"{path} does not describe a model: {reason}.") from None

    return FolderConfig({**config, "model": built.model}, built)


def _check_config(config: Mapping[str, Any]) -> Built:
    """Checks all fields and builds the networks; `read_config` ends the sentences."""
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise ConversionError(f"its format_version is {shorten(version)}")
    if version > FORMAT_VERSION:
        raise ConversionError(
            f"its format_version is {version}, newer than {FORMAT_VERSION}: update the "
            "package"
        )

    built = build_model(config.get("model"))

    if config.get("stages") not in (["motion"], ["motion", "identity"]):
        raise ConversionError(
            "its stages are neither ['motion'] nor ['motion', 'identity']"
        )

    images = config.get("input")
    if type(images) is not dict:
        raise ConversionError("it has no input specification")
    for name, value in input_spec(built.model).items():
        found = images.get(name)
        if found != value:
            raise ConversionError(
                f"input.{name} is {json.dumps(found)[:80]}, this program has {value}"
            )

    # Folders of earlier versions have no framing.
    if "framing" in config:
        Framing.from_dict(config["framing"])

    # Only for the card.
    if "datasets" in config:
        check_datasets(config["datasets"])
    if "results" in config:
        check_results(config["results"])

    weights = config.get("weights")
    if type(weights) is not dict or weights.get("file") != WEIGHTS:
        raise ConversionError(f"weights.file is not {WEIGHTS!r}")
    dtype = weights.get("dtype")
    if type(dtype) is not str or dtype not in DTYPES:
        raise ConversionError(f"weights.dtype is not one of {sorted(DTYPES)}")

    texts = {
        "weights.sha256": weights.get("sha256"),
        "licence": config.get("licence"),
        "source": config.get("source"),
    }
    for name, text in texts.items():
        if type(text) is not str or not text:
            raise ConversionError(f"{name} is {shorten(text)}, not a text")

    return built
