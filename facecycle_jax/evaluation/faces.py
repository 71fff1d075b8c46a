"""Judges the images that a model makes of new people, by networks that are not its own."""

import os
from collections.abc import Collection
from typing import Any

import numpy as np

from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.labelled.images import load_pictures
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

# Rows of the panel.
_SHOWN = 8


def first_images(
    path: str, *, without: Collection[str], limit: int
) -> dict[str, list[str]]:
    """Lists the first two images of each person, in the order of names.

    Args:
      path: folder of `<person>/*.jpg`.
      without: people to leave out.
      limit: most people; 0: all.

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
            f"{path} must hold <person>/*.jpg of three people or more, has {len(people)}."
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
    """Judges neutral faces, reconstructions and exchanges.

    Args:
      model: the model.
      path: folder of `<person>/*.jpg`; of each person the first image is used, by name.
      without: people to leave out, because the model was trained on them.
      crop: middle part of the images that is kept, above 0 to 1.
      limit: most people, the first by name; 0: all.
      judge: measures images; None takes dlib's.

    Returns:
      The figures and a panel.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If there are fewer than three people, or an image cannot be read.
      MissingExtraError: If dlib or its models are not installed.
    """
    judge = judge or dlib_judge()
    people = first_images(path, without=without, limit=limit)
    files = [images[0] for images in people.values()]
    inputs = load_pictures(files, size=model.size, crop=crop)

    made = _make(model, inputs)
    seen = {name: judge(images) for name, images in {"input": inputs, **made}.items()}
    angles = {
        name: head_angles(judgement.landmarks) for name, judgement in seen.items()
    }
    is_turned = np.abs(angles["input"][:, 0]) > TURNED
    gallery = seen["input"].codes

    rows = {}
    for name, judgement in seen.items():
        images = made.get(name, inputs)
        difference, similarity = (
            likeness(images, inputs) if name == "reconstruction" else (None, None)
        )
        yaw, pitch, roll = np.abs(angles[name]).mean(axis=0).tolist()
        identity = None
        if name != "input":
            everyone = np.arange(len(files))
            identity = compare_identity(
                judgement.codes, gallery, everyone, threshold=SAME_PERSON
            )
        rows[name] = FaceFigures(
            found=float(judgement.found.mean()),
            identity=identity,
            sharpness=relative_sharpness(images, inputs) if name != "input" else None,
            difference=difference,
            similarity=similarity,
            angles=(yaw, pitch, roll),
            turned=float(np.abs(angles[name][is_turned, 0]).mean())
            if is_turned.any()
            else None,
        )
    other = _another_image(people, model.size, crop, gallery, judge)
    if other is not None:
        rows["another image of the person"] = other

    details: dict[str, Any] = {
        "people": list(people),
        "yaw": angles["input"][:, 0].round(1).tolist(),
    }
    # The driver of each face is the next person.
    driver_yaw = np.roll(angles["input"][:, 0], -1)
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
        panels={"faces": _panel(inputs, made, angles["input"][:, 0])},
    )


_PROTOCOL = (
    "Faces of people not trained on, one image a person, judged at the model's size by "
    "dlib's detector, landmarks and ResNet face network, none of which took part in "
    "training. Rank-1: the nearest of all inputs is the right person's. Same person: "
    f"within the network's threshold of {SAME_PERSON} of the right input. AUC: right input "
    "against all others. Sharpness: standard deviation of the Laplacian in the middle "
    "half, over the input's. Difference (fraction of the range) and SSIM with the input. "
    "Yaw, pitch and roll: mean absolute angles in degrees; 'turned': the yaw where the "
    f"input's is above {TURNED:g}. Motion exchange: the person with the next one's motion. "
    "Identity exchange: the person's identity on the next one's mean face. Another image: "
    "what the judge makes of a second photograph of the same person, where there is one."
)


def _make(model: FaceCycle, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Makes all kinds of images, uint8 [N, S, S, 3] by name."""
    exchanged = model.translate(inputs, np.roll(inputs, -1, axis=0))
    made = {
        "neutral": exchanged["neutral"][:, 0],
        "reconstruction": model.reconstruct(inputs),
        "motion exchange": exchanged["reexpressed"][:, 0],
    }
    if model.has_identity:
        made["identity exchange"] = exchanged["reidentified"][:, 0]
    return made


def _another_image(
    people: dict[str, list[str]],
    size: int,
    crop: float,
    gallery: np.ndarray,
    judge: Judge,
) -> FaceFigures | None:
    """Judges the second image of those who have one: what the judge itself reaches."""
    own = np.array(
        [place for place, images in enumerate(people.values()) if len(images) > 1], int
    )
    if not len(own):
        return None
    files = [images[1] for images in people.values() if len(images) > 1]
    judgement: Judgement = judge(load_pictures(files, size=size, crop=crop))
    identity = compare_identity(judgement.codes, gallery, own, threshold=SAME_PERSON)
    return FaceFigures(found=float(judgement.found.mean()), identity=identity)


def _panel(
    inputs: np.ndarray, made: dict[str, np.ndarray], yaw: np.ndarray
) -> np.ndarray:
    """Shows the faces between the most turned and the most frontal one."""
    order = np.argsort(-np.abs(yaw), kind="stable")
    shown = order[
        np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)
    ]
    columns = {
        "input": inputs,
        "neutral": made["neutral"],
        "reconstruction": made["reconstruction"],
        "next person": np.roll(inputs, -1, axis=0),
        "motion exchange": made["motion exchange"],
    }
    if "identity exchange" in made:
        columns["identity exchange"] = made["identity exchange"]
    rows = [[column[place] for column in columns.values()] for place in shown]
    names = [f"yaw {yaw[place]:.0f}" for place in shown]
    return grid(rows, captions=list(columns), row_captions=names, side=128)
