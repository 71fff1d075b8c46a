"""Disentanglement on the built-in drawn faces, beside random weights and what one gets without a model."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from facecycle_jax.data.labelled.images import load_pictures
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.features import extract
from facecycle_jax.evaluation.probes.code_probes import (
    ProbeSet,
    judge_code,
    last_frames,
    last_people,
    probe_set,
)
from facecycle_jax.evaluation.probes.disentangle import judge_pictures
from facecycle_jax.evaluation.quantity import Figure, Quantity
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.viz import grid

PEOPLE, FRAMES = 64, 12
# Of random weights where there is no model to take the architecture of.
SMALL: dict[str, Any] = {
    "width": 0.125,
    "image_size": 64,
    "code_dim": 256,
    "dtype": "float32",
    "trunk": "learned",
}


def random_model(
    config: Mapping[str, Any], *, seed: int = 0, has_identity: bool = True
) -> FaceCycle:
    """Builds a model with random weights, its trunk included.

    Args:
      config: of the networks.
      seed: of the weights.
      has_identity: whether the networks of stage 2 are there.

    Returns:
      The model.
    """
    config = {**config, "trunk": "learned"}
    forward = make_face_networks(config, vgg_for_loss=False)
    # Run once, so not worth optimising.
    quick = (
        {"xla_backend_optimization_level": 0}
        if jax.default_backend() == "cpu"
        else None
    )

    def draw(function: Any, key: jax.Array) -> Any:
        return jax.jit(functools.partial(function, forward), compiler_options=quick)(
            key
        )

    keys = jax.random.split(jax.random.key(seed), 2)
    trees = draw(init_motion, keys[0]) | (
        draw(init_identity, keys[1]) if has_identity else {}
    )
    return FaceCycle(trees, model=config, info={"source": "random weights"})


def evaluate_synthetic(
    model: FaceCycle | None, baselines: Sequence[str], *, people: int = 0, seed: int = 0
) -> Evaluation:
    """Judges a model on drawn faces.

    Args:
      model: the model, or None.
      baselines: names of `BASELINES`; 'random' is a model of the same architecture, the
        others are judged by the probes alone.
      people: people of the probes, and half as many for pictures; 0 takes 64.
      seed: of people, folds and random weights.

    Returns:
      The figures.

    Raises:
      ValueError: if there is nothing to evaluate, or too few people.
    """
    people = people or PEOPLE
    if model is None and not baselines:
        raise UserError(
            "there is nothing to evaluate: give a model, baselines, or both."
        )
    size = model.size if model is not None else SMALL["image_size"]
    data = probe_set(seed, people=people, frames=FRAMES, size=size)
    judged: dict[str, dict[str, Figure]] = {}
    panels = {}
    if model is not None:
        judged["model"], panels["truth"] = _judge(
            model, data, seed=seed, people=people // 2
        )
    if "random" in baselines:
        config, both = (
            (model.model, model.has_identity) if model is not None else (SMALL, True)
        )
        other = random_model(config, seed=seed, has_identity=both)
        judged["random"], panels["truth_random_weights"] = _judge(
            other, data, seed=seed, people=people // 2
        )
    names = dict.fromkeys(name for figures in judged.values() for name in figures)
    rows = {
        name: Quantity(
            *(judged.get(column, {}).get(name) for column in ("model", "random"))
        )
        for name in names
    }
    for name in (name for name in baselines if name != "random"):
        kind = BASELINES[name]({})
        inside = ~(last_frames(data.identity) | last_people(data.identity))
        sample = (
            load_pictures(data.frames[inside], size=kind.size)
            if kind.needs_fit
            else np.zeros(0)
        )
        function = kind.fit(sample)
        found = judge_code(
            name, functools.partial(extract, function, size=kind.size), data, seed=seed
        )
        # There are no weights to be random.
        rows |= {row: Quantity(figure, None) for row, figure in found.items()}
    protocol = (
        "Drawn faces of people in no training set. Differences are mean absolute, parts of 1; identity is "
        "accuracy in percent of frames held out, by logistic regression; angles are mean absolute errors in "
        "degrees and expression the mean R2 over its parameters, of people held out, by ridge regression; "
        f"every frame of the probes has its own light and background. Seed {seed}."
    )
    if "random" in judged:
        protocol += f" Random weights at width {(model.model if model is not None else SMALL)['width']:g}."
    counts = {"people": people, "frames": len(data.frames)}
    counts |= {"people of the pictures": people // 2} if judged else {}
    return Evaluation(
        task="synthetic",
        protocol=protocol,
        rows=rows,
        details={},
        classes=(),
        counts=counts,
        warnings=(),
        panels=panels,
    )


def _judge(
    model: FaceCycle, data: ProbeSet, *, seed: int, people: int
) -> tuple[dict[str, Figure], np.ndarray]:
    """Judges pictures and codes of one model."""
    figures, pictures = judge_pictures(model, seed=seed, size=model.size, people=people)
    figures |= judge_code("motion code", model.motion_code, data, seed=seed)
    if model.has_identity:
        figures |= judge_code("identity code", model.identity_code, data, seed=seed)
    count = min(6, *(len(picture) for picture in pictures.values()))
    order = (
        "input",
        "neutral",
        "true neutral",
        "mean",
        "true mean",
        "source",
        "other",
        "other's motion",
    )
    names = [name for name in (*order, "true, other's motion") if name in pictures]
    panel = grid(
        [[pictures[name][row] for name in names] for row in range(count)],
        captions=names,
        side=96,
    )
    return figures, panel
