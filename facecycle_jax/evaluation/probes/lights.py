"""Recognition of people under other lights than the frontal one of the gallery."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facecycle_jax.data.labelled.images import load_pictures
from facecycle_jax.data.labelled.yale_b import OFFICIAL, LitFaces
from facecycle_jax.evaluation.features import FeatureSet, extract
from facecycle_jax.evaluation.probes.verification import roc
from facecycle_jax.evaluation.report import Evaluation

# Angles of the light at which the usual subsets 1 to 5 end, degrees.
SUBSETS = (12.0, 25.0, 50.0, 77.0, 180.0)


class LightFigures(NamedTuple):
    """A row of the table.

    Attributes:
      rank_1: fraction of all probes whose nearest gallery image is of the right person.
      auc: area under the ROC curve of all probes against the gallery.
      rank_1_by_light: by subset of lights, from frontal ones on.
      auc_by_light: likewise.
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
        cells = {"rank-1 %": f"{100 * self.rank_1:.1f}"}
        cells |= {
            f"{name}, %": f"{100 * rate:.1f}"
            for name, rate in self.rank_1_by_light.items()
        }
        cells["AUC"] = f"{self.auc:.4f}"
        return cells | {
            f"AUC {name}": f"{auc:.4f}" for name, auc in self.auc_by_light.items()
        }


def judge_lights(
    features: Mapping[str, FeatureSet], faces: LitFaces, *, crop: float = 1.0
) -> Evaluation:
    """Judges features by cosine: identification and verification, by angle of light.

    Args:
      features: by name; what is fitted or centred is so on the gallery alone.
      faces: the images.
      crop: middle part of the images that is kept.

    Returns:
      The figures.
    """
    is_gallery = faces.angle == 0
    # One image a person, in the order of `people`.
    gallery = np.array(
        [
            np.flatnonzero(is_gallery & (faces.person == p))[0]
            for p in range(len(faces.people))
        ]
    )
    probes = np.flatnonzero(~is_gallery)
    subset = np.searchsorted(SUBSETS, faces.angle[probes])

    rows = {}
    for name, kind in features.items():
        enrolled = [faces.files[place] for place in gallery]
        sample = (
            load_pictures(enrolled, size=kind.size, crop=crop)
            if kind.needs_fit
            else np.zeros(0)
        )
        function = kind.fit(sample)
        codes = extract(function, list(faces.files), size=kind.size, crop=crop)
        if kind.adapt is not None:
            codes = kind.adapt(codes[gallery])(codes)
        cosines = _unit(codes[probes]) @ _unit(codes[gallery]).T
        rows[name] = _figures(cosines, faces.person[probes], subset)

    counts = {"people": len(faces.people), "probes": len(probes)}
    warnings = []
    if len(faces.people) != OFFICIAL["people"]:
        warnings.append(
            f"{len(faces.people)} people, Extended Yale B has {OFFICIAL['people']}."
        )
    return Evaluation("lights", _PROTOCOL, rows, {}, (), counts, tuple(warnings))


_PROTOCOL = (
    "Gallery: one image a person under frontal light (A+000E+00). Probes: the same "
    "people under all other lights. Cosine of features; rank-1 is the fraction of "
    "probes whose nearest gallery image is the right person's, AUC that of right "
    "against other people. Columns by the angle between light and camera. What is "
    "fitted (pca) or centred is so on the gallery alone."
)


def _unit(codes: np.ndarray) -> np.ndarray:
    """Brings codes [N, D] to unit length."""
    codes = np.asarray(codes, np.float64)
    return codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-12)


def _figures(
    cosines: np.ndarray, person: np.ndarray, subset: np.ndarray
) -> LightFigures:
    """Computes a row from cosines [probes, gallery], person and subset of each probe."""
    by_rank, by_auc = {}, {}
    for number in np.unique(subset):
        inside = subset == number
        start = SUBSETS[number - 1] if number else 0
        name = f"{start:g}-{SUBSETS[number]:g}°"
        by_rank[name] = _rank_1(cosines[inside], person[inside])
        by_auc[name] = _auc(cosines[inside], person[inside])
    return LightFigures(
        rank_1=_rank_1(cosines, person),
        auc=_auc(cosines, person),
        rank_1_by_light=by_rank,
        auc_by_light=by_auc,
    )


def _rank_1(cosines: np.ndarray, person: np.ndarray) -> float:
    return float(np.mean(cosines.argmax(axis=1) == person))


def _auc(cosines: np.ndarray, person: np.ndarray) -> float:
    is_own = np.arange(cosines.shape[1])[None] == person[:, None]
    false_rate, true_rate = roc(cosines.ravel(), is_own.ravel())
    return float(np.trapezoid(true_rate, false_rate))
