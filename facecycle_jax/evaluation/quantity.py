"""Measured figures with a reference: the figure that one gets without a model."""

from typing import Any, NamedTuple

from facecycle_jax.errors import UserError


class Figure(NamedTuple):
    """One figure and its reference.

    Attributes:
      value: the figure.
      reference: the figure that one gets without a model.
      meaning: description of the reference.
      unit: 'difference' (a fraction of the pixel range), '%', 'degrees' or 'R2'.
    """

    value: float
    reference: float
    meaning: str
    unit: str


class Quantity(NamedTuple):
    """A row of the table, with a figure of the model and one of random weights.

    Attributes:
      model: of the model, or None.
      random: of a model with random weights, or None.
    """

    model: Figure | None
    random: Figure | None

    def figures(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        some = self._some()
        values = {name: figure.value for name, figure in self._columns().items()}
        return values | {
            "reference": some.reference,
            "meaning": some.meaning,
            "unit": some.unit,
        }

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        some = self._some()
        digits = {"%": 1, "degrees": 2}.get(some.unit, 3)
        cells = {
            name: f"{figure.value:.{digits}f}"
            for name, figure in self._columns().items()
        }
        return cells | {
            "reference": f"{some.reference:.{digits}f}",
            "the reference is": some.meaning,
        }

    def _columns(self) -> dict[str, Figure]:
        """Returns the figures that there are, by the name of their column."""
        columns = {"figure": self.model, "random weights": self.random}
        return {name: value for name, value in columns.items() if value is not None}

    def _some(self) -> Figure:
        """Returns a figure whose reference, meaning and unit are those of the row."""
        some = self.model or self.random
        if some is None:
            raise UserError("a quantity needs a figure.")
        return some
