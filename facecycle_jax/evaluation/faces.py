"""Evaluation of generated images of new people by independent networks."""

import os
from collections.abc import Collection
from typing import Any

import numpy as np

from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.judges.face_figures import (
    TURNED,
    FaceFigures,
    compare_identity,
    likeness,
    relative_sharpness,
)
from facecycle_jax.evaluation.judges.head_angles import head_angles
from facecycle_jax.evaluation.judges.networks import (
    SAME_PERSON,
    Judge,
    Judgement,
    dlib_judge,
)
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.viz import grid

# Most rows of the panel.
_SHOWN = 8


def first_images(
    path: str, *, without: Collection[str], limit: int
) -> dict[str, list[str]]:
    """Lists the first two images of each person by name.

    Args:
      path: folder of `<person>/*.jpg`.
      without: people to leave out.
      limit: most people, the first by name. 0 means all.

    Returns:
      One or two files by person.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If there are fewer than three people.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is no folder {path}.")

    left_out = set(without)
    people: dict[str, list[str]] = {}
    for person in sorted(os.listdir(path)):
        folder = os.path.join(path, person)
        if person in left_out or person.startswith(".") or not os.path.isdir(folder):
            continue

        names = [name for name in os.listdir(folder) if is_image_name(name)]
        names = sorted(name for name in names if not name.startswith("."))
        if names:
            people[person] = [os.path.join(folder, name) for name in names[:2]]
        if limit and len(people) == limit:
            break

    if len(people) < 3:
        raise UserError(
            f"{path} must hold <person>/*.jpg of three people or more, "
            f"has {len(people)}."
        )
    return people


def evaluate_faces(
    model: FaceCycle,
    path: str,
    *,
    without: Collection[str] = (),
    crop: float = 1.0,
    limit: int = 0,
    judge: Judge | None = None,
) -> Evaluation:
    """Evaluates neutral faces, reconstructions and exchanges.

    Args:
      model: the model.
      path: folder of `<person>/*.jpg`. The first image of each person by name is used.
      without: people to leave out, because the model was trained on them.
      crop: central fraction of the images that is kept, above 0 to 1.
      limit: most people, the first by name. 0 means all.
      judge: measures images. None means dlib's judge.

    Returns:
      The evaluation, with a panel.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If there are fewer than three people, or an image cannot be read.
      MissingExtraError: If dlib or its models are not installed.
    """
    judge = judge or dlib_judge()
    people = first_images(path, without=without, limit=limit)
    files = [images[0] for images in people.values()]
    inputs = load_images(files, size=model.size, crop=crop)

    generated = _generate(model, inputs)
    seen = {"input": judge(inputs)}
    seen |= {name: judge(images) for name, images in generated.items()}
    angles = {
        name: head_angles(judgement.landmarks) for name, judgement in seen.items()
    }

    # Inputs are the gallery, and decide which heads count as turned.
    input_yaw = angles["input"][:, 0]
    is_turned = np.abs(input_yaw) > TURNED
    gallery = seen["input"].codes

    rows = {}
    for name, judgement in seen.items():
        row = _measure_pose(judgement, angles[name], is_turned)
        if name != "input":
            images = generated[name]
            own = np.arange(len(files))
            identity = compare_identity(
                judgement.codes, gallery, own, threshold=SAME_PERSON
            )
            sharpness = relative_sharpness(images, inputs)
            row = row._replace(identity=identity, sharpness=sharpness)
        if name == "reconstruction":
            difference, similarity = likeness(images, inputs)
            row = row._replace(difference=difference, similarity=similarity)
        rows[name] = row

    other = _another_image(people, model.size, crop, gallery, judge)
    if other is not None:
        rows["another image of the person"] = other

    details: dict[str, Any] = {
        "people": list(people),
        "yaw": input_yaw.round(1).tolist(),
    }
    # The driver of each face is the next person.
    driver_yaw = np.roll(input_yaw, -1)
    if "motion exchange" in angles:
        gap = np.abs(angles["motion exchange"][:, 0] - driver_yaw)
        details["motion exchange"] = {
            "mean yaw difference to the driver": float(gap.mean())
        }
    counts = {"people": len(files), "turned heads": int(is_turned.sum())}
    return Evaluation(
        task="faces",
        protocol=_PROTOCOL,
        rows=rows,
        details=details,
        classes=(),
        counts=counts,
        warnings=(),
        panels={"faces": _panel(inputs, generated, input_yaw)},
    )


_PROTOCOL = (
    "Faces of people not trained on, one image a person, evaluated at the model's size "
    "by dlib's detector, landmarks and ResNet face network, none of which took part in "
    "training. Rank-1: the nearest of all inputs is the right person's. Same person: "
    f"within the network's threshold of {SAME_PERSON} of the right input. AUC: right "
    "input against all others. Sharpness: standard deviation of the Laplacian in the "
    "middle half, over the input's. Difference (fraction of the range) and SSIM with "
    "the input. Yaw, pitch and roll: mean absolute angles in degrees; 'turned': the "
    f"yaw of heads whose input is turned by more than {TURNED:g}. Motion exchange: the "
    "person with the next one's motion. Identity exchange: the person's identity on "
    "the next one's mean face. Another image: the figures of a second photograph of "
    "the same person, where there is one."
)


def _generate(model: FaceCycle, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Generates all kinds of images, uint8 [N, S, S, 3] by name."""
    # Each person is exchanged with the next one. Results are [N, 2, S, S, 3].
    exchanged = model.translate(inputs, np.roll(inputs, -1, axis=0))
    generated = {
        "neutral": exchanged["neutral"][:, 0],
        "reconstruction": model.reconstruct(inputs),
        "motion exchange": exchanged["reexpressed"][:, 0],
    }
    if model.has_identity:
        generated["identity exchange"] = exchanged["reidentified"][:, 0]
    return generated


