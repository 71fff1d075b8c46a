"""Evaluation of generated images of new people by independent networks."""

import os
from collections.abc import Collection, Mapping
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
from facecycle_jax.evaluation.options import unknown_names_warning
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.viz import grid

# Smallest number of people, whose faces are exchanged and told apart.
FEWEST_FACES = 3
# Most rows of the panel.
_SHOWN = 8


def first_images(
    path: str, *, without: Collection[str], limit: int
) -> dict[str, list[str]]:
    """Lists the first two images of each person by name.

    Args:
      path: folder of `<person>/*.jpg`.
      without: people to leave out.
      limit: most people, the first by name. 0 means all, else three or more.

    Returns:
      One or two files by person.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If there are fewer than three people, or the limit is.
    """
    if limit and limit < FEWEST_FACES:
        raise UserError(
            "task faces needs at least three people: limit must be 0 (all) or "
            f"{FEWEST_FACES} and more, got {limit}."
        )
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is no folder {path}.")

    left_out = set(without)
    people: dict[str, list[str]] = {}
    for person in sorted(os.listdir(path)):
        if person in left_out or not _is_person(path, person):
            continue

        folder = os.path.join(path, person)
        names = [name for name in os.listdir(folder) if is_image_name(name)]
        names = sorted(name for name in names if not name.startswith("."))
        if names:
            people[person] = [os.path.join(folder, name) for name in names[:2]]
        if limit and len(people) == limit:
            break

    if len(people) < FEWEST_FACES:
        raise UserError(
            f"{path} must hold <person>/*.jpg of three people or more, "
            f"has {len(people)}."
        )
    return people


def _is_person(path: str, name: str) -> bool:
    """Whether a name is that of a person's folder."""
    return not name.startswith(".") and os.path.isdir(os.path.join(path, name))


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
      limit: most people, the first by name. 0 means all, else three or more.
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
    images = {"input": inputs, **generated}
    judged = {name: judge(kind) for name, kind in images.items()}
    angles = {name: head_angles(found.landmarks) for name, found in judged.items()}

    # Inputs decide which heads count as turned, and are the gallery.
    input_yaw = angles["input"][:, 0]
    is_turned = np.abs(input_yaw) > TURNED
    gallery = judged["input"].codes
    rows = {
        name: _row(name, images, judged[name], angles[name], is_turned, gallery)
        for name in images
    }
    other = _another_image(people, model.size, crop, gallery, judge)
    if other is not None:
        rows["another image of the person"] = other

    unknown = [name for name in sorted(set(without)) if not _is_person(path, name)]
    return Evaluation(
        task="faces",
        protocol=_protocol(left_out=len(set(without)) - len(unknown)),
        rows=rows,
        details=_details(people, angles),
        classes=(),
        counts={"people": len(files), "turned heads": int(is_turned.sum())},
        warnings=tuple(unknown_names_warning(unknown, where="In no folder")),
        panels={"faces": _panel(inputs, generated, input_yaw)},
    )


def _row(
    name: str,
    images: Mapping[str, np.ndarray],
    judgement: Judgement,
    angles: np.ndarray,
    is_turned: np.ndarray,
    gallery: np.ndarray,
) -> FaceFigures:
    """Computes the figures of one kind of images that have a meaning for it.

    Args:
      name: of the kind.
      images: all kinds, uint8 [N, S, S, 3] by name.
      judgement: of the kind.
      angles: of the kind, [N, 3], degrees.
      is_turned: bool [N], whether the head of the input is turned.
      gallery: codes of the inputs, [N, D].

    Returns:
      The row.
    """
    row = _measure_pose(judgement, angles, is_turned)
    if name == "input":
        return row

    inputs = images["input"]
    own = np.arange(len(inputs))
    row = row._replace(
        identity=compare_identity(judgement.codes, gallery, own, threshold=SAME_PERSON),
        sharpness=relative_sharpness(images[name], inputs),
    )
    if name == "reconstruction":
        difference, similarity = likeness(images[name], inputs)
        row = row._replace(difference=difference, similarity=similarity)
    return row


def _details(
    people: Mapping[str, object], angles: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the names of the people, the yaw of their inputs and how it was moved."""
    input_yaw = angles["input"][:, 0]
    # The driver of each face is the next person.
    driver_yaw = np.roll(input_yaw, -1)
    gap = np.abs(angles["motion exchange"][:, 0] - driver_yaw)
    return {
        "people": list(people),
        "yaw": input_yaw.round(1).tolist(),
        "motion exchange": {"mean yaw difference to the driver": float(gap.mean())},
    }


def _protocol(*, left_out: int) -> str:
    """Describes the protocol; `left_out` is the number of people left out."""
    who = "people whom the model may have been trained on"
    if left_out:
        who = f"people, without {left_out} left out as trained on"
    return f"Faces of {who}, {_PROTOCOL}"


_PROTOCOL = (
    "one image a person, evaluated at the model's size "
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
    for index, images in enumerate(people.values()):
        if len(images) > 1:
            own.append(index)
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

    rows = [[column[index] for column in columns.values()] for index in shown]
    names = [f"yaw {yaw[index]:.0f}" for index in shown]
    return grid(rows, captions=list(columns), row_captions=names, side=128)
