"""A static page that runs a model in the browser, with onnxruntime-web.

The page needs no server of ours: it consists of files that any file server can send.
Its content security policy lets the browser load these files and the runtime, and send
nothing.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from facecycle_jax.commands import example_faces
from facecycle_jax.errors import UserError
from facecycle_jax.files import new_folder
from facecycle_jax.inference import functions
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.interop.onnx_program import run_onnx, to_onnx
from facecycle_jax.paths import given_path

_INDEX = "index.html"
_STATIC = (_INDEX, "page.css", "page.js")
_SETTINGS = "settings.json"
_RUNTIME = "runtime"
# Largest difference of a drawn image from the model's, in levels of 255.
_LEVELS_WITHIN = 12
# The part of onnxruntime-web that runs on CPUs: its module and its WebAssembly.
_SCRIPT = "ort.wasm.bundle.min.mjs"
_BINARY = "ort-wasm-simd-threaded.wasm"
_VERSION = "1.30.0"
# A public server of npm packages, and what it must send.
_ADDRESS = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{_VERSION}/dist/"
_SENT = {
    "script": {
        "name": _SCRIPT,
        "bytes": 73_054,
        "integrity": "sha384-"
        "PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    },
    "binary": {
        "name": _BINARY,
        "bytes": 14_239_897,
        "integrity": "sha384-"
        "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    },
}


class Runtime(NamedTuple):
    """Where a page loads onnxruntime-web from.

    Attributes:
      address: as the page names it, ending with a slash.
      files: name, bytes and integrity of script and binary.
      folder: the folder to copy them from, or None for a public server.
    """

    address: str
    files: Mapping[str, Mapping[str, Any]]
    folder: pathlib.Path | None


def find_runtime(folder: str | None) -> Runtime:
    """Finds onnxruntime-web.

    Args:
      folder: the folder in which `npm install onnxruntime-web` was run, its
        node_modules or what is below it; None for a public server.

    Returns:
      The runtime.

    Raises:
      UserError: If the path is empty or an address, or the folder does not hold it.
    """
    if folder is None:
        return Runtime(address=_ADDRESS, files=_SENT, folder=None)

    given = pathlib.Path(given_path(folder, name="--with-runtime"))
    below = ("", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist")
    for name in below:
        found = given / name
        if (found / _SCRIPT).is_file() and (found / _BINARY).is_file():
            files = {
                "script": _describe(found / _SCRIPT),
                "binary": _describe(found / _BINARY),
            }
            return Runtime(address=f"{_RUNTIME}/", files=files, folder=found)

    raise UserError(
        f"{folder} holds no onnxruntime-web: give the folder in which `npm install "
        f"onnxruntime-web@{_VERSION}` was run."
    )


def in_float32(model: FaceCycle) -> FaceCycle:
    """Returns a model that computes in float32: itself, or one of the same weights."""
    if model.model["dtype"] == "float32":
        return model
    return FaceCycle(
        model.trees, model={**model.model, "dtype": "float32"}, info=model.info
    )


def write_page(
    model: FaceCycle,
    folder: epath.PathLike,
    *,
    runtime: Runtime,
    about: Mapping[str, Any],
) -> None:
    """Writes the folder of a page; it appears whole or not at all.

    Args:
      model: the model.
      folder: the folder to make, local or in the cloud.
      runtime: what `find_runtime` returns.
      about: framing, licence and source of the model.

    Raises:
      FileExistsError: If the folder exists.
      MissingExtraError: If a package of the extra `onnx` is not installed.
    """
    programs = _programs(in_float32(model))
    with new_folder(folder, last=_INDEX) as partial:
        described = {}
        for name, content in programs.items():
            file = partial / f"{name}.onnx"
            file.write_bytes(content)
            described[name] = _describe(file)

        if runtime.folder is not None:
            (partial / _RUNTIME).mkdir()
            for name in (_SCRIPT, _BINARY):
                content = (runtime.folder / name).read_bytes()
                (partial / _RUNTIME / name).write_bytes(content)

        pairs = example_faces.write_examples(partial)
        settings = {
            **about,
            "size": model.size,
            "programs": described,
            "runtime": runtime.files,
            "examples": [[pathlib.Path(name).name for name in pair] for pair in pairs],
        }
        text = json.dumps(settings, indent=2) + "\n"
        (partial / _SETTINGS).write_text(text, encoding="utf-8")

        for name in _STATIC:
            text = _static(name)
            if name == _INDEX:
                text = _with_runtime(text, runtime)
            (partial / name).write_text(text, encoding="utf-8")


def _programs(model: FaceCycle) -> dict[str, bytes]:
    """Converts the two programs of the page, for one face each.

    The first encodes a face, and the second draws it with a code. Both are run and
    compared with the model.
    """
    size = model.size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    shapes = jax.eval_shape(
        lambda images: functions.prepare(model.networks, model.trees, images), images
    )

    # The maps go from one program to the other as vectors: jax2onnx turns the axes of
    # outputs that are maps of a convolution.
    def encode(images: jax.Array) -> functions.Arrays:
        found = functions.prepare(
            model.networks, model.trees, images, outputs=("neutral",)
        )
        return {
            "motion_code": found["motion_code"],
            "neutral": found["neutral"],
            "fine": found["conv2_1"].reshape(1, -1),
            "coarse": found["conv3_1"].reshape(1, -1),
        }

    def draw(fine: jax.Array, coarse: jax.Array, codes: jax.Array) -> functions.Arrays:
        return functions.express(
            model.networks,
            model.trees,
            fine.reshape(shapes["conv2_1"].shape),
            coarse.reshape(shapes["conv3_1"].shape),
            codes,
        )

    # What one program gives, the other takes. float16 halves the download.
    given = jax.eval_shape(encode, images)
    taken = {
        "fine": given["fine"],
        "coarse": given["coarse"],
        "codes": given["motion_code"],
    }
    programs = {
        "prepare": to_onnx(
            encode, {"images": images}, outputs=tuple(given), weights="float16"
        ),
        "express": to_onnx(draw, taken, outputs=("expressed",), weights="float16"),
    }
    _check(model, programs)
    return programs


def _check(model: FaceCycle, programs: Mapping[str, bytes]) -> None:
    """Raises RuntimeError if the programs draw other faces than the model."""
    shape = (2, model.size, model.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    prepared = [
        run_onnx(programs["prepare"], {"images": image[None]}) for image in images
    ]
    found = run_onnx(
        programs["express"],
        {
            "fine": prepared[0]["fine"],
            "coarse": prepared[0]["coarse"],
            "codes": prepared[1]["motion_code"],
        },
    )

    # Levels of 255; float16 is less precise than the model.
    pairs = {
        "neutral": (prepared[0]["neutral"], model.neutral(images[:1])),
        "expressed": (found["expressed"], model.reexpress(images[:1], images[1:])),
    }
    for name, (ours, expected) in pairs.items():
        difference = np.abs(ours.astype(np.int32) - expected).max()
        if difference > _LEVELS_WITHIN:
            raise RuntimeError(
                f"the page's program draws another {name}: largest difference "
                f"{difference} levels"
            )


def _describe(file: pathlib.Path) -> dict[str, Any]:
    """Returns name, size and digest of a file, as browsers check it."""
    content = file.read_bytes()
    digest = base64.b64encode(hashlib.sha384(content).digest()).decode()
    return {
        "name": file.name,
        "bytes": len(content),
        "integrity": f"sha384-{digest}",
    }


def _static(name: str) -> str:
    """Reads a file of the page that is part of the package."""
    files = importlib.resources.files("facecycle_jax.commands")
    return (files / "web_page" / name).read_text(encoding="utf-8")


def _with_runtime(text: str, runtime: Runtime) -> str:
    """Writes the runtime's address into the page and its policy."""
    connect = "'self'"
    if runtime.folder is None:
        connect = f"'self' {runtime.address}"

    text = text.replace("@RUNTIME@", html.escape(runtime.address))
    return text.replace("@CONNECT@", connect)
