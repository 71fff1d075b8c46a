"""`facecycle interpolate`: faces on the way from one to another, as a strip or clip."""

import argparse
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from facecycle_jax.commands import inputs, outputs
from facecycle_jax.errors import UserError
from facecycle_jax.inference import motion_control
from facecycle_jax.inference.loading import load
from facecycle_jax.paths import given_path
from facecycle_jax.viz import grid, save_png

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

# Faces are enlarged in a clip, because encoders blur the colours of small images.
_ENLARGED = 4
# Faces a second of a clip, unless --fps says otherwise.
_FPS = 10.0
# Most columns of a strip; further faces go to further rows.
_COLUMNS = 10


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "interpolate", help="draw faces on the way from one face to another"
    )
    command.add_argument("first", help="image of the first face")
    command.add_argument("second", help="image of the second face")
    command.add_argument(
        "--frames",
        type=int,
        default=8,
        help="number of faces, both ends included, at most "
        f"{motion_control.FRAMES[1]} (default: %(default)s)",
    )
    command.add_argument(
        "--of",
        choices=("motion", "identity", "both"),
        help="what changes (default: both, or motion for a model of stage 1 alone)",
    )
    command.add_argument(
        "--fps",
        type=float,
        help=f"faces a second of a clip (default: {_FPS:g})",
    )
    inputs.add_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the strip or the clip.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.

    Raises:
      UserError: If an option is out of range, an image cannot be used, or --out has
        another ending.
    """
    from facecycle_jax.data.images.video import FORMATS, check_fps, write_video

    suffix = pathlib.PurePath(arguments.out).suffix.lower()
    is_clip = suffix in FORMATS
    out = given_path(arguments.out, name="--out", local=is_clip)
    if not is_clip and suffix != ".png":
        raise UserError(
            f"--out must end in .png or, for a clip, in {', '.join(FORMATS)}, got "
            f"{arguments.out}."
        )

    fps = _FPS if arguments.fps is None else arguments.fps
    if arguments.fps is not None and not is_clip:
        raise UserError(
            f"--fps is for clips, and {arguments.out} is an image: leave it out, or "
            "end --out in .mp4."
        )
    check_fps(fps)

    inputs.check_which(arguments)
    motion_control.check_frames(arguments.frames)
    ends = []
    for name in (arguments.first, arguments.second):
        found = inputs.find([name])
        if len(found) != 1:
            raise UserError(f"one image is needed on each side, {name} has several.")
        ends += found
    outputs.check_free([out], overwrite=arguments.overwrite, sources=ends)

    model = load(arguments.model)
    first, second = (
        inputs.read_face(
            path,
            size=model.size,
            crop=arguments.crop,
            which=arguments.which,
            framing=model.framing,
        )
        for path in ends
    )
    faces = model.interpolate(first, second, frames=arguments.frames, of=arguments.of)

    if is_clip:
        side = _ENLARGED * model.size
        enlarged = (
            np.asarray(
                Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC)
            )
            for face in faces
        )
        write_video(out, enlarged, fps=fps)
    else:
        save_png(out, _strip(first, second, faces))
    print(f"Wrote {out}, {inputs.counted(len(faces), 'face')}")
    return 0


def _strip(first: np.ndarray, second: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Lays out both images and the faces between them."""
    cells = [first, *faces, second]
    weights = np.linspace(0, 1, len(faces))
    captions = ["first", *(f"{weight:.2f}" for weight in weights), "second"]

    rows = [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
    texts = [captions[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
    return grid(rows, captions=texts)
