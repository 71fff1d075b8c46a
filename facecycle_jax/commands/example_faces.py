"""Pairs of faces to try a model on: two portraits, and synthetic faces.

The portraits show Eileen Collins (photograph: NASA) and Barack Obama (photograph: Pete
Souza, The White House). Both are in the public domain.
"""

import importlib.resources
import os
import pathlib

from facecycle_jax.data import synthetic_tracks
from facecycle_jax.viz import save_png

_PORTRAITS = ("collins.jpg", "obama.jpg")
_SEED = 20_210_828


def write_examples(folder: str | os.PathLike[str]) -> list[list[str]]:
    """Writes pairs of faces in the framing of the bundled models.

    The first pair is the two portraits. The others are synthetic faces: one person
    twice, then two people.

    Args:
      folder: where to write the images.

    Returns:
      File names of the pairs.
    """
    directory = pathlib.Path(folder)
    source = importlib.resources.files("facecycle_jax.commands") / "portraits"
    portraits = []
    for name in _PORTRAITS:
        (directory / name).write_bytes((source / name).read_bytes())
        portraits.append(str(directory / name))

    # Three people, two consecutive frames each.
    tracks = synthetic_tracks(_SEED, identities=3, frames_per_track=2, size=128)
    faces = []
    for number, frame in enumerate(tracks["frames"]):
        file = str(directory / f"face_{number}.png")
        save_png(file, frame)
        faces.append(file)

    return [portraits, [faces[0], faces[1]], [faces[3], faces[4]]]
