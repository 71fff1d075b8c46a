"""What `facecycle export` makes besides model folders: programs, pages and Spaces."""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from facecycle_jax.commands import outputs, space, web
from facecycle_jax.errors import UserError
from facecycle_jax.files import new_folder
from facecycle_jax.inference import functions
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load, model_path
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.interop.onnx_program import require_onnx, run_onnx, to_onnx
from facecycle_jax.interop.stablehlo import run_stablehlo, to_stablehlo
from facecycle_jax.ops.normalisation import MEAN, STD
from facecycle_jax.paths import given_path
from facecycle_jax.storage.bundled import find_model_folder
from facecycle_jax.storage.folder_config import CONFIG, WEIGHTS
from facecycle_jax.storage.model_folder import CARD

FOLDER = "folder"
WEB = "web"
NOT_STATED = "not stated"
# File of the program, by format.
_FILES = {"stablehlo": "program.jax_export", "onnx": "program.onnx"}
_INTERFACE = "interface.json"
# The output of two images: the first with the motion of the second.
_REEXPRESSED = "reexpressed"
# Number of images with which a program is compared with the model.
_COMPARED = 3
# Largest differences of codes and flows, and of images in levels of 255, by the
# less precise one of the dtypes of computation and weights. Compilers order sums
# differently.
_NUMBERS_WITHIN = {"float32": 1e-2, "float16": 0.05, "bfloat16": 0.1}
_LEVELS_WITHIN = {"float32": 2.0, "float16": 12.0, "bfloat16": 24.0}


class _Program(NamedTuple):
    """A function of images to export.

    Attributes:
      function: of the inputs, images uint8 [N, S, S, 3], to arrays by name.
      inputs: names of the inputs.
      outputs: names of the outputs.
    """

    function: Callable[..., functions.Arrays]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of programs and Spaces."""
    parser.add_argument(
        "--format",
        choices=(FOLDER, *_FILES, WEB),
        default=FOLDER,
        help="a model folder, a program that needs no facecycle_jax, or a web page "
        "that runs the model in the browser (default: %(default)s)",
    )
    parser.add_argument(
        "--outputs",
        help="what a program computes, such as motion_code,identity_code; with "
        f"{_REEXPRESSED} it takes two images (default: all of one image)",
    )
    parser.add_argument(
        "--with-runtime",
        metavar="FOLDER",
        help="for --format web: where npm installed onnxruntime-web, to copy it next "
        "to the page (default: the page loads it from a public server)",
    )
    parser.add_argument(
        "--space", metavar="DIR", help="the folder of a Gradio Space to make"
    )
    parser.add_argument(
        "--package",
        help="with --space, what the Space installs, as pip writes it (default: "
        f"{space.PACKAGE})",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Checks the options before anything is read.

    Args:
      arguments: of `facecycle export`.

    Raises:
      UserError: If options contradict each other, or a folder cannot be made.
      FileExistsError: If a folder exists.
    """
    if arguments.out is None and arguments.space is None:
        raise UserError("export needs --out DIR, --space DIR or both.")
    if arguments.format not in _FILES and arguments.outputs is not None:
        raise UserError("--outputs is for programs, such as --format stablehlo.")
    if arguments.package is not None and arguments.space is None:
        raise UserError("--package is for a Space: give --space DIR too.")
    if arguments.format != WEB and arguments.with_runtime is not None:
        raise UserError("--with-runtime is for --format web.")
    if arguments.format != FOLDER and (arguments.out is None or arguments.space):
        raise UserError(f"--format {arguments.format} needs --out DIR and no --space.")

    # A program, and the Space of a model, have nowhere to keep these.
    is_onnx = arguments.format == "onnx"
    of_folders = {
        "--dtype": arguments.dtype != "float32" and not is_onnx,
        "--licence": arguments.licence != NOT_STATED,
        "--framing": arguments.framing is not None,
        "--dataset": bool(arguments.dataset),
        "--results": bool(arguments.results),
    }
    given = [name for name, is_given in of_folders.items() if is_given]
    makes_one = arguments.format == FOLDER and arguments.out is not None
    if given and not makes_one:
        raise UserError(
            f"{given[0]} is for model folders: make one of the run with --out DIR "
            "first."
        )

    model = model_path(arguments.run_or_checkpoint)
    if makes_one and find_model_folder(model) is not None:
        raise UserError(
            f"{model} is a model already, and a model folder is made of a run: copy "
            "it, or choose another --format (stablehlo, onnx, web)."
        )

    if arguments.out is not None:
        outputs.check_new_output(arguments.out)
    if arguments.space is not None:
        outputs.check_new_output(arguments.space, name="--space")


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

    def write_model_folder(model_folder: pathlib.Path) -> None:
        if found is None:
            write_run(model_folder)
            return

        model_folder.mkdir()
        for name in (CONFIG, WEIGHTS, CARD):
            if (found / name).exists():
                (model_folder / name).write_bytes((found / name).read_bytes())

    space.write_space(folder, write_model_folder, package=package)
    print(f"Wrote {folder}, the folder of a Space")


