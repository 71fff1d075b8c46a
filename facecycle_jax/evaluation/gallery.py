"""Galleries: images to look at, without figures.

They show frontalisation, translation, nearest neighbours of codes and maps of codes.
"""

from typing import Any

import numpy as np

from facecycle_jax.data.images.reading import (
    array_to_rgb,
    list_inputs,
    read_image,
)
from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.neighbours import PROJECTIONS, nearest, project
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.viz import grid, thumbnail_map, translation_panel

# Smallest number of images, which maps of codes need.
_FEWEST = 3
# Faces in a panel.
ROWS = 8
# Translated pairs.
PAIRS = 3
# Neighbours of each face.
NEIGHBOURS = 6


def draw_gallery(
    model: FaceCycle,
    images: Any,
    *,
    projection: str = "pca",
    crop: float = 1.0,
    limit: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Draws panels of what a model generates from given images.

    Args:
      model: the model.
      images: files, folders or arrays, see `FaceCycle`; three or more.
      projection: of the maps, 'pca' or 'tsne'.
      crop: central fraction of the images that is kept, above 0 to 1.
      limit: most images, sampled at random. 0 means all, else three or more.
      seed: of the random choices.

    Returns:
      An evaluation without rows. Its panels are frontalisation, translation_1 to _3 (of
      pairs of the faces in the first panel), and neighbours_CODE and map_CODE for each
      code. Its details are the files, and the positions in each map.

    Raises:
      UserError: If an option is out of range, or fewer than three images can be read.
      FileNotFoundError: If the one image given does not exist.

    References:
      FaceCycle (ICCV 2021), sections 4.4 and 4.5.
    """
    if projection not in PROJECTIONS:
        raise UserError(
            f"a map is made by one of {', '.join(PROJECTIONS)}, got {projection!r}."
        )
    if not 0 < crop <= 1:
        raise UserError(f"crop must be above 0 and at most 1, got {crop}.")

    if limit and limit < _FEWEST:
        raise UserError(
            "a gallery needs at least three images: limit must be 0 (all) or "
            f"{_FEWEST} and more, got {limit}."
        )

    faces, names, problems = _read(
        images, size=model.size, crop=crop, limit=limit, seed=seed
    )
    if len(faces) < _FEWEST:
        reason = f" {problems[0]}" if problems else ""
        raise UserError(
            f"a gallery needs at least three images, got {len(faces)}.{reason}"
        )

    # The first panels show the same few faces, the second ones in pairs.
    shown = np.random.default_rng(seed).permutation(len(faces))[:ROWS]
    panels = {"frontalisation": _frontalisation(model, faces[shown])}
    for number in range(min(PAIRS, len(shown) // 2)):
        source, driver = faces[shown[2 * number : 2 * number + 2]]
        panels[f"translation_{number + 1}"] = _translation(model, source, driver)

    # Thumbnails pasted last lie on top: those of faces in the other panels.
    others = np.setdiff1d(np.arange(len(faces)), shown)
    order = np.concatenate([others, shown])
    details: dict[str, Any] = {"files": names, "shown": shown.tolist(), "maps": {}}
    codes = ("motion_code", "identity_code") if model.has_identity else ("motion_code",)
    for name, values in model.outputs(faces, codes).items():
        title = name.replace("_", " ")
        panels[f"neighbours_{name}"] = _neighbours(values, faces, shown, title)

        points = project(values, method=projection, seed=seed)
        panels[f"map_{name}"] = thumbnail_map(points[order], faces[order])
        details["maps"][name] = points.round(4).tolist()

    method = "principal components" if projection == "pca" else "t-SNE"
    protocol = (
        f"Faces sampled at random with seed {seed}; neighbours by cosine among all "
        f"images; maps by {method}, each axis stretched to the panel."
    )
    return Evaluation(
        task="gallery",
        protocol=protocol,
        rows={},
        details=details,
        classes=(),
        counts={"images": len(faces)},
        warnings=tuple(problems),
        panels=panels,
    )


def _read(
    images: Any, *, size: int, crop: float, limit: int = 0, seed: int = 0
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads the centre of images drawn at random.

    Only the images drawn are read. Another one is drawn for each that cannot be read.
    The centre is cut out before it is resized, so that the required memory does not
    depend on `crop`.

    Args:
      images: files, folders or arrays.
      size: side of the result, in pixels.
      crop: central fraction of the images that is kept.
      limit: most images. 0 means all.
      seed: of the draw.

    Returns:
      uint8 [N, size, size, 3] and the names of these images, in the order of the
      inputs, and a sentence for each drawn image that cannot be read.
    """
    inputs = list(list_inputs(images))
    order = np.arange(len(inputs))
    if limit and limit < len(inputs):
        order = np.random.default_rng(seed).permutation(len(inputs))

    found: dict[int, np.ndarray] = {}
    problems = []
    for index in order.tolist():
        if limit and len(found) == limit:
            break

        # Decoding may reduce a large image, unless its centre is cut out.
        name, item = inputs[index]
        needed = size if crop == 1 else 0
        is_array = isinstance(item, np.ndarray)
        try:
            image = item if is_array else read_image(item, at_least=needed)
        except (ValueError, FileNotFoundError) as error:
            if len(inputs) == 1:
                raise
            problems.append(str(error) if name in str(error) else f"{name}: {error}")
            continue

        # Several images may differ in size, so each is a batch of its own.
        centre = load_images(array_to_rgb(image)[None], size=size, crop=crop)
        found[index] = centre[0]

    indices = sorted(found)
    blank = np.zeros((0, size, size, 3), np.uint8)
    stacked = np.stack([found[index] for index in indices]) if indices else blank
    return stacked, [inputs[index][0] for index in indices], problems


def _frontalisation(model: FaceCycle, faces: np.ndarray) -> np.ndarray:
    """Draws a row of input, flow and neutral face for each face.

    With stage 2, a row ends with the mean face.
    """
    names = ["input", "flow", "neutral"]
    if model.has_identity:
        names.append("mean_face")
    outputs = model.outputs(faces, names)

    columns = {name.replace("_", " "): value for name, value in outputs.items()}
    rows = [[column[row] for column in columns.values()] for row in range(len(faces))]
    return grid(rows, captions=list(columns), side=96)


def _translation(
    model: FaceCycle, source: np.ndarray, driver: np.ndarray
) -> np.ndarray:
    """Draws the exchange between two faces."""
    result = {name: value[0] for name, value in model.translate(source, driver).items()}
    if model.has_identity:
        return translation_panel(result)

    # Without stage 2 there is nothing but the exchange of motion.
    names = {
        "input": "input",
        "flow": "flow",
        "neutral": "neutral",
        "reexpressed": "other's motion",
    }
    rows = [[result[name][face] for name in names] for face in range(2)]
    return grid(rows, captions=list(names.values()), row_captions=("source", "driver"))


def _neighbours(
    codes: np.ndarray, faces: np.ndarray, shown: np.ndarray, title: str
) -> np.ndarray:
    """Draws some faces, each followed by the faces with the nearest codes."""
    order, cosines = nearest(codes, shown, count=NEIGHBOURS)

    # Row i of both results belongs to the face number shown[i].
    rows = [
        [faces[query], *faces[found]] for query, found in zip(shown, order, strict=True)
    ]
    captions = [["query", *(f"{cosine:.3f}" for cosine in row)] for row in cosines]
    return grid(rows, captions=captions, title=f"nearest by {title}, cosine", side=96)
