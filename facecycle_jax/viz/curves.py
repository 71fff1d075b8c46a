"""Line plots of scalars over training steps.

Needs matplotlib, part of the extra `eval`.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from facecycle_jax.errors import UserError, importing
from facecycle_jax.files import write_whole


def curves(
    path: epath.PathLike,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    logarithmic: bool = False,
) -> None:
    """Draws lines over a common axis into a PNG file.

    Args:
      path: where to, local or in the cloud; an existing file is replaced.
      series: (steps, values) by the name in the legend; values that are not finite
        leave a gap.
      title: text above the plot.
      x_label: text under the horizontal axis.
      y_label: text next to the vertical axis.
      logarithmic: whether the vertical axis is logarithmic.

    Raises:
      MissingExtraError: if matplotlib is not installed.
      UserError: if there is no line, or a line has more or fewer steps than values.
    """
    lengths = {
        name: (len(steps), len(values)) for name, (steps, values) in series.items()
    }
    if not lengths or any(steps != values for steps, values in lengths.values()):
        raise UserError(
            "curves needs lines with as many steps as values, "
            f"got (steps, values) of {lengths}."
        )

    with importing("Plots need matplotlib", extra="eval"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    # A figure of its own keeps pyplot's global state and window backends out of
    # training processes.
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    for name, (steps, values) in series.items():
        heights = np.asarray(values, np.float64)
        drawn = np.where(np.isfinite(heights), heights, np.nan)
        marker = "." if len(values) < 30 else ""
        axes.plot(np.asarray(steps), drawn, label=name, linewidth=1.4, marker=marker)

    if logarithmic:
        axes.set_yscale("log")
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Next to the plot, where it hides no line.
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    buffer = io.BytesIO()
    canvas.print_png(buffer)
    write_whole(path, buffer.getvalue())
