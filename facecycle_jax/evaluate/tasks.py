"""The paper's evaluations of frozen features, each with its floors, and of drawn faces against the truth.

Tasks: emotion ('fer2013', 'raf-db'), person verification ('lfw', 'cplfw'), head pose ('pose') and, on the
built-in drawn faces, disentanglement ('synthetic'); and pictures to look at ('gallery').
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import facecycle_jax._version
from facecycle_jax.data.fer2013 import OFFICIAL as FER_COUNTS
from facecycle_jax.data.fer2013 import read_fer2013
from facecycle_jax.data.head_pose import read_300w_lp, read_aflw2000
from facecycle_jax.data.labelled import choose
from facecycle_jax.data.lfw_pairs import OFFICIAL as PAIR_COUNTS
from facecycle_jax.data.lfw_pairs import Pairs, read_cplfw_pairs, read_lfw_pairs
from facecycle_jax.data.raf_db import OFFICIAL as RAF_COUNTS
from facecycle_jax.data.raf_db import read_raf_db
from facecycle_jax.data.yale_b import read_yale_b
from facecycle_jax.errors import UserError
from facecycle_jax.evaluate.faces import evaluate_faces
from facecycle_jax.evaluate.gallery import draw_gallery
from facecycle_jax.evaluate.options import FEATURES, check_options, departures
from facecycle_jax.evaluate.synthetic import evaluate_synthetic
from facecycle_jax.model import FaceCycle
from facecycle_jax.models import FEATURE_SIDE, FEATURE_SIZE, LAYERS
from facecycle_jax.probes.baselines import BASELINES
from facecycle_jax.probes.codes import with_adapted
from facecycle_jax.probes.emotion import judge_emotion
from facecycle_jax.probes.features import FeatureSet, model_features, with_even_light, with_mirror_image
from facecycle_jax.probes.lights import judge_lights
from facecycle_jax.probes.pairs import judge_pairs
from facecycle_jax.probes.pose import judge_pose
from facecycle_jax.probes.report import Evaluation

# Of a deep-funneled picture the middle three fifths are the face, as in the training pictures.
LFW_CROP = 0.6


def feature_sets(
    model: FaceCycle | None,
    baselines: Sequence[str],
    *,
    task: str,
    layer: str = LAYERS[-1],
    size: int = FEATURE_SIZE,
    flip: bool = False,
    light: float = 0.0,
) -> dict[str, FeatureSet]:
    """Lists the features a task is judged with.

    Args:
      model: a loaded model, or None for baselines alone.
      baselines: names of `BASELINES`; 'random' takes the model's width, the paper's where there is no model.
      task: one of `TASKS` but 'synthetic' and 'gallery'; verification takes codes, identity codes also
        centred and whitened, emotion and head pose the motion encoder's map and code.
      layer: of the encoder, whose map is taken, of the model's and of random weights.
      size: side of the pictures that maps are taken of, pixels.
      flip: whether features are averaged over a picture and its mirror image.
      light: how far brightness and contrast of pictures are evened out first, 0 to 1.

    Returns:
      Features by name.

    Raises:
      ValueError: for an unknown baseline or task, or nothing to evaluate.
    """
    if task not in FEATURES:
        raise UserError(f"task must be one of {', '.join(FEATURES)}, got {task!r}.")
    _check_baselines(baselines)
    found: dict[str, FeatureSet] = {}
    if model is not None:
        every = model_features(model, size=model.size, layer=layer, map_size=size)
        traced = functools.partial(model.traced_feature_map, layer=layer, side=FEATURE_SIDE)
        every["feature_map"] = every["feature_map"]._replace(encode=traced)
        for name in FEATURES[task]:
            if model.has_identity or name not in ("identity_code", "both"):
                found |= with_adapted(name, every[name]) if name == "identity_code" else {name: every[name]}
    # The model's, but for the trunk, which an encoder has none of.
    options = {} if model is None else {key: value for key, value in model.model.items() if key != "trunk"}
    options |= {"layer": layer, "size": size}
    found |= {name: BASELINES[name](options) for name in baselines}
    if not found:
        raise UserError("there is nothing to evaluate: give a model, baselines, or both.")
    if light:
        found = {name: with_even_light(kind, light) for name, kind in found.items()}
    return {name: with_mirror_image(kind) for name, kind in found.items()} if flip else found


def evaluate(
    task: str,
    path: str = "",
    *,
    model: FaceCycle | None = None,
    baselines: Sequence[str] = (),
    probe: str = "logistic",
    without: Sequence[str] = (),
    crop: float | None = None,
    test_split: str | None = None,
    limit: int = 0,
    projection: str = "pca",
    layer: str = LAYERS[-1],
    size: int = FEATURE_SIZE,
    flip: bool = False,
    light: float = 0.0,
    seed: int = 0,
) -> Evaluation:
    """Judges a model's features and baselines on one data set.

    Args:
      task: 'lfw' (view 2 if pairs.txt is there, else view 1), 'cplfw', 'fer2013', 'raf-db', 'pose',
        'synthetic' or 'gallery'.
      path: the data, as published; of 'gallery' a folder of pictures; 'synthetic' needs none.
      model: a loaded model.
      baselines: names of `BASELINES`.
      probe: of emotion: 'logistic' (to convergence, nothing to tune) or 'linear' (the paper's).
      without: people to leave out of verification, because a model was trained on them.
      crop: middle part of the pictures that is kept, 0 to 1; None takes 0.6 for LFW and all elsewhere.
      test_split: of FER-2013: 'PublicTest' (the default), 'PrivateTest' or 'both'.
      limit: most pictures, or pairs, of each split, drawn at random; of 'synthetic' the people; 0: all.
      projection: of the maps of 'gallery': 'pca' or 'tsne'.
      layer: of the motion encoder, whose map is judged for emotion and head pose, one of
        `facecycle_jax.models.LAYERS`, averaged to 7 x 7; the last is the paper's. Random weights likewise.
      size: side those pictures are resized to, 32 to 512 pixels; 100 is the paper's.
      flip: of verification and emotion: average all features over a picture and its mirror image.
      light: of the same: even out brightness and contrast of all pictures by so much, 0 (not) to 1
        (entirely), see `facecycle_jax.ops.even_light`.
      seed: of folds, initial weights and draws.

    Returns:
      The figures.

    Raises:
      ValueError: for unknown names, or data of another form.
      FileNotFoundError: if data are missing.
      ImportError: if a baseline's library is missing.

    References:
      FaceCycle (ICCV 2021), sections 4.2 to 4.4.
    """
    check_options(
        task, probe=probe, without=without, crop=crop, test_split=test_split, limit=limit, layer=layer,
        size=size, flip=flip, light=light,
    )  # fmt: skip
    if task == "synthetic":
        _check_baselines(baselines)
        result = evaluate_synthetic(model, baselines, people=limit, seed=seed)
    elif task == "gallery":
        if model is None or not path:
            raise UserError("task gallery needs a model and a folder of pictures.")
        result = draw_gallery(model, path, projection=projection, crop=crop or 1.0, limit=limit, seed=seed)
    elif task == "faces":
        if model is None or not path:
            raise UserError("task faces needs a model and a folder <person>/*.jpg.")
        result = evaluate_faces(model, path, without=without, crop=crop or LFW_CROP, limit=limit)
    else:
        features = feature_sets(model, baselines, task=task, layer=layer, size=size, flip=flip, light=light)
        if not path:
            raise UserError(f"task {task} needs the data set's path.")
        if task in ("lfw", "cplfw"):
            result = _verification(task, path, features, frozenset(without), crop, limit, seed)
        elif task == "lights":
            result = judge_lights(features, read_yale_b(path), crop=crop or 1.0)
        elif task == "pose":
            result = _pose(path, features, crop or 1.0, limit, seed)
        else:
            result = _emotion(task, path, features, probe, crop or 1.0, test_split, limit, seed)
        said = departures(layer=layer, size=size, flip=flip, light=light)
        result = result._replace(protocol=result.protocol + said)
    settings: dict[str, Any] = {
        "version": facecycle_jax._version.__version__, "path": path, "baselines": list(baselines),
        "probe": probe, "crop": crop, "test_split": test_split, "limit": limit, "layer": layer, "size": size,
        "flip": flip, "light": light, "seed": seed, "people_left_out": len(set(without)), "model": None,
    }  # fmt: skip
    if model is not None:
        settings["model"] = {"config": model.model, "info": {k: str(v) for k, v in model.info.items()}}
    return result._replace(settings=settings)


def _check_baselines(baselines: Sequence[str]) -> None:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise UserError(f"baselines are {', '.join(BASELINES)}, got {unknown[0]!r}.")


def _emotion(
    task: str,
    path: str,
    features: Mapping[str, FeatureSet],
    probe: str,
    crop: float,
    test_split: str | None,
    limit: int,
    seed: int,
) -> Evaluation:
    """Reads the splits and judges all features."""
    if task == "raf-db":
        read, counts, names = read_raf_db, RAF_COUNTS, ["train", "test"]
    else:
        tests = ["PublicTest", "PrivateTest"] if test_split == "both" else [test_split or "PublicTest"]
        read, counts, names = read_fer2013, FER_COUNTS, ["Training", *tests]
    splits = {name: read(path, split=name) for name in names}
    splits = {
        name: split.select(choose(len(split), limit=limit, seed=seed)) for name, split in splits.items()
    }
    train, test = names[:2]
    return judge_emotion(
        features, splits.pop(train), splits.pop(test), task=task, names=(train, test), counts=counts,
        probe=probe, crop=crop, seed=seed, also=splits,
    )  # fmt: skip


def _pose(path: str, features: Mapping[str, FeatureSet], crop: float, limit: int, seed: int) -> Evaluation:
    """Reads training and test pictures and judges all features."""
    train, test = (
        part.select(choose(len(part), limit=limit, seed=seed))
        for part in (read_300w_lp(path), read_aflw2000(path))
    )
    return judge_pose(features, train, test, crop=crop, seed=seed)


def _verification(
    task: str,
    path: str,
    features: Mapping[str, FeatureSet],
    without: frozenset[str],
    crop: float | None,
    limit: int,
    seed: int,
) -> Evaluation:
    """Reads the lists and judges all features."""
    train: Pairs | None = None
    if task == "cplfw":
        test, crop = read_cplfw_pairs(path), crop or 1.0
    else:
        crop = crop or LFW_CROP
        try:
            test = read_lfw_pairs(path, name="pairs.txt")
        except FileNotFoundError as error:
            # View 1 stands in only where the list itself is missing.
            if "pairs.txt" not in str(error).split(":")[0]:
                raise
            train, test = (read_lfw_pairs(path, name=f"pairsDev{part}.txt") for part in ("Train", "Test"))
    test = test.limited(limit, seed=seed)
    train = train.limited(limit, seed=seed) if train is not None else None
    warnings = []
    for pairs in (train, test):
        if pairs is None:
            continue
        official = next((c for name, c in PAIR_COUNTS.items() if pairs.origin.endswith(name)), None)
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
    return judge_pairs(features, train, test, task=task, crop=crop, warnings=tuple(warnings))
