"""`facecycle demo`: a local web page that exchanges motion and identity of two images.

This module computes what the page shows: from two image files it makes images, flows as
colours, and similarities. The page itself is in `demo_page`.
"""

import argparse
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from facecycle_jax.commands import demo_page, inputs
from facecycle_jax.commands.example_faces import write_examples
from facecycle_jax.data import read_image
from facecycle_jax.data.images.framing import Framing
from facecycle_jax.data.images.reading import square
from facecycle_jax.devices import split_cpu
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.evaluation.probes.verification import cosine_scores
from facecycle_jax.inference import motion_control
from facecycle_jax.inference.face_cycle import FaceCycle, PreparedFaces
from facecycle_jax.inference.functions import IDENTITY_OUTPUTS
from facecycle_jax.inference.loading import load
from facecycle_jax.inference.runner import BATCH_SIZE
from facecycle_jax.viz import flow_to_rgb

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

# What the page shows of each of the two faces, in this order: caption and explanation.
SHOWN = {
    "input": ("Input", "What the model sees."),
    "flow": ("Flow", "Where the neutral face is taken from."),
    "neutral": ("Neutral face", "From the front; a smile may stay."),
    "reexpressed": ("Other's motion", "Moved like the other face, by the sliders."),
    "mean_face": ("Mean face", "Without identity too."),
    "reidentified": ("Identity", "Back, on the other's mean face."),
    "reidentified_reexpressed": ("Both", "That, moved like the other face."),
}
# What the sliders draw anew.
_MOVED = "reexpressed"
# Pixels of the images on the page; those of the model are too small to look at.
_SIDE = 256


