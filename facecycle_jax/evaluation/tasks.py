"""Evaluations of frozen features and of the images that a model makes.

The paper evaluates emotion ('fer2013', 'raf-db'), person verification ('lfw', 'cplfw')
and head pose ('pose'), here each with its baselines. Further tasks are recognition
under other lights ('lights'), generated faces ('faces'), disentanglement on the
built-in synthetic faces ('synthetic') and images to look at ('gallery').
"""

import functools
import os
from collections.abc import Mapping, Sequence
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
from facecycle_jax.evaluation.baselines import BASELINES, ENCODER_FIELDS
from facecycle_jax.evaluation.faces import evaluate_faces
from facecycle_jax.evaluation.features import (
    FeatureSet,
    model_features,
    peer_feature_sets,
    with_mirror_image,
    with_normalised_light,
)
from facecycle_jax.evaluation.gallery import draw_gallery
from facecycle_jax.evaluation.options import (
    FEATURES,
    EvaluationOptions,
    unknown_names_warning,
)
from facecycle_jax.evaluation.probes.codes import with_adapted
from facecycle_jax.evaluation.probes.emotion import evaluate_emotion, split_row
from facecycle_jax.evaluation.probes.lights import evaluate_lights
from facecycle_jax.evaluation.probes.linear import LinearOptions
from facecycle_jax.evaluation.probes.pairs import evaluate_pairs
from facecycle_jax.evaluation.probes.pose import evaluate_pose
from facecycle_jax.evaluation.report import Evaluation
from facecycle_jax.evaluation.synthetic import evaluate_synthetic
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS

# The middle three fifths of a deep-funneled image show the face, as training images do.
LFW_CROP = 0.6


def feature_sets(
    options: EvaluationOptions, model: FaceCycle | PeerModel | None = None
) -> dict[str, FeatureSet]:
    """Lists the features that a task is evaluated with.

    Args:
      options: of an evaluation other than 'synthetic' and 'gallery'. Verification
        uses codes, identity codes also centred and whitened. Emotion and head pose use
        the motion encoder's map and code. The baseline 'random' has the width of the
        model, or the paper's without a model.
      model: a loaded model, or None for baselines alone. A method that FaceCycle is
        compared with has its own features and its last map, see `peer_feature_sets`.

    Returns:
      Features by name.

    Raises:
      UserError: If the task has no features, or there is nothing to evaluate.
    """
    if options.task not in FEATURES:
        raise UserError(
            f"task must be one of {', '.join(FEATURES)}, got {options.task!r}."
        )
    # Random weights get the architecture of the model's encoder.
    found: dict[str, FeatureSet] = {}
    config: dict[str, Any] = {}
    if isinstance(model, PeerModel):
        found = _peer_sets(options, model)
        config = {"width": model.model["width"]}
    elif model is not None:
        found = _model_sets(options, model)
        config = {
            name: value for name, value in model.model.items() if name in ENCODER_FIELDS
        }
    config |= {"layer": options.layer, "size": options.size}
    found |= {name: BASELINES[name](config) for name in options.baselines}
    if not found:
        raise UserError(
            "there is nothing to evaluate: give --model (such as facecycle-base), "
            "--baselines, or both."
        )

    # Lighting comes first: a mirror image has the lighting of its image.
    if options.light:
        found = {
            name: with_normalised_light(kind, options.light)
            for name, kind in found.items()
        }
    if options.flip:
        found = {name: with_mirror_image(kind) for name, kind in found.items()}
    return found


def _model_sets(options: EvaluationOptions, model: FaceCycle) -> dict[str, FeatureSet]:
    """Lists the features of a model that a task is evaluated with."""
    every = model_features(
        model, size=model.size, layer=options.layer, map_size=options.size
    )

    # The linear protocol augments images on the device, so it traces the encoder.
    traced = functools.partial(
        model.traced_feature_map, layer=options.layer, side=FEATURE_SIDE
    )
    every["feature_map"] = every["feature_map"]._replace(encode=traced)

    found: dict[str, FeatureSet] = {}
    for name in FEATURES[options.task]:
        if name in ("identity_code", "both") and not model.has_identity:
            continue
        if name == "identity_code":
            found |= with_adapted(name, every[name])
        else:
            found[name] = every[name]
    return found


