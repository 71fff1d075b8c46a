"""The paper's evaluations of frozen features, each with its baselines, and tasks of our own.

Tasks: emotion ('fer2013', 'raf-db'), person verification ('lfw', 'cplfw'), head pose
('pose'); on the built-in synthetic faces, disentanglement ('synthetic'); and images to
look at ('gallery').
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import facecycle_jax._version
from facecycle_jax.data.labelled.fer2013 import OFFICIAL as FER_COUNTS
from facecycle_jax.data.labelled.fer2013 import read_fer2013
from facecycle_jax.data.labelled.head_pose import read_300w_lp, read_aflw2000
from facecycle_jax.data.labelled.images import choose
from facecycle_jax.data.labelled.lfw_pairs import OFFICIAL as PAIR_COUNTS
from facecycle_jax.data.labelled.lfw_pairs import (
    Pairs,
    read_cplfw_pairs,
    read_lfw_pairs,
)
from facecycle_jax.data.labelled.raf_db import OFFICIAL as RAF_COUNTS
from facecycle_jax.data.labelled.raf_db import read_raf_db
from facecycle_jax.data.labelled.yale_b import read_yale_b
from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.faces import evaluate_faces
from facecycle_jax.evaluation.features import (
    FeatureSet,
    model_features,
    with_even_light,
    with_mirror_image,
)
from facecycle_jax.evaluation.gallery import draw_gallery
from facecycle_jax.evaluation.options import FEATURES, EvaluationOptions
from facecycle_jax.evaluation.probes.codes import with_adapted
from facecycle_jax.evaluation.probes.emotion import judge_emotion
from facecycle_jax.evaluation.probes.lights import judge_lights
from facecycle_jax.evaluation.probes.pairs import judge_pairs
from facecycle_jax.evaluation.probes.pose import judge_pose
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.evaluation.synthetic import evaluate_synthetic
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.networks import FEATURE_SIDE

# Names of people to leave out that are listed where no pair has them.
_NAMED = 20
# Of a deep-funneled picture the middle three fifths are the face, as in the training
# pictures.
LFW_CROP = 0.6


def feature_sets(
    options: EvaluationOptions, model: FaceCycle | None = None
) -> dict[str, FeatureSet]:
    """Lists the features that a task is evaluated with.

    Args:
      options: of an evaluation but 'synthetic' and 'gallery'. Verification takes codes,
        identity codes also centred and whitened; emotion and head pose take the motion
        encoder's map and code. Baseline 'random' takes the model's width, the paper's
        where there is no model.
      model: a loaded model, or None for baselines alone.

    Returns:
      Features by name.

    Raises:
      UserError: for a task without features, or nothing to evaluate.
    """
    if options.task not in FEATURES:
        raise UserError(
            f"task must be one of {', '.join(FEATURES)}, got {options.task!r}."
        )
    found = {} if model is None else _model_sets(options, model)

    # The networks are the model's, but for the trunk, which an encoder does not have.
    config = (
        {}
        if model is None
        else {key: value for key, value in model.model.items() if key != "trunk"}
    )
    config |= {"layer": options.layer, "size": options.size}
    found |= {name: BASELINES[name](config) for name in options.baselines}
    if not found:
        raise UserError(
            "there is nothing to evaluate: give a model, baselines, or both."
        )

    # Light first: a mirror image has the light of its image.
    if options.light:
        found = {
            name: with_even_light(kind, options.light) for name, kind in found.items()
        }
    if options.flip:
        found = {name: with_mirror_image(kind) for name, kind in found.items()}
    return found


def _model_sets(options: EvaluationOptions, model: FaceCycle) -> dict[str, FeatureSet]:
    """Lists the features of a model that a task is evaluated with."""
    every = model_features(
        model, size=model.size, layer=options.layer, map_size=options.size
    )
    traced = functools.partial(
        model.traced_feature_map, layer=options.layer, side=FEATURE_SIDE
    )
    every["feature_map"] = every["feature_map"]._replace(encode=traced)

    found: dict[str, FeatureSet] = {}
    for name in FEATURES[options.task]:
        if name in ("identity_code", "both") and not model.has_identity:
            continue
        found |= (
            with_adapted(name, every[name])
            if name == "identity_code"
            else {name: every[name]}
        )
    return found


def evaluate(
    task: str, path: str = "", *, model: FaceCycle | None = None, **options: Any
) -> Evaluation:
    """Evaluates a model's features and baselines on one data set.

    Args:
      task: see `EvaluationOptions`.
      path: the data, as published; see `EvaluationOptions`.
      model: a loaded model.
      **options: the other fields of `EvaluationOptions`: baselines, probe, crop, limit,
        seed, ...

    Returns:
      The figures.

    Raises:
      UserError: for unknown names, or data of another form.
      FileNotFoundError: if data are missing.
      MissingExtraError: if a baseline's library is missing.

    References:
      FaceCycle (ICCV 2021), sections 4.2 to 4.4.
    """
    return run_evaluation(EvaluationOptions(task=task, path=path, **options), model)


def run_evaluation(
    options: EvaluationOptions, model: FaceCycle | None = None
) -> Evaluation:
    """Evaluates a model's features and baselines; see `evaluate`.

    Args:
      options: what and how.
      model: a loaded model.

    Returns:
      The figures.
    """
    if options.task == "synthetic":
        result = evaluate_synthetic(
            model, options.baselines, people=options.limit, seed=options.seed
        )
    elif options.task == "gallery":
        if model is None or not options.path:
            raise UserError("task gallery needs a model and a folder of pictures.")
        result = draw_gallery(
            model,
            options.path,
            projection=options.projection,
            crop=options.crop or 1.0,
            limit=options.limit,
            seed=options.seed,
        )
    elif options.task == "faces":
        if model is None or not options.path:
            raise UserError("task faces needs a model and a folder <person>/*.jpg.")
        result = evaluate_faces(
            model,
            options.path,
            without=options.without,
            crop=options.crop or LFW_CROP,
            limit=options.limit,
        )
    else:
        features = feature_sets(options, model)
        if not options.path:
            raise UserError(f"task {options.task} needs the data set's path.")
        result = _LABELLED[options.task](options, features)
        result = result._replace(protocol=result.protocol + options.departures())

    settings = {
        "version": facecycle_jax._version.__version__,
        **options.settings(),
        "model": None,
    }
    if model is not None:
        info = {name: str(value) for name, value in model.info.items()}
        settings["model"] = {"config": model.model, "info": info}
    return result._replace(settings=settings)


def _emotion(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the splits and evaluates all features."""
    if options.task == "raf-db":
        read, counts, names = read_raf_db, RAF_COUNTS, ["train", "test"]
    else:
        both = ["PublicTest", "PrivateTest"]
        tests = (
            both
            if options.test_split == "both"
            else [options.test_split or "PublicTest"]
        )
        read, counts, names = read_fer2013, FER_COUNTS, ["Training", *tests]

    splits = {}
    for name in names:
        whole = read(options.path, split=name)
        splits[name] = whole.select(
            choose(len(whole), limit=options.limit, seed=options.seed)
        )
    train, test = names[:2]
    return judge_emotion(
        features,
        splits.pop(train),
        splits.pop(test),
        task=options.task,
        names=(train, test),
        counts=counts,
        probe=options.probe,
        crop=options.crop or 1.0,
        seed=options.seed,
        also=splits,
    )