class Comparison(NamedTuple):
    """What the page shows.

    Attributes:
      images: uint8 [2, S, S, 3] by the names of `SHOWN`; without the last three for a
        model of stage 1 alone.
      motion: cosine of the two motion codes, in -1..1.
      identity: cosine of the two identity codes, or None for a model of stage 1 alone.
      faces: what drawing the two faces with other motion needs of them.
    """

    images: dict[str, np.ndarray]
    motion: float
    identity: float | None
    faces: PreparedFaces

    def words(self) -> str:
        """Writes the similarities as one line."""
        identity = ""
        if self.identity is not None:
            identity = f"identity codes {self.identity:.3f}, "

        return (
            f"Cosine similarity: {identity}motion codes {self.motion:.3f} "
            "(1 is the same)."
        )


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "demo", help="open a page to try a model on two images or the webcam"
    )
    inputs.add_model(command)
    command.add_argument(
        "--port",
        type=int,
        help="port of the page (default: the first free one from 7860 on)",
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
      MissingExtraError: If gradio is not installed.
      FileNotFoundError: If there is no such model.
      UserError: If it cannot be read.
      OSError: If the port is taken.
    """
    _serve(arguments.model, port=arguments.port, browser=not arguments.no_browser)


def serve_space(folder: str | os.PathLike[str]) -> None:
    """Serves the page as a Space of the Hugging Face Hub does.

    The Hub states in SPACE_HOST under which name the page is reached. Without it, on
    another computer, the page is that of `facecycle demo`.

    Args:
      folder: the model folder.

    Raises:
      MissingExtraError: If gradio is not installed.
      UserError: If the model cannot be read.
      OSError: If the port is taken.
    """
    split_cpu({"batch_size": BATCH_SIZE})
    host = os.environ.get("SPACE_HOST", "")
    _serve(folder, port=None, browser=False, host=host)


def _serve(
    path: str | os.PathLike[str], *, port: int | None, browser: bool, host: str = ""
) -> None:
    """Loads a model and serves the page."""
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port must be 1 to 65535, got {port}.")
    # Before the model, which takes seconds to load.
    demo_page.require_gradio()

    model = load(path)
    demo_page.serve(
        lambda first, second, crop: exchange(model, first, second, crop=crop),
        adjust=lambda faces, strength, yaw, pitch: adjust(
            model, faces, strength=strength, yaw=yaw, pitch=pitch
        ),
        shown=_shown(model),
        moved=_MOVED,
        examples=write_examples,
        port=port,
        browser=browser,
        host=host,
    )


def _shown(model: FaceCycle) -> dict[str, tuple[str, str]]:
    """Returns names, captions and explanations of what a model draws."""
    if model.has_identity:
        return dict(SHOWN)

    return {name: text for name, text in SHOWN.items() if name not in IDENTITY_OUTPUTS}


def exchange(
    model: FaceCycle,
    first: str | os.PathLike[str] | None,
    second: str | os.PathLike[str] | None,
    *,
    crop: bool = False,
) -> Comparison:
    """Exchanges motion and identity of two image files.

    Args:
      model: a loaded model.
      first: the first image's file, or None where none was given.
      second: the second image's file, or None.
      crop: whether to find the face in each image first; needs dlib.

    Returns:
      What the page shows.

    Raises:
      UserError: If a file is missing, is not an image or shows no face, in one sentence
        without the file's path.
      MissingExtraError: If a face is to be found and dlib is not installed.
    """
    faces = [
        _read(path, name=name, size=model.size, crop=crop, framing=model.framing)
        for name, path in (("The first image", first), ("The second image", second))
    ]

    # Images and codes in one pass; arrays [1, 2, ...] by name.
    shown = _shown(model)
    codes = ("motion_code", "identity_code") if model.has_identity else ("motion_code",)
    drawn = model.translate(faces[0], faces[1], outputs=(*shown, *codes))

    images = {}
    for name in shown:
        pair = drawn[name][0]
        method = Image.Resampling.LANCZOS
        if name == "flow":
            # Flows are coarse maps: their cells stay visible.
            pair = flow_to_rgb(pair)
            method = Image.Resampling.NEAREST

        images[name] = _enlarged(pair, method)

    def similarity(name: str) -> float:
        source, driver = drawn[name][0]
        return float(cosine_scores(source[None], driver[None])[0])

    return Comparison(
        images=images,
        motion=similarity("motion_code"),
        identity=similarity("identity_code") if model.has_identity else None,
        faces=model.prepare(np.stack(faces)),
    )


def adjust(
    model: FaceCycle,
    faces: PreparedFaces,
    *,
    strength: float,
    yaw: float,
    pitch: float,
) -> np.ndarray:
    """Draws both faces with the other's motion, by the sliders of the page.

    Their encoders and trunk do not run again.

    Args:
      model: a loaded model.
      faces: the two faces of a `Comparison`.
      strength: how much of the other's motion each gets, 0 to 1.5.
      yaw: degrees that both heads turn further, above 0 to the image's right.
      pitch: degrees, above 0 down.

    Returns:
      uint8 [2, S, S, 3], enlarged for the page.

    Raises:
      UserError: If the strength is out of range.
    """
    codes = motion_control.combine(
        faces.motion_code, faces.motion_code[::-1], strength=strength
    )
    if yaw or pitch:
        directions = model.pose_directions()
        codes = motion_control.turn(codes, directions, yaw=yaw, pitch=pitch)
    return _enlarged(model.express(faces, codes), Image.Resampling.LANCZOS)


def _enlarged(faces: np.ndarray, method: Image.Resampling) -> np.ndarray:
    """Enlarges images uint8 [N, h, w, 3] to the size of the page."""
    larger = [Image.fromarray(face).resize((_SIDE, _SIDE), method) for face in faces]
    return np.stack([np.asarray(face) for face in larger])


def _read(
    path: str | os.PathLike[str] | None,
    *,
    name: str,
    size: int,
    crop: bool,
    framing: Framing,
) -> np.ndarray:
    """Reads one face uint8 [size, size, 3].

    Errors name the image by its place, not by its temporary file.
    """
    if not path:
        raise UserError(f"{name} is missing: upload one, or take one with the webcam.")

    try:
        image = read_image(path)
        if crop:
            from facecycle_jax.data.images.face_crop import crop_face

            image = crop_face(image, framing=framing).crop
    except MissingExtraError:
        # The image is not at fault.
        raise
    except (UserError, FileNotFoundError) as error:
        text = str(error).replace(str(path), name)
        raise UserError(text if name in text else f"{name}: {text}") from None

    return square(image, size=size)