def _peer_sets(options: EvaluationOptions, model: PeerModel) -> dict[str, FeatureSet]:
    """Lists the features of a peer that a task is evaluated with."""
    if (options.layer, options.size) != (LAYERS[-1], FEATURE_SIZE):
        raise UserError(
            f"layer and size are for FaceCycle's models, and this is one of "
            f"{model.method}: leave them out."
        )

    of_maps = "feature_map" in FEATURES[options.task]
    found = peer_feature_sets(model, size=own_size(model, of_maps=of_maps))
    if of_maps:
        return found
    return with_adapted("features", found.pop("features")) | found


def own_size(model: PeerModel, *, of_maps: bool) -> int:
    """Chooses the side of the images that a peer's own features are computed of.

    Args:
      model: the model.
      of_maps: whether the task evaluates maps (emotion and head pose), for which PCL
        and SimCLR on FaceCycle's encoder use images of FaceCycle's linear protocol.

    Returns:
      The side in pixels.
    """
    flat_map = model.method in ("pcl", "simclr")
    return FEATURE_SIZE if of_maps and flat_map else model.size


def evaluate(
    task: str,
    path: str = "",
    *,
    model: FaceCycle | PeerModel | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluates a model's features and baselines on one data set.

    Args:
      task: see `EvaluationOptions`.
      path: the data, as published; see `EvaluationOptions`.
      model: a loaded model.
      **options: the other fields of `EvaluationOptions`: baselines, probe, crop, limit,
        seed, ...

    Returns:
      The evaluation.

    Raises:
      UserError: If a name is unknown or data have another form.
      FileNotFoundError: If data are missing.
      MissingExtraError: If a baseline's library is missing.

    References:
      FaceCycle (ICCV 2021), sections 4.2 to 4.4.
    """
    return run_evaluation(EvaluationOptions(task=task, path=path, **options), model)


def run_evaluation(
    options: EvaluationOptions, model: FaceCycle | PeerModel | None = None
) -> Evaluation:
    """Evaluates a model's features and baselines; see `evaluate`.

    Args:
      options: the task and its settings.
      model: a loaded model.

    Returns:
      The evaluation.

    Raises:
      UserError: See `evaluate`; also if the task needs generated images, and the
        model's method makes none.
    """
    if options.task in ("faces", "gallery") and isinstance(model, PeerModel):
        raise UserError(
            f"task {options.task} needs generated images, and this is a model of "
            f"{model.method}, which has features alone: evaluate it with one of "
            f"synthetic, {', '.join(FEATURES)}."
        )

    if options.task == "synthetic":
        result = evaluate_synthetic(
            model, options.baselines, people=options.limit, seed=options.seed
        )
    elif options.task == "gallery":
        if model is None or isinstance(model, PeerModel) or not options.path:
            raise UserError(
                "task gallery needs --model and --data, a folder of images."
            )
        result = draw_gallery(
            model,
            options.path,
            projection=options.projection,
            crop=options.crop or 1.0,
            limit=options.limit,
            seed=options.seed,
        )
    elif options.task == "faces":
        if model is None or isinstance(model, PeerModel) or not options.path:
            raise UserError(
                "task faces needs --model and --data, a folder <person>/*.jpg."
            )
        result = evaluate_faces(
            model,
            options.path,
            without=options.without,
            crop=options.crop or LFW_CROP,
            limit=options.limit,
        )
    else:
        features = feature_sets(options, model)
        result = evaluate_features(options, features)
        own = [name for name in features if name not in options.baselines]
        result = result._replace(model_rows=_rows_of(own, result))

    # Everything needed to repeat the evaluation goes into the report.
    settings = {
        "version": facecycle_jax._version.__version__,
        **options.settings(),
        "model": None,
    }
    if model is not None:
        info = {name: str(value) for name, value in model.info.items()}
        settings["model"] = {"config": model.model, "info": info}
    return result._replace(settings=settings)


def _rows_of(names: Sequence[str], result: Evaluation) -> tuple[str, ...]:
    """Lists the rows of some features, those of further test splits included."""
    rows = set(names)
    for name in names:
        rows |= {split_row(name, split) for split in result.counts}
    return tuple(row for row in result.rows if row in rows)


def evaluate_features(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Evaluates any features on a published data set.

    Args:
      options: one of the tasks that have features.
      features: by name; each has a row.

    Returns:
      The evaluation, without `settings`.

    Raises:
      UserError: See `evaluate`.
      FileNotFoundError: If data are missing.
    """
    if not options.path:
        raise UserError(
            f"task {options.task} needs the folder of its data: --data, or `path` in "
            "Python."
        )
    result = _LABELLED[options.task](options, features)
    return result._replace(protocol=result.protocol + options.departures())


def _emotion(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the splits and evaluates all features."""
    if options.task == "raf-db":
        read = read_raf_db
        counts = RAF_COUNTS
        names = ["train", "test"]
    else:
        read = read_fer2013
        counts = FER_COUNTS
        names = ["Training", options.test_split or "PublicTest"]
        if options.test_split == "both":
            names = ["Training", "PublicTest", "PrivateTest"]

    splits = {}
    for name in names:
        whole = read(options.path, split=name)
        kept = choose(len(whole), limit=options.limit, seed=options.seed)
        splits[name] = whole.select(kept)

    # Further test splits share the probe of the first one.
    train, test = names[:2]
    return evaluate_emotion(
        features,
        splits.pop(train),
        splits.pop(test),
        task=options.task,
        names=(train, test),
        counts=counts,
        probe=options.probe,
        crop=options.crop or 1.0,
        seed=options.seed,
        options=LinearOptions().shortened(options.epochs),
        also=splits,
    )


def _pose(options: EvaluationOptions, features: Mapping[str, FeatureSet]) -> Evaluation:
    """Reads training and test images and evaluates all features."""
    train = read_300w_lp(options.path)
    test = read_aflw2000(options.path)

    limit = functools.partial(choose, limit=options.limit, seed=options.seed)
    train = train.select(limit(len(train)))
    test = test.select(limit(len(test)))
    return evaluate_pose(
        features, train, test, crop=options.crop or 1.0, seed=options.seed
    )


def _verification(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the lists of pairs and evaluates all features."""
    path = options.path
    train: Pairs | None = None
    # View 1 replaces view 2 only if the list of view 2 is missing. A list with an error
    # is refused.
    if options.task == "cplfw":
        test = read_cplfw_pairs(path)
    elif os.path.isfile(os.path.join(path, "pairs.txt")):
        test = read_lfw_pairs(path, name="pairs.txt")
    else:
        train = read_lfw_pairs(path, name="pairsDevTrain.txt")
        test = read_lfw_pairs(path, name="pairsDevTest.txt")

    crop = options.crop or (1.0 if options.task == "cplfw" else LFW_CROP)
    without = frozenset(options.without)

    # Unknown names are looked up in the whole lists, before these are limited.
    strangers = test.strangers(sorted(without))
    if train is not None:
        strangers = train.strangers(strangers)
    warnings = unknown_names_warning(strangers, where="In no pair")

    if train is not None:
        train = train.limited(options.limit, seed=options.seed)
        warnings += _count_warnings(train)
    test = test.limited(options.limit, seed=options.seed)
    warnings += _count_warnings(test)

    if without:
        kept = test.without(without)
        warnings.append(
            f"{len(test) - len(kept)} of {len(test)} test pairs are left out, "
            "which show people trained on."
        )
        test = kept
        train = train.without(without) if train is not None else None
    return evaluate_pairs(
        features, train, test, task=options.task, crop=crop, warnings=tuple(warnings)
    )


def _count_warnings(pairs: Pairs) -> list[str]:
    """Returns a sentence if a list differs from the official one in its counts."""
    known = (name for name in PAIR_COUNTS if pairs.origin.endswith(name))
    official = PAIR_COUNTS.get(next(known, ""))
    count = (int(pairs.same.sum()), int((~pairs.same).sum()))
    if official in (None, count):
        return []
    return [
        f"{pairs.origin} has {count} pairs of one and of two people, "
        f"officially {official}."
    ]


def _lights(
    options: EvaluationOptions, features: Mapping[str, FeatureSet]
) -> Evaluation:
    """Reads the images of Extended Yale B and evaluates all features."""
    faces = read_yale_b(options.path)
    faces = faces.limited(options.limit, seed=options.seed)
    return evaluate_lights(features, faces, crop=options.crop or 1.0)


# Tasks on published data sets: the function that reads the data and evaluates features.
_LABELLED = {
    "lfw": _verification,
    "cplfw": _verification,
    "fer2013": _emotion,
    "raf-db": _emotion,
    "pose": _pose,
    "lights": _lights,
}
