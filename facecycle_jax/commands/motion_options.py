"""Options of how a driver's motion is taken over, and their use on codes."""

import argparse

import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.inference import motion_control
from facecycle_jax.inference.face_cycle import FaceCycle, PreparedFaces


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --strength, --only and --relative."""
    least, largest = motion_control.STRENGTHS
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help=f"how much of the driver's motion is taken over, {least:g} to "
        f"{largest:g} (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        choices=motion_control.PARTS,
        help="take over the head pose alone, or all but that",
    )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="add the driver's difference from its first frame to the source's own "
        "motion",
    )


class Motion:
    """How a driver's motion is taken over; of a video, the first frame is kept.

    Args:
      arguments: those of `add_options`.

    Attributes:
      is_plain: whether all of the driver's motion is taken over as it is.

    Raises:
      UserError: If the strength is out of range.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the options."""
        motion_control.check_strength(arguments.strength)
        self._strength = arguments.strength
        self._only = arguments.only
        self._relative = arguments.relative
        self._first: np.ndarray | None = None
        self.is_plain = (
            self._strength == 1 and self._only is None and not self._relative
        )

    def check_drivers(self, count: int) -> None:
        """Raises UserError if --relative has one driver, whose motion is then none."""
        if self._relative and count < 2:
            raise UserError(
                "--relative needs a driving video or several drivers, because motion "
                "counts from the first of them."
            )

    def codes(
        self, model: FaceCycle, source: np.ndarray, driver: np.ndarray
    ) -> np.ndarray:
        """Computes the codes of a source that is moved by the next drivers.

        Args:
          model: the model.
          source: [1, D] or [N, D], codes of the source.
          driver: [N, D], codes of the drivers. With --relative the first of all calls
            counts as rest.

        Returns:
          float32 [N, D].
        """
        if self._relative and self._first is None:
            self._first = driver[:1]

        return motion_control.combine(
            source,
            driver,
            strength=self._strength,
            only=self._only,
            reference=self._first,
            directions=None if self._only is None else model.pose_directions(),
        )

    def draw(
        self, model: FaceCycle, faces: PreparedFaces, drivers: np.ndarray
    ) -> np.ndarray:
        """Draws faces with the motion of drivers.

        Args:
          model: the model.
          faces: F prepared faces.
          drivers: [N, D], codes of the next drivers.

        Returns:
          uint8 [N, F, S, S, 3].
        """
        drawn = []
        for index in range(len(faces.motion_code)):
            face = faces.take(slice(index, index + 1))
            moved = self.codes(model, face.motion_code, drivers)
            drawn.append(model.express(face, moved))
        return np.stack(drawn, axis=1)
