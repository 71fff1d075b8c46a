"""The plots of a report: ROC curves, confusion matrices and errors of head pose.

They need matplotlib.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from facecycle_jax.errors import importing
from facecycle_jax.evaluation.probes.classification import Classification
from facecycle_jax.evaluation.probes.verification import Verification


def figure_class() -> Any:
    """Imports matplotlib's class of figures.

    Returns:
      The class.

    Raises:
      MissingExtraError: If matplotlib is not installed.
    """
    with importing("Reports need matplotlib", extra="eval"):
        from matplotlib.figure import Figure
    return Figure


def _figure(width: float, height: float) -> Any:
    """Creates an empty figure; sides in inches."""
    return figure_class()(figsize=(width, height), layout="constrained")


def plot(
    task: str, rows: Mapping[str, Any], classes: tuple[str, ...], folder: pathlib.Path
) -> None:
    """Writes the plots that suit the kind of the rows.

    Args:
      task: for the titles.
      rows: by name. Rows of `Verification` share one ROC plot, a `Classification` has a
        confusion matrix, and `PoseErrors` share a plot of errors and have a scatter
        plot each. Other kinds have no plots.
      classes: names of the classes.
      folder: folder to write into.

    Raises:
      MissingExtraError: If matplotlib is not installed.
    """
    curves = {name: row for name, row in rows.items() if isinstance(row, Verification)}
    if curves:
        _roc(curves, task).savefig(folder / "roc.png", dpi=120)

    for name, row in rows.items():
        if isinstance(row, Classification):
            file = f"confusion_{name.replace(' ', '_')}.png"
            _confusion(row, classes, f"{task}: {name}").savefig(folder / file, dpi=120)

    poses = {name: row for name, row in rows.items() if hasattr(row, "by_yaw")}
    if poses:
        _yaw_curves(poses).savefig(folder / "error_by_yaw.png", dpi=120)
    for name, row in poses.items():
        # Constant predictions have no scatter plot.
        if np.ptp(row.predicted[:, 0]) > 0:
            file = f"angles_{name.replace(' ', '_')}.png"
            _angles(row, name).savefig(folder / file, dpi=120)


def _roc(rows: Mapping[str, Verification], task: str) -> Any:
    """Draws the ROC curves of all rows."""
    figure = _figure(5, 5)
    axes = figure.add_subplot()
    for name, row in rows.items():
        axes.plot(
            row.false_accept,
            row.true_accept,
            label=f"{name} (AUC {row.auc:.3f})",
            linewidth=1.2,
        )

    # Chance.
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(
        xlabel="false accept rate", ylabel="true accept rate", title=f"{task}: ROC"
    )
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _confusion(row: Classification, classes: tuple[str, ...], title: str) -> Any:
    """Draws a confusion matrix in percent of the true class."""
    figure = _figure(6, 5.5)
    axes = figure.add_subplot()

    # Classes that do not occur have rows of zeros.
    totals = np.maximum(row.confusion.sum(1, keepdims=True), 1)
    percent = 100 * row.confusion / totals
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for y, x in np.ndindex(percent.shape):
        colour = "white" if percent[y, x] > 55 else "black"
        axes.text(x, y, f"{percent[y, x]:.0f}", ha="center", va="center", color=colour)

    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}, % of the true class")
    return figure


def _yaw_curves(rows: Mapping[str, Any]) -> Any:
    """Draws the yaw error over the true yaw, of test images within 105 degrees."""
    figure = _figure(7, 4.5)
    axes = figure.add_subplot()

    # Bins of 15 degrees, drawn at their centres. Empty ones are left out.
    edges = np.arange(-105, 106, 15)
    for name, row in rows.items():
        group = np.digitize(row.true[:, 0], edges) - 1
        error = np.abs(row.predicted[:, 0] - row.true[:, 0])
        used = [k for k in range(len(edges) - 1) if (group == k).any()]
        means = [error[group == k].mean() for k in used]
        axes.plot(edges[used] + 7.5, means, marker=".", label=name, linewidth=1.2)

    axes.set(
        xlabel="true yaw, degrees",
        ylabel="mean absolute error of yaw, degrees",
        title="pose: error by yaw",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _angles(row: Any, name: str) -> Any:
    """Draws predicted over true angles, with a plot for each angle."""
    figure = _figure(10.5, 3.8)

    for index, angle in enumerate(("yaw", "pitch", "roll")):
        axes = figure.add_subplot(1, 3, index + 1)
        axes.scatter(
            row.true[:, index], row.predicted[:, index], s=4, alpha=0.4, linewidths=0
        )
        axes.plot([-100, 100], [-100, 100], color="grey", linestyle=":")
        axes.set(xlim=(-100, 100), ylim=(-100, 100), xlabel=f"true {angle}, degrees")
        axes.set_aspect("equal")

    figure.axes[0].set_ylabel("predicted, degrees")
    figure.suptitle(f"pose: {name}")
    return figure
