"""Figures of generated images: identity, sharpness, likeness and head pose.

Images are uint8 [N, S, S, 3], RGB. Row i of every array belongs to person i.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from facecycle_jax.evaluation.probes.verification import identification
from facecycle_jax.ops import ssim
from facecycle_jax.ops.normalisation import LUMA

# Absolute yaw above which a head counts as turned, degrees.
TURNED = 20.0
# Most differences of numbers in codes that are held at once; in float64, 32 MB.
_DIFFERENCES = 1 << 22


class Identity(NamedTuple):
    """Figures of identity, by codes of an independent network.

    Attributes:
      rank_1: fraction of images whose nearest gallery image shows the right person.
      accepted: fraction of images within the network's threshold of the right person's
        gallery image.
      false_accepted: the same fraction for gallery images of other people.
      auc: area under the ROC curve of right against other people.
    """

    rank_1: float
    accepted: float
    false_accepted: float
    auc: float


class FaceFigures(NamedTuple):
    """A row of the table; figures without meaning are None.

    Attributes:
      found: fraction of images in which a face is detected.
      identity: compared with the inputs.
      sharpness: mean ratio of the sharpness to the input's; see `sharpness`.
      difference: mean absolute difference to the input, a fraction of the pixel range.
      similarity: mean SSIM with the input.
      angles: mean absolute yaw, pitch and roll, degrees.
      turned: mean absolute yaw of heads whose input is turned, degrees.
    """

    found: float
    identity: Identity | None = None
    sharpness: float | None = None
    difference: float | None = None
    similarity: float | None = None
    angles: tuple[float, float, float] | None = None
    turned: float | None = None

    def figures(self) -> dict[str, Any]:
        """Returns all figures, for JSON."""
        values = self._asdict()
        if self.identity is not None:
            values["identity"] = self.identity._asdict()
        return values

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        identity = self.identity
        angles = self.angles or (None, None, None)
        return {
            "face found %": _percent(self.found),
            "rank-1 %": _percent(identity and identity.rank_1),
            "same person %": _percent(identity and identity.accepted),
            "AUC": _number(identity and identity.auc, 4),
            "sharpness": _number(self.sharpness, 2),
            "difference": _number(self.difference, 3),
            "SSIM": _number(self.similarity, 3),
            "yaw": _number(angles[0], 1),
            "pitch": _number(angles[1], 1),
            "roll": _number(angles[2], 1),
            "yaw, turned": _number(self.turned, 1),
        }


def _percent(value: float | None) -> str:
    """Formats a fraction in percent; None is empty."""
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    """Formats a number; None is empty."""
    return "" if value is None else f"{value:.{digits}f}"


def compare_identity(
    codes: np.ndarray, gallery: np.ndarray, own: np.ndarray, *, threshold: float
) -> Identity:
    """Compares images with a gallery of one image of each person.

    Args:
      codes: float [N, D] of the images.
      gallery: float [G, D].
      own: int [N], index in the gallery of each image's person.
      threshold: Euclidean distance below which two codes are accepted as one person.

    Returns:
      The figures.
    """
    # [N, G], some rows at a time, because the differences [rows, G, D] of all rows may
    # not fit into memory. Expanding the square would need less, but loses digits where
    # codes are close.
    rows = max(1, _DIFFERENCES // max(1, gallery.size))
    distances = np.empty((len(codes), len(gallery)))
    for start in range(0, len(codes), rows):
        part = slice(start, start + rows)
        distances[part] = np.linalg.norm(codes[part, None] - gallery[None], axis=-1)

    rank_1, auc = identification(-distances, own)
    is_own = np.arange(len(gallery))[None] == own[:, None]
    return Identity(
        rank_1=rank_1,
        accepted=float(np.mean(distances[is_own] < threshold)),
        false_accepted=float(np.mean(distances[~is_own] < threshold)),
        auc=auc,
    )


def sharpness(images: np.ndarray) -> np.ndarray:
    """Computes the standard deviation of the Laplacian in the middle of each image.

    The middle has half of the height and half of the width, without the background.

    Args:
      images: uint8 [N, S, S, 3].

    Returns:
      float64 [N], in units of pixel values.
    """
    # Four neighbours minus four times the pixel itself, [N, S - 2, S - 2].
    luma = images.astype(np.float64) @ np.array(LUMA)
    neighbours = (
        luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    )
    laplacian = neighbours - 4 * luma[:, 1:-1, 1:-1]

    height, width = laplacian.shape[1:]
    top = height // 4
    left = width // 4
    middle = laplacian[:, top : height - top, left : width - left]
    return middle.std(axis=(1, 2))


def relative_sharpness(images: np.ndarray, inputs: np.ndarray) -> float:
    """Computes the mean ratio of the sharpness of images to that of their inputs."""
    ratio = sharpness(images) / np.maximum(sharpness(inputs), 1e-6)
    return float(np.mean(ratio))


def likeness(images: np.ndarray, inputs: np.ndarray) -> tuple[float, float]:
    """Compares images with the inputs they should equal.

    Args:
      images: uint8 [N, S, S, 3].
      inputs: uint8 [N, S, S, 3].

    Returns:
      Mean absolute difference, a fraction of the pixel range, and mean SSIM (Gaussian
      window of 11 pixels).
    """
    generated = images.astype(np.float32) / 255
    expected = inputs.astype(np.float32) / 255
    difference = np.abs(generated - expected).mean()
    similarity = ssim(jnp.asarray(generated), jnp.asarray(expected), value_range=1.0)
    return float(difference), float(jnp.mean(similarity))
