"""Commands on images one by one: `facecycle frontalize`, `reconstruct`, `encode`."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from facecycle_jax.commands import codes_file, inputs, outputs, pasting
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load
from facecycle_jax.paths import given_path
from facecycle_jax.viz import grid

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommands to what `ArgumentParser.add_subparsers` returned."""
    frontalize = commands.add_parser(
        "frontalize", help="draw neutral faces, from the front, and mean faces"
    )
    pasting.add_options(frontalize)
    frontalize.set_defaults(run=run_frontalize)

    reconstruct = commands.add_parser(
        "reconstruct", help="draw faces again from their neutral faces and motion"
    )
    reconstruct.set_defaults(run=run_reconstruct)

    encode = commands.add_parser(
        "encode", help="write motion and identity codes as .npz"
    )
    encode.set_defaults(run=run_encode)

    for command in (frontalize, reconstruct, encode):
        command.add_argument("images", nargs="+", help="images and folders of images")
        inputs.add_options(command, several_faces=command is frontalize)


def run_frontalize(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, neutral and, with stage 2, mean face for each image.

    With --paste it writes the photograph or video with the neutral face instead.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.

    Raises:
      UserError: If an option is wrong, there is no image, or a video is given without
        --paste or with other inputs.
    """
    inputs.check_which(arguments)
    videos = [name for name in arguments.images if pasting.is_video(name)]
    if not videos:
        pasting.check_max_frames(arguments)
    elif not arguments.paste:
        raise pasting.needs_paste(videos[0])
    elif len(arguments.images) > 1:
        raise UserError(f"{videos[0]} is a video: give it alone, without other inputs.")
    else:
        return pasting.paste_video(arguments, videos[0], lambda model: model.neutral)

    if arguments.paste:
        return _frontalize_photographs(arguments)

    def draw(model: FaceCycle, images: np.ndarray) -> dict[str, np.ndarray]:
        names = ["input", "neutral"]
        if model.has_identity:
            names.append("mean_face")
        drawn = model.outputs(images, names)
        return {name.replace("_", " "): value for name, value in drawn.items()}

    return _each(arguments, draw)


def _frontalize_photographs(arguments: argparse.Namespace) -> int:
    """Writes photographs with neutral faces."""
    paths = inputs.find(arguments.images)
    files = _named_after(paths, arguments)

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0
    for path, photograph in pasting.photographs(arguments, paths, problems, model):
        drawn = model.neutral(photograph.faces)
        done += outputs.save_drawn(
            files[path],
            photograph.paste(drawn),
            problems,
            icc_profile=photograph.icc_profile,
        )

    if done:
        print(f"Wrote {inputs.counted(done, 'photograph')} to {arguments.out}")
    return problems.status(done)


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, flow, neutral face and reconstruction for each image.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.

    Raises:
      UserError: If an option is wrong or there is no image.
    """
    inputs.check_which(arguments)

    def draw(model: FaceCycle, images: np.ndarray) -> dict[str, np.ndarray]:
        return model.outputs(images, ("input", "flow", "neutral", "reconstruction"))

    return _each(arguments, draw)


def _each(
    arguments: argparse.Namespace,
    draw: Callable[[FaceCycle, np.ndarray], dict[str, np.ndarray]],
) -> int:
    """Draws one panel for each image into the folder --out."""
    paths = inputs.find(arguments.images)
    files = _named_after(paths, arguments)

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0
    for kept, images in inputs.chunks(arguments, paths, problems, model):
        drawn = draw(model, images)
        for row, path in enumerate(kept):
            cells = [value[row] for value in drawn.values()]
            panel = grid([cells], captions=list(drawn))
            done += outputs.save_drawn(files[path], panel, problems)

    if done:
        print(f"Wrote {inputs.counted(done, 'panel')} to {arguments.out}")
    return problems.status(done)


def _named_after(
    paths: list[epath.Path], arguments: argparse.Namespace
) -> dict[epath.Path, epath.Path]:
    """Names a PNG in --out for each image, and checks that it may be written."""
    out = outputs.check_folder_name(arguments.out)
    names = outputs.output_names(paths)
    files = {path: out / f"{name}.png" for path, name in zip(paths, names, strict=True)}
    outputs.check_free(
        list(files.values()), overwrite=arguments.overwrite, sources=paths
    )
    return files


def run_encode(arguments: argparse.Namespace) -> int:
    """Writes codes of images, see `codes_file`.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.

    Raises:
      UserError: If --out is not a .npz, or one of something else than codes, or there
        is no image.
    """
    out = given_path(arguments.out, name="--out")
    if out.suffix != ".npz":
        raise UserError(f"--out must end in .npz, got {out}.")
    inputs.check_which(arguments)

    paths = inputs.find(arguments.images)
    outputs.check_free([out], overwrite=arguments.overwrite, sources=paths)
    codes_file.check_replaceable(out)

    model = load(arguments.model)
    problems = inputs.Problems()
    wanted = ["motion_code"]
    if model.has_identity:
        wanted.append("identity_code")

    codes: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    names: list[str] = []
    for kept, images in inputs.chunks(arguments, paths, problems, model):
        names += [str(path) for path in kept]
        for name, values in model.outputs(images, wanted).items():
            codes[name].append(values)

    # Without a single image there is no file either.
    if names:
        arrays = {name: np.concatenate(parts) for name, parts in codes.items()}
        codes_file.write_codes(out, model, paths=names, codes=arrays)
        print(f"Wrote the codes of {inputs.counted(len(names), 'image')} to {out}")
    return problems.status(len(names))
