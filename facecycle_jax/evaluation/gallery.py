"""Pictures to look at.

Frontalisation, translation, nearest neighbours of codes, maps of codes.
"""

from typing import Any

import numpy as np

from facecycle_jax.data.images.reading import (
    array_to_rgb,
    as_pictures,
    list_inputs,
    read_picture,
)
from facecycle_jax.data.labelled.images import choose, load_pictures
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.neighbours import PROJECTIONS, nearest, project
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.viz import grid, thumbnail_map, translation_panel

# Faces in a panel, pairs translated, neighbours shown.
ROWS, PAIRS, NEIGHBOURS = 8, 3, 6


def draw_gallery(
    model: FaceCycle,
    pictures: Any,
    *,
    projection: str = "pca",
    crop: float = 1.0,
    limit: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Draws what a model makes of given pictures.

    Args:
      model: the model.
      pictures: files, folders or arrays, see `FaceCycle`; three or more.
      projection: of the maps: 'pca' or 'tsne'.
      crop: middle part of the pictures that is kept, above 0 to 1.
      limit: most pictures, drawn at random; 0: all.
      seed: of the draws.

    Returns:
      Panels: frontalisation; translation_1 to _3, of neighbouring pairs of the faces
        drawn for it;
      neighbours_CODE and map_CODE for each code. Details: the files, and the places in
      each map.

    Raises:
      ValueError: for another projection or fewer than three pictures.
      FileNotFoundError: if there are no such pictures.

    References:
      FaceCycle (ICCV 2021), sections 4.4 and 4.5.
    """
    if projection not in PROJECTIONS:
        raise UserError(
            f"a map is made by one of {', '.join(PROJECTIONS)}, got {projection!r}."
        )
    if not 0 < crop <= 1:
        raise UserError(f"crop must be above 0 and at most 1, got {crop}.")
    faces, names, problems = _read(pictures, size=model.size, crop=crop)
    if len(faces) < 3:
        raise UserError(f"a gallery needs at least three pictures, got {len(faces)}.")
    kept = choose(len(faces), limit=max(limit, 3) if limit else 0, seed=seed)
    faces, names = faces[kept], [names[i] for i in kept]
    shown = np.random.default_rng(seed).permutation(len(faces))[:ROWS]
    panels = {"frontalisation": _frontalisation(model, faces[shown])}
    for number, start in enumerate(
        range(0, min(2 * PAIRS, len(shown) - 1), 2), start=1
    ):
        panels[f"translation_{number}"] = _translation(
            model, *faces[shown[start : start + 2]]
        )
    details: dict[str, Any] = {"files": names, "shown": shown.tolist(), "maps": {}}
    codes = ("motion_code", "identity_code") if model.has_identity else ("motion_code",)
    for name, values in model.outputs(faces, codes).items():
        panels[f"neighbours_{name}"] = _neighbours(
            values, faces, shown, name.replace("_", " ")
        )
        places = project(values, method=projection, seed=seed)
        # The last pasted lie on top: those shown elsewhere last.
        order = np.concatenate([np.setdiff1d(np.arange(len(faces)), shown), shown])
        panels[f"map_{name}"] = thumbnail_map(places[order], faces[order])
        details["maps"][name] = places.round(4).tolist()
    protocol = (
        f"Faces drawn at random with seed {seed}; neighbours by cosine among all pictures; maps by "
        f"{'principal components' if projection == 'pca' else 't-SNE'}, each axis stretched to the picture."
    )
    return Evaluation(
        task="gallery",
        protocol=protocol,
        rows={},
        details=details,
        classes=(),
        counts={"pictures": len(faces)},
        warnings=tuple(problems),
        panels=panels,
    )


def _read(
    pictures: Any, *, size: int, crop: float
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads the middle of images, uint8 [N, size, size, 3].

    Also their names and those left out.

    The middle is cut out before it is resized: the memory that is needed does not
    depend on `crop`.
    """
    if crop == 1:
        return as_pictures(pictures, size=size)

    faces, names, problems = [], [], []
    for name, item in list_inputs(pictures):
        try:
            image = item if isinstance(item, np.ndarray) else read_picture(item)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error) if name in str(error) else f"{name}: {error}")
            continue
        faces.append(load_pictures(array_to_rgb(image)[None], size=size, crop=crop)[0])
        names.append(name)
    return (
        np.stack(faces) if faces else np.zeros((0, size, size, 3), np.uint8),
        names,
        problems,
    )


def _frontalisation(model: FaceCycle, faces: np.ndarray) -> np.ndarray:
    """Draws input, flow, neutral face and, with stage 2, mean face, one row for each face."""
    names = ["input", "flow", "neutral"]
    if model.has_identity:
        names.append("mean_face")
    drawn = model.outputs(faces, names)

    columns = {name.replace("_", " "): value for name, value in drawn.items()}
    rows = [[column[row] for column in columns.values()] for row in range(len(faces))]
    return grid(rows, captions=list(columns), side=96)


def _translation(
    model: FaceCycle, source: np.ndarray, driver: np.ndarray
) -> np.ndarray:
    """Draws the exchange between two faces."""
    result = {name: value[0] for name, value in model.translate(source, driver).items()}
    if model.has_identity:
        return translation_panel(result)
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
    """Draws some faces, each with those of the nearest codes and their cosines."""
    order, cosines = nearest(codes, count=NEIGHBOURS)
    rows = [[faces[i], *(faces[j] for j in order[i])] for i in shown]
    captions = [["query", *(f"{cosine:.3f}" for cosine in cosines[i])] for i in shown]
    return grid(rows, captions=captions, title=f"nearest by {title}, cosine", side=96)