def _measure_pose(
    judgement: Judgement, angles: np.ndarray, is_turned: np.ndarray
) -> FaceFigures:
    """Computes the figures that need no other images: detection and head pose.

    Args:
      judgement: of the images.
      angles: [N, 3], degrees.
      is_turned: bool [N], whether the head of the input is turned.

    Returns:
      A row without the other figures.
    """
    yaw, pitch, roll = np.abs(angles).mean(axis=0).tolist()
    turned = None
    if is_turned.any():
        turned = float(np.abs(angles[is_turned, 0]).mean())
    return FaceFigures(
        found=float(judgement.found.mean()),
        angles=(yaw, pitch, roll),
        turned=turned,
    )


def _another_image(
    people: dict[str, list[str]],
    size: int,
    crop: float,
    gallery: np.ndarray,
    judge: Judge,
) -> FaceFigures | None:
    """Evaluates the second images of people, which shows what the judge can reach.

    It returns None if nobody has a second image.
    """
    own = []
    files = []
    for place, images in enumerate(people.values()):
        if len(images) > 1:
            own.append(place)
            files.append(images[1])
    if not files:
        return None

    judgement: Judgement = judge(load_images(files, size=size, crop=crop))
    identity = compare_identity(
        judgement.codes, gallery, np.array(own), threshold=SAME_PERSON
    )
    return FaceFigures(found=float(judgement.found.mean()), identity=identity)


def _panel(
    inputs: np.ndarray, generated: dict[str, np.ndarray], yaw: np.ndarray
) -> np.ndarray:
    """Draws faces evenly spaced from the most turned to the most frontal one."""
    # Ranks at equal distances, of which the first and the last are included.
    order = np.argsort(-np.abs(yaw), kind="stable")
    count = min(_SHOWN, len(order))
    ranks = np.linspace(0, len(order) - 1, count).round().astype(int)
    shown = order[ranks]

    columns = {
        "input": inputs,
        "neutral": generated["neutral"],
        "reconstruction": generated["reconstruction"],
        "next person": np.roll(inputs, -1, axis=0),
        "motion exchange": generated["motion exchange"],
    }
    if "identity exchange" in generated:
        columns["identity exchange"] = generated["identity exchange"]

    rows = [[column[place] for column in columns.values()] for place in shown]
    names = [f"yaw {yaw[place]:.0f}" for place in shown]
    return grid(rows, captions=list(columns), row_captions=names, side=128)
