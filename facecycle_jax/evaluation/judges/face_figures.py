"""Figures of images that a model makes: identity, sharpness, likeness and head pose.

Images are uint8 [N, S, S, 3], RGB; row i of every array belongs to person i.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from facecycle_jax.evaluation.probes.verification import roc
from facecycle_jax.ops import ssim

# Heads turned by more than this count as turned, degrees of yaw.
TURNED = 20.0


class Identity(NamedTuple):
    """How well images show the right person, by codes of an independent network.

    Attributes:
      rank_1: fraction of images whose nearest gallery image is of the right person.
      accepted: fraction within the network's threshold of the right person's gallery
        image.
      false_accepted: the same for gallery images of other people.
      auc: area under the ROC curve of right against other people.
    """

    rank_1: float
    accepted: float
    false_accepted: float
    auc: float


class FaceFigures(NamedTuple):
    """A row of the table; None where a figure has no meaning.

    Attributes:
      found: fraction of images in which a face is detected.
      identity: against the inputs.
      sharpness: standard deviation of the Laplacian as a ratio to the input's, mean.
      difference: mean absolute difference to the input, a fraction of the range.
      similarity: mean SSIM with the input.
      angles: mean absolute yaw, pitch and roll, degrees.
      turned: mean absolute yaw where the input's is above `TURNED`, degrees.
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
        values["identity"] = (
            self.identity._asdict() if self.identity is not None else None
        )
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
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def compare_identity(
    codes: np.ndarray, gallery: np.ndarray, own: np.ndarray, *, threshold: float
) -> Identity:
    """Compares images with a gallery of one image a person.

    Args:
      codes: float [N, D] of the images.
      gallery: float [G, D].
      own: int [N], the place in the gallery of each image's person.
      threshold: Euclidean distance below which two codes are taken for one person.

    Returns:
      The figures.
    """
    # [N, G]; the differences themselves, since expanding the square loses digits where
    # codes are close.
    distances = np.linalg.norm(codes[:, None] - gallery[None], axis=-1)
    is_own = np.arange(len(gallery))[None] == own[:, None]
    nearest = distances.argmin(axis=1)
    false_rate, true_rate = roc(-distances.ravel(), is_own.ravel())
    return Identity(
        rank_1=float(np.mean(nearest == own)),
        accepted=float(np.mean(distances[is_own] < threshold)),
        false_accepted=float(np.mean(distances[~is_own] < threshold)),
        auc=float(np.trapezoid(true_rate, false_rate)),
    )


def sharpness(images: np.ndarray) -> np.ndarray:
    """Computes the standard deviation of the Laplacian in the middle half of each image.

    Args:
      images: uint8 [N, S, S, 3].

    Returns:
      float64 [N], units of pixel values.
    """
    luma = images.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    neighbours = (
        luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    )
    laplacian = neighbours - 4 * luma[:, 1:-1, 1:-1]

    height, width = laplacian.shape[1:]
    middle = laplacian[
        :, height // 4 : height - height // 4, width // 4 : width - width // 4
    ]
    return middle.std(axis=(1, 2))


def relative_sharpness(images: np.ndarray, inputs: np.ndarray) -> float:
    """Computes the mean ratio of the sharpness of images to that of their inputs."""
    return float(np.mean(sharpness(images) / np.maximum(sharpness(inputs), 1e-6)))


def likeness(images: np.ndarray, inputs: np.ndarray) -> tuple[float, float]:
    """Compares images with the inputs they should equal.

    Args:
      images: uint8 [N, S, S, 3].
      inputs: uint8 [N, S, S, 3].

    Returns:
      Mean absolute difference, a fraction of the range, and mean SSIM (Gaussian window
      of 11 pixels).
    """
    ours = images.astype(np.float32) / 255
    wanted = inputs.astype(np.float32) / 255
    similarity = ssim(jnp.asarray(ours), jnp.asarray(wanted), value_range=1.0)
    return float(np.abs(ours - wanted).mean()), float(jnp.mean(similarity))
