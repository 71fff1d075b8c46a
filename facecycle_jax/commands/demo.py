"""`facecycle demo`.

A web page on this computer that exchanges motion and identity of two pictures.

What the page computes is here, free of the page: pictures uint8 [H, W, 3] in; pictures,
flows as colours and similarities out. The page itself is in `demo_page`.
"""

import argparse
import os
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.commands import demo_page, inputs
from facecycle_jax.data import read_picture, synthetic_tracks
from facecycle_jax.data.images.framing import Framing
from facecycle_jax.data.images.reading import square
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.verification import cosine_scores
from facecycle_jax.inference.face_cycle import FaceCycle, load
from facecycle_jax.viz import flow_to_rgb, save_png

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

# What the page shows of each of the two faces, in this order.
SHOWN = {
    "input": "Input",
    "flow": "Flow",
    "neutral": "Neutral face",
    "reexpressed": "With other's motion",
    "mean_face": "Mean face",
    "reidentified": "On other's mean face",
    "reidentified_reexpressed": "... with its motion",
}
# Pixels of the pictures on the page; those of the model are too small to look at.
_SIDE = 256
_EXAMPLE_SEED = 20_210_828


class Comparison(NamedTuple):
    """What the page shows.

    Attributes:
      pictures: uint8 [2, S, S, 3] by the names of `SHOWN`; of stage 1 alone without the
        last three.
      motion: cosine of the two motion codes, in -1..1.
      identity: cosine of the two identity codes, or None of stage 1 alone.
    """

    pictures: dict[str, np.ndarray]
    motion: float
    identity: float | None

    def words(self) -> str:
        """Words the similarities, one line."""
        identity = (
            "" if self.identity is None else f"identity codes {self.identity:.3f}, "
        )
        return f"Cosine similarity: {identity}motion codes {self.motion:.3f} (from -1 to 1; 1 is the same)."


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "demo", help="open a page to try a model on two pictures or the webcam"
    )
    inputs.add_model(command)
    command.add_argument(
        "--port",
        type=int,
        help="of the page; by default the first free one from 7860 on",
    )
    command.add_argument(
        "--no-browser", action="store_true", help="print the address only"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until the program is interrupted.

    Args:
      arguments: model, port, no_browser.

    Raises:
      ImportError: if gradio is not installed.
      FileNotFoundError: if there is no such model.
      ValueError: if it cannot be read.
      OSError: if the port is taken.
    """
    demo_page.require_gradio()
    model = load(arguments.model)
    demo_page.serve(
        lambda first, second, crop: compare(model, first, second, crop=crop),
        shown=list(_shown(model).values()),
        examples=write_examples,
        port=arguments.port,
        browser=not arguments.no_browser,
    )


def _shown(model: FaceCycle) -> dict[str, str]:
    """Names and captions of what a model draws."""
    identity = ("mean_face", "reidentified", "reidentified_reexpressed")
    return {
        name: text
        for name, text in SHOWN.items()
        if model.has_identity or name not in identity
    }


def compare(
    model: FaceCycle,
    first: str | os.PathLike[str] | None,
    second: str | os.PathLike[str] | None,
    *,
    crop: bool = False,
) -> Comparison:
    """Exchanges motion and identity of two picture files.

    Args:
      model: a loaded model.
      first: the first picture's file, or None where none was given.
      second: the second's.
      crop: whether to find the face in each first; needs dlib.

    Returns:
      What the page shows.

    Raises:
      ValueError: in one sentence without the file's path, if one is missing, is no
        picture or shows no face.
    """
    faces = np.stack(
        [
            _read(path, name=name, size=model.size, crop=crop, framing=model.framing)
            for name, path in (
                ("The first picture", first),
                ("The second picture", second),
            )
        ]
    )

    # Images and codes in one pass.
    codes = ("motion_code", "identity_code") if model.has_identity else ("motion_code",)
    drawn = model.translate(faces[0], faces[1], outputs=(*_shown(model), *codes))

    pictures = {}
    for name in _shown(model):
        pair = flow_to_rgb(drawn[name][0]) if name == "flow" else drawn[name][0]
        # Flows are coarse maps: their cells stay visible.
        method = (
            Image.Resampling.NEAREST if name == "flow" else Image.Resampling.LANCZOS
        )
        larger = [
            Image.fromarray(picture).resize((_SIDE, _SIDE), method) for picture in pair
        ]
        pictures[name] = np.stack([np.asarray(picture) for picture in larger])

    def similarity(name: str) -> float:
        source, driver = drawn[name][0]
        return float(cosine_scores(source[None], driver[None])[0])

    return Comparison(
        pictures,
        similarity("motion_code"),
        similarity("identity_code") if model.has_identity else None,
    )


def _read(
    path: str | os.PathLike[str] | None,
    *,
    name: str,
    size: int,
    crop: bool,
    framing: Framing,
) -> np.ndarray:
    """Reads one face uint8 [size, size, 3].

    Faults name the picture by its place, not its temporary file.
    """
    if not path:
        raise UserError(f"{name} is missing: upload one, or take one with the webcam.")
    try:
        picture = read_picture(path)
        if crop:
            from facecycle_jax.data.images.face_crop import crop_face

            picture = crop_face(picture, framing=framing).crop
    except (ValueError, FileNotFoundError) as error:
        text = str(error).replace(str(path), name)
        raise UserError(text if name in text else f"{name}: {text}") from None
    return square(picture, size=size)


def write_examples(folder: str | os.PathLike[str]) -> list[list[str]]:
    """Draws pairs of faces to try: one person twice, then pairs of two people.

    Args:
      folder: where to write the pictures.

    Returns:
      File names of the pairs.
    """
    frames = synthetic_tracks(
        _EXAMPLE_SEED, identities=4, frames_per_track=2, size=128
    )["frames"]
    files = [
        str(pathlib.Path(folder) / f"face_{number}.png")
        for number in range(len(frames))
    ]
    for file, frame in zip(files, frames, strict=True):
        save_png(file, frame)
    return [
        [files[0], files[1]],
        [files[0], files[2]],
        [files[3], files[4]],
        [files[5], files[7]],
    ]