def write_program(arguments: argparse.Namespace) -> None:
    """Writes the program of a training run or a model, and its interface.

    The written program is read back and compared with the model.

    Args:
      arguments: run_or_checkpoint, out, format, outputs, dtype.

    Raises:
      FileNotFoundError: If there is neither a run nor a model.
      MissingExtraError: If the format needs a package that is not installed.
      UserError: If the model cannot be read, or has no such outputs.
      FileExistsError: If the folder exists.
    """
    is_onnx = arguments.format == "onnx"
    if is_onnx:
        # Before the model, which takes seconds to load.
        require_onnx()

    model = _load(arguments.run_or_checkpoint)
    names = _outputs(model, arguments.outputs)
    about = _about(model)

    if is_onnx:
        # onnxruntime has no convolution in bfloat16 on CPUs.
        program = _program(web.in_float32(model), names)
        data = to_onnx(
            program.function,
            _specifications(program, model.size),
            outputs=names,
            weights=arguments.dtype,
            metadata={"facecycle": json.dumps(about)},
        )
    else:
        program = _program(model, names)
        data = to_stablehlo(
            program.function, size=model.size, arguments=len(program.inputs)
        )

    file_name = _FILES[arguments.format]
    out = given_path(arguments.out, name="--out")
    with new_folder(out, last=_INTERFACE) as partial:
        (partial / file_name).write_bytes(data)
        written = (partial / file_name).read_bytes()

        def run(*images: np.ndarray) -> Any:
            if not is_onnx:
                return run_stablehlo(written, *images)
            return run_onnx(written, dict(zip(program.inputs, images, strict=True)))

        described = check_program(model, program, run, weights=arguments.dtype)

        shape = ["n", model.size, model.size, 3]
        interface = {
            "program": file_name,
            "format": arguments.format,
            "inputs": {
                given: {"shape": shape, "dtype": "uint8"} for given in program.inputs
            },
            "outputs": described,
            **about,
        }
        text = json.dumps(interface, indent=2) + "\n"
        (partial / _INTERFACE).write_text(text, encoding="utf-8")

    print(f"Wrote {out}, a program of {', '.join(names)}")


def write_web_page(arguments: argparse.Namespace) -> None:
    """Writes a page that runs the model in the browser.

    Args:
      arguments: run_or_checkpoint, out, with_runtime.

    Raises:
      FileNotFoundError: If there is neither a run nor a model.
      MissingExtraError: If a package of the extra `onnx` is not installed.
      UserError: If the model or the runtime cannot be read.
      FileExistsError: If the folder exists.
    """
    require_onnx()
    runtime = web.find_runtime(arguments.with_runtime)

    model = _load(arguments.run_or_checkpoint)
    out = given_path(arguments.out, name="--out")
    web.write_page(model, out, runtime=runtime, about=_about(model))
    print(
        f"Wrote {out}, a page; serve it, for instance with: python -m http.server "
        f"--bind 127.0.0.1 --directory {out}"
    )


def _load(path: epath.PathLike) -> FaceCycle:
    """Loads a model of FaceCycle."""
    model = load(path)
    if isinstance(model, PeerModel):
        raise UserError(f"export makes programs of FaceCycle, not of {model.method}.")
    return model


def _about(model: FaceCycle) -> dict[str, Any]:
    """Describes a model for those who have its program alone."""
    return {
        "framing": model.framing.to_dict(),
        # Programs do this themselves: pixels of 0 to 255 go in.
        "normalisation": {"mean": list(MEAN), "std": list(STD)},
        "licence": model.info.get("licence", NOT_STATED),
        "source": model.info.get("source", NOT_STATED),
    }


def _outputs(model: FaceCycle, names: str | None) -> tuple[str, ...]:
    """Returns the outputs of the command line, or all that a model has of one face."""
    known = [
        name
        for name in functions.FACE_OUTPUTS
        if model.has_identity or name not in functions.IDENTITY_OUTPUTS
    ]
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    return functions.check_outputs(
        chosen,
        (*functions.FACE_OUTPUTS, _REEXPRESSED),
        has_identity=model.has_identity,
    )


def _program(model: FaceCycle, outputs: tuple[str, ...]) -> _Program:
    """Makes the function of one or two images that computes the outputs."""
    of_face = tuple(name for name in outputs if name != _REEXPRESSED)

    def of_one(images: jax.Array) -> functions.Arrays:
        return functions.face_outputs(
            model.networks, model.trees, images, outputs=of_face
        )

    def of_two(images: jax.Array, driver: jax.Array) -> functions.Arrays:
        found = of_one(images) if of_face else {}
        drawn = functions.reexpress(model.networks, model.trees, images, driver)
        return {**found, **drawn}

    if _REEXPRESSED in outputs:
        return _Program(of_two, ("images", "driver"), outputs)
    return _Program(of_one, ("images",), outputs)


def _specifications(program: _Program, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a program's inputs, for any number of images."""
    shape: Any = ("n", size, size, 3)
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    return dict.fromkeys(program.inputs, images)


def check_program(
    model: FaceCycle,
    program: _Program,
    run: Callable[..., Any],
    *,
    weights: str = "float32",
) -> dict[str, dict[str, Any]]:
    """Checks that an exported program computes what the model does, on random images.

    Args:
      model: the model.
      program: what was exported.
      run: runs the exported program on its inputs.
      weights: dtype of the weights in the exported program.

    Returns:
      Shape and dtype of each output.

    Raises:
      RuntimeError: If the program computes something else, which is a defect.
    """
    shape = (_COMPARED, model.size, model.size, 3)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in program.inputs]
    found = run(*images)

    of_face = [name for name in program.outputs if name != _REEXPRESSED]
    expected = model.outputs(images[0], of_face) if of_face else {}
    if _REEXPRESSED in program.outputs:
        expected[_REEXPRESSED] = model.reexpress(*images)

    computed = model.model["dtype"]
    precision = computed if computed != "float32" else weights

    described = {}
    for name in program.outputs:
        ours = expected[name]
        theirs = np.asarray(found[name])
        bounds = _LEVELS_WITHIN if ours.dtype == np.uint8 else _NUMBERS_WITHIN
        within = bounds[precision]

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
