"""A model as a folder of three files: config.json, weights.safetensors, README.md.

Weights have flat names such as 'motion_encoder/features/conv1_1/kernel'. They are
stored as float32 or float16 and read as float32. Of a VGG-19, the folder holds only
what the networks need, conv1_1 .. conv3_1.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from facecycle_jax._version import __version__
from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.errors import ConversionError, UserError, shorten
from facecycle_jax.files import check_new, new_folder
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceNetworks
from facecycle_jax.storage.card_results import check_distinct, check_results
from facecycle_jax.storage.folder_config import (
    CONFIG,
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS,
    input_spec,
    read_config,
)
from facecycle_jax.storage.model_card import check_datasets, model_card
from facecycle_jax.storage.model_spec import (
    STAGES,
    Shapes,
    build_model,
    count_parameters,
    flatten,
    nest,
    network_shapes,
)

CARD = "README.md"
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16"}


class ModelFolder(NamedTuple):
    """What a model folder holds.

    Attributes:
      model: configuration: width, image_size, code_dim, dtype, trunk, perhaps
        encoder_width and, of a 'vgg' trunk, vgg_width.
      trees: nested dicts of float32 numpy arrays by network name.
      info: the whole content of config.json, which adds stages, input, licence, source,
        weights, package_version and perhaps framing, datasets and results.
      networks: the networks that the configuration describes.
    """

    model: dict[str, Any]
    trees: dict[str, Tree]
    info: dict[str, Any]
    networks: FaceNetworks


def write_model(
    folder: epath.PathLike,
    trees: Mapping[str, Tree],
    *,
    model: Mapping[str, Any],
    licence: str,
    source: str,
    dtype: str = "float32",
    framing: Framing = FRAMING,
    datasets: Sequence[str] = (),
    results: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes a model folder; it appears whole or not at all.

    Args:
      folder: the folder to make, local or in the cloud (gs://).
      trees: parameters by network name: motion_encoder, flow_decoder, generator,
        perhaps identity_encoder and normaliser, and 'vgg' or 'trunk' as the model has
        it. Layers of the VGG-19 beyond conv3_1 are left out.
      model: configuration of the networks: width, image_size, code_dim, dtype, trunk
        and perhaps encoder_width and, of a 'vgg' trunk, vgg_width.
      licence: under which the weights may be used, in words.
      source: where the weights come from, in words.
      dtype: 'float32' or 'float16' (half the size, three decimal digits).
      framing: where the eyes are in the images that the model was trained on.
      datasets: names of the training sets, for the card: 'lfw' or 'user/name'.
      results: figures for the card, see `storage.card_results.read_report`.

    Raises:
      FileExistsError: If the folder exists.
      UserError: If the configuration is out of range, or a weight is missing, unknown,
        of a wrong shape, not finite or too large for float16; also if two results
        cannot be told apart.
    """
    check_new(folder)

    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}.")
    for name, text in (("licence", licence), ("source", source)):
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{name} must be a text that is not blank, got {shorten(text)}."
            )

    # Names, shapes and values of the weights are those of the model.
    checked, networks = build_model(model)
    stages = _stages(trees)
    shapes = network_shapes(networks, stages)
    weights = _select(trees, shapes, DTYPES[dtype])
    data = safetensors.numpy.save(weights, {"format": "np"})

    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "model": checked,
        "stages": stages,
        "input": input_spec(checked),
        "framing": framing.to_dict(),
        "weights": {
            "file": WEIGHTS,
            "dtype": dtype,
            "parameters": count_parameters(shapes),
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        "licence": licence.strip(),
        "source": source.strip(),
    }
    # Fields for the card are left out where there is nothing to show.
    if datasets:
        config["datasets"] = check_datasets(list(datasets))
    if results:
        records = [dict(record) for record in results]
        check_results(records)
        check_distinct(records)
        config["results"] = records

    # config.json comes last, because a folder without it is not a model folder.
    files = {
        WEIGHTS: data,
        CARD: model_card(config, name=epath.Path(folder).name).encode(),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    with new_folder(folder, last=CONFIG) as partial:
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def _stages(names: Mapping[str, Any]) -> list[str]:
    """Returns the stages that the networks belong to."""
    known = {name for stage in STAGES.values() for name in stage} | {"vgg", "trunk"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"{shorten(unknown[0])} is not a network of FaceCycle; those are "
            f"{sorted(known)}."
        )

    identity = any(name in names for name in STAGES["identity"])
    return ["motion", "identity"] if identity else ["motion"]


def _select(
    trees: Mapping[str, Tree], shapes: Shapes, dtype: Any
) -> dict[str, np.ndarray]:
    """Picks the weights a model needs, checked and in the dtype of the file."""
    networks = {name.split("/")[0] for name in shapes}
    flat: dict[str, Any] = {}
    for network in networks & set(trees):
        flat.update(flatten(trees[network], f"{network}/"))

    # Layers of the VGG-19 that only the loss needs are left out without complaint.
    extra = {name for name in flat if name.startswith("vgg/") and name not in shapes}
    found = {name: np.shape(flat[name]) for name in flat if name not in extra}
    _compare(found, shapes)

    weights = {}
    for name in shapes:
        with np.errstate(over="ignore"):
            weights[name] = np.ascontiguousarray(flat[name], dtype)

        # Values that were finite before were too large for float16.
        if not np.isfinite(weights[name]).all():
            reason = "holds values that are not finite"
            if np.isfinite(np.asarray(flat[name], np.float64)).all():
                reason = f"holds values too large for {np.dtype(dtype).name}"
            raise ConversionError(f"{name} {reason}.")

    return weights


def _compare(found: Mapping[str, tuple[int, ...]], expected: Shapes) -> None:
    """Compares names and shapes, and names the first that differs."""
    for name, shape in expected.items():
        if name not in found:
            raise ConversionError(f"{name} of shape {shape} is missing.")
        if tuple(found[name]) != shape:
            raise ConversionError(
                f"{name} has shape {tuple(found[name])}, the model needs {shape}."
            )

    for name in found:
        if name not in expected:
            raise ConversionError(f"{shorten(name)} is not a weight of the model.")


def read_model(folder: epath.PathLike) -> ModelFolder:
    """Reads a model folder and checks it: checksum, names and shapes.

    Args:
      folder: a folder of `write_model`, local or in the cloud (gs://).

    Returns:
      Configuration, weights and what else config.json holds.

    Raises:
      FileNotFoundError: If there is no such folder or it lacks a file.
      UserError: If a file is damaged or wrong, in one sentence that names the file.
    """
    folder = epath.Path(folder)
    info, built = read_config(folder)
    path = folder / WEIGHTS

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}, so it is not a whole model folder."
        ) from None
    except OSError as error:
        raise ConversionError(f"{path} cannot be read ({error.strerror}).") from None

    digest = hashlib.sha256(data).hexdigest()
    if digest != info["weights"]["sha256"]:
        expected = shorten(info["weights"]["sha256"])
        raise ConversionError(
            f"{path} is damaged: its sha256 is {digest!r}, {CONFIG} says {expected}."
        )

    shapes = network_shapes(built.networks, info["stages"])
    try:
        weights = _parse_weights(data, info, shapes)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None

    return ModelFolder(
        model=built.model,
        trees=nest(weights),
        info=info,
        networks=built.networks,
    )


def _parse_weights(
    data: bytes, info: Mapping[str, Any], shapes: Shapes
) -> dict[str, np.ndarray]:
    """Turns the bytes of a safetensors file into the model's arrays."""
    try:
        found = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ConversionError(
            f"it is not a safetensors file ({shorten(str(error))})."
        ) from None

    _compare({name: tuple(part["shape"]) for name, part in found.items()}, shapes)

    dtype = info["weights"]["dtype"]
    weights = {}
    for name, shape in shapes.items():
        part = found[name]
        if _SAFETENSORS_DTYPES.get(part["dtype"]) != dtype:
            kind = shorten(part["dtype"])
            raise ConversionError(f"{name} holds {kind}, {CONFIG} says {dtype}.")

        # safetensors gives the bytes; whatever the file's dtype, the model is float32.
        stored = np.frombuffer(part["data"], DTYPES[dtype])
        weights[name] = stored.astype(np.float32, copy=False).reshape(shape)
        if not np.isfinite(weights[name]).all():
            raise ConversionError(f"{name} holds values that are not finite.")

    return weights