def _pose(options: EvaluationOptions, features: Mapping[str, FeatureSet]) -> Evaluation:
    """Reads training and test images and evaluates all features."""
    train, test = (
        part.select(choose(len(part), limit=options.limit, seed=options.seed))
        for part in (read_300w_lp(options.path), read_aflw2000(options.path))
    )
    return judge_pose(
        features, train, test, crop=options.crop or 1.0, seed=options.seed
    )


def _verification(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the lists of pairs and evaluates all features."""
    path = options.path
    train: Pairs | None = None
    # View 1 stands in only where the list of view 2 itself is missing: a list with an
    # error is refused.
    if options.task == "cplfw":
        test = read_cplfw_pairs(path)
    elif os.path.isfile(os.path.join(path, "pairs.txt")):
        test = read_lfw_pairs(path, name="pairs.txt")
    else:
        train = read_lfw_pairs(path, name="pairsDevTrain.txt")
        test = read_lfw_pairs(path, name="pairsDevTest.txt")

    crop = options.crop or (1.0 if options.task == "cplfw" else LFW_CROP)
    without = frozenset(options.without)
    # Names that no pair knows, looked for before pairs are limited.
    strangers = test.strangers(sorted(without))
    strangers = train.strangers(strangers) if train is not None else strangers
    test = test.limited(options.limit, seed=options.seed)
    train = (
        train.limited(options.limit, seed=options.seed) if train is not None else None
    )
    warnings = [
        f"{name!r} is to be left out and is in no pair." for name in strangers[:_NAMED]
    ]
    if strangers[_NAMED:]:
        warnings.append(
            f"{len(strangers[_NAMED:])} more names to be left out are in no pair."
        )
    for pairs in (train, test):
        if pairs is None:
            continue
        official = next(
            (c for name, c in PAIR_COUNTS.items() if pairs.origin.endswith(name)), None
        )
        count = (int(pairs.same.sum()), int((~pairs.same).sum()))
        if official not in (None, count):
            warnings.append(
                f"{pairs.origin} has {count} pairs of one and of two people, officially {official}."
            )
    if without:
        kept = test.without(without)
        warnings.append(
            f"{len(test) - len(kept)} of {len(test)} test pairs are left out, which show people trained on."
        )
        test = kept
        train = train.without(without) if train is not None else None
    return judge_pairs(
        features, train, test, task=options.task, crop=crop, warnings=tuple(warnings)
    )


# Tasks on labelled images of others: what reads them and evaluates features on them.
def _lights(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the images of Extended Yale B and evaluates all features."""
    return judge_lights(features, read_yale_b(options.path), crop=options.crop or 1.0)


_LABELLED = {
    "lfw": _verification,
    "cplfw": _verification,
    "fer2013": _emotion,
    "raf-db": _emotion,
    "pose": _pose,
    "lights": _lights,
}
