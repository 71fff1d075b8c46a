"""A measured figure with its reference beside it: what one gets without a model."""

from typing import Any, NamedTuple

from facecycle_jax.errors import UserError


class Figure(NamedTuple):
    """One figure and its reference.

    Attributes:
      value: the figure.
      reference: what one gets without a model.
      meaning: what the reference is, in words.
      unit: 'difference' (parts of 1), '%', 'degrees' or 'R2'.
    """

    value: float
    reference: float
    meaning: str
    unit: str


class Quantity(NamedTuple):
    """A row of the table: a figure of the model and of random weights.

    Attributes:
      model: of the model, or None.
      random: of a model with random weights, or None.
    """

    model: Figure | None
    random: Figure | None

    def figures(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        some = self._some()
        columns = (("figure", self.model), ("random weights", self.random))
        values = {name: figure.value for name, figure in columns if figure is not None}
        return values | {
            "reference": some.reference,
            "meaning": some.meaning,
            "unit": some.unit,
        }

    def cells(self) -> dict[str, str]:
        """Returns the table's cells by column."""
        some = self._some()
        digits = 1 if some.unit == "%" else 2 if some.unit == "degrees" else 3
        columns = (("figure", self.model), ("random weights", self.random))
        cells = {
            name: f"{figure.value:.{digits}f}"
            for name, figure in columns
            if figure is not None
        }
        return cells | {
            "reference": f"{some.reference:.{digits}f}",
            "the reference is": some.meaning,
        }

    def _some(self) -> Figure:
        some = self.model or self.random
        if some is None:
            raise UserError("a quantity needs a figure.")
        return some
