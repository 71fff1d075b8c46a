"""Recognition of people under light from other directions than in the gallery."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.data.labelled.yale_b import OFFICIAL, LitFaces
from facecycle_jax.evaluation.features import FeatureSet, extract
from facecycle_jax.evaluation.probes.verification import identification
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.evaluation.scaling import unit_length

# Angles of the light at which the usual subsets 1 to 5 end, degrees.
SUBSETS = (12.0, 25.0, 50.0, 77.0, 180.0)


class LightFigures(NamedTuple):
    """A row of the table.

    Attributes:
      rank_1: fraction of all probes whose nearest gallery image shows the right person.
      auc: area under the ROC curve of all probes against the gallery.
      rank_1_by_light: by subset of lights, the most frontal one first.
      auc_by_light: by the same subsets.
    """

    rank_1: float
    auc: float
    rank_1_by_light: dict[str, float]
    auc_by_light: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """Returns all figures, for JSON."""
        return self._asdict()

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        rates = {
            f"{name}, %": f"{100 * rate:.1f}"
            for name, rate in self.rank_1_by_light.items()
        }
        areas = {f"AUC {name}": f"{auc:.4f}" for name, auc in self.auc_by_light.items()}
        return {
            "rank-1 %": f"{100 * self.rank_1:.1f}",
            **rates,
            "AUC": f"{self.auc:.4f}",
            **areas,
        }


def evaluate_lights(
    features: Mapping[str, FeatureSet], faces: LitFaces, *, crop: float = 1.0
) -> Evaluation:
    """Evaluates identification and verification by cosine, by the angle of the light.

    Args:
      features: by name. They are fitted or centred on the gallery alone.
      faces: the images.
      crop: central fraction of the images that is kept.

    Returns:
      The evaluation.
    """
    # The gallery holds one image of each person, in the order of `people`.
    is_gallery = faces.angle == 0
    gallery = np.array(
        [
            np.flatnonzero(is_gallery & (faces.person == person))[0]
            for person in range(len(faces.people))
        ]
    )
    probes = np.flatnonzero(~is_gallery)
    subset = np.searchsorted(SUBSETS, faces.angle[probes])

    enrolled = [faces.files[index] for index in gallery]

    rows = {}
    for name, kind in features.items():
        function = kind.fitted(
            functools.partial(load_images, enrolled, size=kind.size, crop=crop)
        )
        codes = extract(function, list(faces.files), size=kind.size, crop=crop)
        if kind.adapt is not None:
            codes = kind.adapt(codes[gallery])(codes)

        # [probes, gallery].
        codes = unit_length(np.asarray(codes, np.float64))
        cosines = codes[probes] @ codes[gallery].T
        rows[name] = _figures(cosines, faces.person[probes], subset)

    warnings = []
    if len(faces.people) != OFFICIAL["people"]:
        warnings.append(
            f"{len(faces.people)} people, Extended Yale B has {OFFICIAL['people']}."
        )
    return Evaluation(
        task="lights",
        protocol=_PROTOCOL,
        rows=rows,
        details={},
        classes=(),
        counts={"people": len(faces.people), "probes": len(probes)},
        warnings=tuple(warnings),
    )


_PROTOCOL = (
    "Gallery: one image a person under frontal light (A+000E+00). Probes: the same "
    "people under all other lights. Cosine of features; rank-1 is the fraction of "
    "probes whose nearest gallery image is the right person's, AUC that of right "
    "against other people. Columns by the angle between light and camera. What is "
    "fitted (pca) or centred is so on the gallery alone."
)


def _figures(
    cosines: np.ndarray, person: np.ndarray, subset: np.ndarray
) -> LightFigures:
    """Computes a row.

    Args:
      cosines: [probes, gallery].
      person: int [probes].
      subset: int [probes], index of the light's angle in `SUBSETS`.

    Returns:
      The row.
    """
    by_rank = {}
    by_auc = {}
    for number in np.unique(subset):
        inside = subset == number
        start = SUBSETS[number - 1] if number else 0
        name = f"{start:g}-{SUBSETS[number]:g}°"
        by_rank[name], by_auc[name] = identification(cosines[inside], person[inside])

    rank_1, auc = identification(cosines, person)
    return LightFigures(
        rank_1=rank_1,
        auc=auc,
        rank_1_by_light=by_rank,
        auc_by_light=by_auc,
    )
