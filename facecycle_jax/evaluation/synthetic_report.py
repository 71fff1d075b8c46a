"""The report at the end of a run on synthetic faces.

It compares the faces that the model generates with the true ones.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from facecycle_jax import training
from facecycle_jax.data.sources.synthetic import MOTION
from facecycle_jax.data.sources.synthetic_truth import (
    PEOPLE,
    compare_with_truth,
    describe_truth,
)
from facecycle_jax.devices import cpu_compiler_options
from facecycle_jax.inference import model_from_state
from facecycle_jax.inference.functions import face_outputs, reexpress
from facecycle_jax.methods import METHODS
from facecycle_jax.viz import grid, save_png

log = logging.getLogger(__name__)

_TITLE = (
    "Synthetic people not trained on, heads turned by {degrees:.0f} degrees at most; "
    "'true' images are rendered, not generated"
)


def report_on_synthetic_faces(
    config: Mapping[str, Any], workdir: epath.PathLike
) -> dict[str, float]:
    """Compares the faces of the newest checkpoint with the truth.

    It writes a table to the log, and truth.png to the folder of the run.

    Args:
      config: of the run.
      workdir: folder of the run.

    Returns:
      Mean absolute differences in 0..1 by name. They are empty for runs on real faces,
      for methods other than the two cycles, and for runs that train flows alone.
    """
    if config["data"]["source"] != "synthetic" or config["method"] not in METHODS:
        return {}
    trees = training.load_trees(workdir)
    if "generator" not in trees:
        return {}

    model = model_from_state(config, trees)
    names = ("neutral", "mean_face") if model.has_identity else ("neutral",)

    # Run a few times only: on CPUs, optimising these programs takes longer than that.
    quick = cpu_compiler_options(jax.default_backend(), level=0)
    outputs = functools.partial(face_outputs, model.networks, outputs=names)
    draw = jax.jit(outputs, compiler_options=quick)
    exchange = jax.jit(
        functools.partial(reexpress, model.networks),
        compiler_options=quick,
    )

    variation = config["data"].get("motion_variation", 1.0)
    figures, images = compare_with_truth(
        functools.partial(draw, model.trees),
        seed=config["seed"],
        size=model.size,
        # A small run has a small comparison.
        people=min(PEOPLE, config["data"]["identities"]),
        scene_variation=config["data"].get("scene_variation", 1.0),
        motion_variation=variation,
        reexpress=lambda sources, drivers: exchange(model.trees, sources, drivers)[
            "reexpressed"
        ],
    )

    # What was rendered: draws lie within two standard deviations.
    degrees = 2 * MOTION["yaw"][1] * variation

    # One row a face, one column for each kind of image.
    rows = [list(row) for row in zip(*images.values(), strict=True)]
    rows = rows[: config["panel_rows"]]
    path = epath.Path(workdir) / "truth.png"
    title = _TITLE.format(degrees=degrees)
    save_png(path, grid(rows, captions=list(images), title=title, font_size=15))

    log.info(
        "Synthetic people not trained on, heads turned by %.0f degrees at most: mean "
        "absolute differences, fractions of full brightness; lower is better.\n%s\n"
        "See them in %s",
        degrees,
        describe_truth(figures),
        path,
    )
    return figures
