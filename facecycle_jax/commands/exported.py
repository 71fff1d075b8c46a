"""What `facecycle export` makes besides model folders: programs and Spaces."""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from facecycle_jax.commands import space
from facecycle_jax.errors import UserError
from facecycle_jax.files import check_new, new_folder
from facecycle_jax.inference import functions
from facecycle_jax.inference.face_cycle import FaceCycle, PeerModel, load
from facecycle_jax.interop.stablehlo import run_stablehlo, to_stablehlo
from facecycle_jax.storage.bundled import find_model_folder
from facecycle_jax.storage.folder_config import CONFIG, WEIGHTS
from facecycle_jax.storage.model_folder import CARD

FOLDER = "folder"
NOT_STATED = "not stated"
# File of the program, by format.
_FILES = {"stablehlo": "program.jax_export"}
_INTERFACE = "interface.json"
# Number of images with which a program is compared with the model.
_COMPARED = 3
# Largest differences of codes and flows, and of images in levels of 255, by the
# model's dtype. Compilers order sums differently.
_NUMBERS_WITHIN = {"float32": 1e-2, "bfloat16": 0.1}
_LEVELS_WITHIN = {"float32": 2.0, "bfloat16": 24.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of programs and Spaces."""
    parser.add_argument(
        "--format",
        choices=(FOLDER, *_FILES),
        default=FOLDER,
        help="a model folder, or a program that needs no facecycle_jax "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--outputs",
        help="what a program computes, such as motion_code,identity_code "
        "(default: all that the model has)",
    )
    parser.add_argument(
        "--space", metavar="DIR", help="the folder of a Gradio Space to make"
    )
    parser.add_argument(
        "--package",
        default=space.PACKAGE,
        help="what the Space installs, as pip writes it (default: %(default)s)",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Checks the options before anything is read.

    Args:
      arguments: of `facecycle export`.

    Raises:
      UserError: If options contradict each other.
      FileExistsError: If a folder exists.
    """
    if arguments.out is None and arguments.space is None:
        raise UserError("export needs --out DIR, --space DIR or both.")
    if arguments.format == FOLDER and arguments.outputs is not None:
        raise UserError("--outputs is of programs, such as --format stablehlo.")
    if arguments.format != FOLDER and (arguments.out is None or arguments.space):
        raise UserError(f"--format {arguments.format} needs --out DIR and no --space.")

    # A program, and the Space of a model, have nowhere to keep these.
    of_folders = {
        "--dtype": arguments.dtype != "float32",
        "--licence": arguments.licence != NOT_STATED,
        "--framing": arguments.framing is not None,
        "--dataset": bool(arguments.dataset),
        "--results": bool(arguments.results),
    }
    given = [name for name, is_given in of_folders.items() if is_given]
    makes_one = arguments.format == FOLDER and arguments.out is not None
    if given and not makes_one:
        raise UserError(
            f"{given[0]} is of model folders: make one of the run with --out DIR first."
        )

    for folder in (arguments.out, arguments.space):
        if folder is not None:
            check_new(folder)


def write_space_of(
    model: epath.PathLike,
    folder: epath.PathLike,
    *,
    write_run: Callable[[epath.PathLike], object],
    package: str,
) -> None:
    """Writes the Space of a training run or a model.

    Args:
      model: the run or model.
      folder: the folder to make.
      write_run: writes the model folder of the training run.
      package: see `space.write_space`.

    Raises:
      FileNotFoundError: If there is neither a run nor a model.
      UserError: If it cannot be read.
      FileExistsError: If the folder exists.
    """
    found = find_model_folder(model)

    def write_model_folder(place: pathlib.Path) -> None:
        if found is None:
            write_run(place)
            return

        place.mkdir()
        for name in (CONFIG, WEIGHTS, CARD):
            if (found / name).exists():
                (place / name).write_bytes((found / name).read_bytes())

    space.write_space(folder, write_model_folder, package=package)
    print(f"Wrote {folder}, the folder of a Space")


def write_program(arguments: argparse.Namespace) -> None:
    """Writes the program of a training run or a model, and its interface.

    The written program is read back and compared with the model.

    Args:
      arguments: run_or_checkpoint, out, format, outputs.

    Raises:
      FileNotFoundError: If there is neither a run nor a model.
      UserError: If it cannot be read, or has no such outputs.
      FileExistsError: If the folder exists.
    """
    model = load(arguments.run_or_checkpoint)
    if isinstance(model, PeerModel):
        raise UserError(f"export makes programs of FaceCycle, not of {model.method}.")

    outputs = _outputs(model, arguments.outputs)
    trees = model.trees

    def program(images: jax.Array) -> functions.Arrays:
        return functions.face_outputs(model.forward, trees, images, outputs=outputs)

    data = to_stablehlo(program, size=model.size)

    name = _FILES[arguments.format]
    with new_folder(arguments.out, last=_INTERFACE) as partial:
        (partial / name).write_bytes(data)
        described = compare(model, outputs, (partial / name).read_bytes())
        interface = {
            "program": name,
            "format": arguments.format,
            "input": {"shape": ["n", model.size, model.size, 3], "dtype": "uint8"},
            "outputs": described,
            "framing": model.framing.to_dict(),
            "licence": model.info.get("licence", NOT_STATED),
            "source": model.info.get("source", NOT_STATED),
        }
        text = json.dumps(interface, indent=2) + "\n"
        (partial / _INTERFACE).write_text(text, encoding="utf-8")

    print(f"Wrote {arguments.out}, a program of {', '.join(outputs)}")


def _outputs(model: FaceCycle, names: str | None) -> tuple[str, ...]:
    """Returns the outputs of the command line, or all that a model has."""
    known = [
        name
        for name in functions.FACE_OUTPUTS
        if model.has_identity or name not in functions.IDENTITY_OUTPUTS
    ]
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    return functions.check_outputs(
        chosen, functions.FACE_OUTPUTS, has_identity=model.has_identity
    )


def compare(
    model: FaceCycle, outputs: tuple[str, ...], data: bytes
) -> dict[str, dict[str, Any]]:
    """Compares an exported program with the model, on random images.

    Args:
      model: the model.
      outputs: names of what the program computes.
      data: the program.

    Returns:
      Shape and dtype of each output.

    Raises:
      RuntimeError: If the program computes something else, which is a defect.
    """
    shape = (_COMPARED, model.size, model.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = model.outputs(images, outputs)
    found = run_stablehlo(data, images)

    described = {}
    for name in outputs:
        ours = expected[name]
        theirs = np.asarray(found[name])
        bounds = _LEVELS_WITHIN if ours.dtype == np.uint8 else _NUMBERS_WITHIN
        within = bounds[model.model["dtype"]]

        same_kind = (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        difference = np.inf
        if same_kind:
            difference = np.abs(theirs.astype(np.float64) - ours).max()
        if not difference <= within:
            raise RuntimeError(
                f"the exported program computes another {name}: {theirs.dtype} "
                f"{theirs.shape}, largest difference {difference}"
            )
        described[name] = {"shape": ["n", *ours.shape[1:]], "dtype": ours.dtype.name}

    return described
