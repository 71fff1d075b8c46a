"""Disentanglement on the built-in synthetic faces.

Each figure has a reference without a model, and can be compared with random weights.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.devices import cpu_compiler_options
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.features import extract, peer_feature_sets
from facecycle_jax.evaluation.probes.code_probes import (
    ProbeSet,
    evaluate_code,
    last_frames,
    last_people,
    probe_set,
)
from facecycle_jax.evaluation.probes.disentangle import evaluate_images
from facecycle_jax.evaluation.quantity import Figure, Quantity
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.methods.peers import make_peer
from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.viz import grid

# People of the probes, and frames of each.
PEOPLE = 64
FRAMES = 12
# Architecture of random weights if there is no model to compare with.
SMALL: dict[str, Any] = {
    "width": 0.125,
    "image_size": 64,
    "code_dim": 256,
    "dtype": "float32",
    "trunk": "learned",
}


# Columns of the panel, where a model has them.
_COLUMNS = (
    "input",
    "neutral",
    "true neutral",
    "mean",
    "true mean",
    "source",
    "other",
    "other's motion",
    "true, other's motion",
)


def random_model(
    config: Mapping[str, Any], *, seed: int = 0, has_identity: bool = True
) -> FaceCycle:
    """Builds a model with random weights, its trunk included.

    Args:
      config: of the networks.
      seed: of the weights.
      has_identity: whether the model has the networks of stage 2.

    Returns:
      The model.
    """
    config = {**config, "trunk": "learned"}
    networks = make_face_networks(config, vgg_for_loss=False)

    # Initialisation runs only once: optimising its program costs more than it saves.
    options = cpu_compiler_options(jax.default_backend(), level=0)

    def initialise(function: Any, key: jax.Array) -> Any:
        init = functools.partial(function, networks)
        return jax.jit(init, compiler_options=options)(key)

    motion_key, identity_key = jax.random.split(jax.random.key(seed), 2)
    trees = initialise(init_motion, motion_key)
    if has_identity:
        trees |= initialise(init_identity, identity_key)
    return FaceCycle(trees, model=config, info={"source": "random weights"})


def random_peer(config: Mapping[str, Any], *, seed: int = 0) -> PeerModel:
    """Builds a model of a method that FaceCycle is compared with, with random weights.

    Args:
      config: of a run of the method.
      seed: of the weights.

    Returns:
      The model.
    """
    method = make_peer(config, weights=False)
    options = cpu_compiler_options(jax.default_backend(), level=0)
    init = jax.jit(method.init, compiler_options=options)
    params, frozen = init(jax.random.key(seed))
    return PeerModel(
        {**frozen, **params}, config=config, info={"source": "random weights"}
    )


def evaluate_synthetic(
    model: FaceCycle | PeerModel | None,
    baselines: Sequence[str],
    *,
    people: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Evaluates a model on synthetic faces.

    Args:
      model: the model, or None. A method that FaceCycle is compared with makes no
        images and is evaluated by the probes alone.
      baselines: names of `BASELINES`. 'random' is a model of the same architecture. The
        others are evaluated by the probes alone.
      people: people of the probes. Images are evaluated on half as many. 0 means 64.
      seed: of people, folds and random weights.

    Returns:
      The evaluation.

    Raises:
      UserError: If there is nothing to evaluate, or there are too few people.
    """
    people = people or PEOPLE
    if model is None and not baselines:
        raise UserError(
            "there is nothing to evaluate: give --model (such as facecycle-base), "
            "--baselines, or both."
        )

    size = SMALL["image_size"] if model is None else model.size
    data = probe_set(seed, people=people, frames=FRAMES, size=size)
    config = SMALL if model is None else model.model

    def measure(
        other: FaceCycle | PeerModel,
    ) -> tuple[dict[str, Figure], np.ndarray | None]:
        if isinstance(other, PeerModel):
            return _evaluate_peer(other, data=data, seed=seed), None
        return _evaluate_model(other, data=data, seed=seed, people=people // 2)

    def start_anew() -> FaceCycle | PeerModel:
        if isinstance(model, PeerModel):
            return random_peer(model.config, seed=seed)
        has_identity = model is None or model.has_identity
        return random_model(config, seed=seed, has_identity=has_identity)

    of_model: dict[str, Figure] = {}
    of_random: dict[str, Figure] = {}
    drawn: dict[str, np.ndarray | None] = {}
    if model is not None:
        of_model, drawn["truth"] = measure(model)
    if "random" in baselines:
        of_random, drawn["truth_random_weights"] = measure(start_anew())
    panels = {name: panel for name, panel in drawn.items() if panel is not None}

    # Both have the same figures, unless one of them was not evaluated.
    rows = {
        name: Quantity(model=of_model.get(name), random=of_random.get(name))
        for name in of_model | of_random
    }
    for name in baselines:
        if name != "random":
            rows |= _evaluate_baseline(name, data, seed=seed)

    protocol = (
        "Synthetic faces of people in no training set. Differences are mean absolute, "
        "fractions of the pixel range; identity is accuracy in percent of frames held "
        "out, by logistic regression; angles are mean absolute errors in degrees and "
        "expression the mean R2 over its parameters, of people held out, by ridge "
        "regression; every frame of the probes has its own light and background. "
        f"Seed {seed}."
    )
    counts = {"people": people, "frames": len(data.frames)}
    if of_random:
        protocol += f" Random weights at width {config['width']:g}."
    if panels:
        counts["people of the images"] = people // 2
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


def _evaluate_baseline(name: str, data: ProbeSet, *, seed: int) -> dict[str, Quantity]:
    """Evaluates a baseline by the probes."""
    kind = BASELINES[name]({})

    def training_images() -> np.ndarray:
        is_test = last_frames(data.identity) | last_people(data.identity)
        return load_images(data.frames[~is_test], size=kind.size)

    fitted = kind.fitted(training_images)
    function = functools.partial(extract, fitted, size=kind.size)
    figures = evaluate_code(name, function, data, seed=seed)
    # A baseline has no weights that could be random.
    return {row: Quantity(model=figure, random=None) for row, figure in figures.items()}


def _evaluate_peer(model: PeerModel, *, data: ProbeSet, seed: int) -> dict[str, Figure]:
    """Evaluates the features and the map of a method that makes no images."""
    figures: dict[str, Figure] = {}
    for name, kind in peer_feature_sets(model, size=model.size).items():
        function = functools.partial(extract, kind.fitted(), size=kind.size)
        figures |= evaluate_code(name, function, data, seed=seed)
    return figures


def _evaluate_model(
    model: FaceCycle, *, data: ProbeSet, seed: int, people: int
) -> tuple[dict[str, Figure], np.ndarray]:
    """Evaluates the generated images and the codes of one model.

    Returns:
      Figures by name, and a panel uint8 [H, W, 3].
    """
    figures, images = evaluate_images(model, seed=seed, size=model.size, people=people)
    figures |= evaluate_code("motion code", model.motion_code, data, seed=seed)
    if model.has_identity:
        figures |= evaluate_code("identity code", model.identity_code, data, seed=seed)

    # One row a face, with each kind of image next to the true one.
    names = [name for name in _COLUMNS if name in images]
    count = min(6, *(len(kind) for kind in images.values()))
    rows = [[images[name][row] for name in names] for row in range(count)]
    return figures, grid(rows, captions=names, side=96)
