"""Extended Yale B, cropped: `<person>/<person>_P00A<azimuth>E<elevation>.jpg`.

Other endings, such as .pgm, are read too.

References:
  Georghiades et al., "From Few to Many: Illumination Cone Models for Face Recognition
  under Variable Lighting and Pose", PAMI 2001; Lee et al., "Acquiring Linear Subspaces
  for Face Recognition under Variable Lighting", PAMI 2005.
"""

import dataclasses
import os
import re

import numpy as np

from facecycle_jax.data.labelled.images import choose
from facecycle_jax.errors import UserError

# People and lights of the whole set. The published set lacks a few of its images.
OFFICIAL = {"people": 38, "lights": 64}
_NAME = re.compile(
    r"(?P<person>.+)_P00A(?P<azimuth>[+-]\d{3})E(?P<elevation>[+-]\d{2})"
    r"\.(jpg|jpeg|png|pgm)"
)


@dataclasses.dataclass(frozen=True)
class LitFaces:
    """Images of people under single lights.

    Attributes:
      files: names of the images.
      person: int [N], index into `people`.
      angle: float64 [N], angle between the light and the camera in degrees; 0 is
        frontal light.
      people: names of the people.
    """

    files: tuple[str, ...]
    person: np.ndarray
    angle: np.ndarray
    people: tuple[str, ...]

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.files)

    def limited(self, limit: int, *, seed: int = 0) -> "LitFaces":
        """Draws at most `limit` images, in addition to those of frontal light.

        Args:
          limit: largest number; 0: all.
          seed: seed of the draw.

        Returns:
          The images, in the same order.
        """
        frontal = np.flatnonzero(self.angle == 0)
        others = np.flatnonzero(self.angle != 0)
        drawn = others[choose(len(others), limit=limit, seed=seed)]
        kept = np.sort(np.concatenate([frontal, drawn]))
        return dataclasses.replace(
            self,
            files=tuple(self.files[index] for index in kept),
            person=self.person[kept],
            angle=self.angle[kept],
        )


def light_angle(azimuth: float, elevation: float) -> float:
    """Computes the angle between a light and the camera's axis.

    Args:
      azimuth: degrees.
      elevation: degrees.

    Returns:
      Degrees, 0 to 180.
    """
    # The component along the camera's axis of a unit vector towards the light.
    cosine = np.cos(np.radians(azimuth)) * np.cos(np.radians(elevation))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def read_yale_b(root: str) -> LitFaces:
    """Lists the images and their lights.

    Args:
      root: folder of the people's folders. Files with other names, such as those of
        ambient light, are skipped.

    Returns:
      The images, by person and name.

    Raises:
      FileNotFoundError: If there is no such folder.
      UserError: If there are fewer than two people, or one has no image of frontal
        light.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"there is no folder {root}.")

    files = []
    person = []
    angle = []
    people: list[str] = []

    for name in sorted(os.listdir(root)):
        folder = os.path.join(root, name)
        if not os.path.isdir(folder):
            continue

        matches = [(file, _NAME.fullmatch(file)) for file in sorted(os.listdir(folder))]
        lit = [(file, match) for file, match in matches if match]
        for file, match in lit:
            azimuth = float(match["azimuth"])
            elevation = float(match["elevation"])
            files.append(os.path.join(folder, file))
            person.append(len(people))
            angle.append(light_angle(azimuth, elevation))

        if lit:
            people.append(name)

    if len(people) < 2:
        raise UserError(
            f"{root} must hold <person>/<person>_P00A<azimuth>E<elevation>.jpg of two "
            "people or more."
        )

    faces = LitFaces(
        files=tuple(files),
        person=np.array(person),
        angle=np.array(angle),
        people=tuple(people),
    )
    for index, name in enumerate(people):
        if not (faces.angle[faces.person == index] == 0).any():
            raise UserError(
                f"{root} has no image of {name} under frontal light, A+000E+00."
            )

    return faces
