"""The paper's evaluations of frozen features: emotion and person verification, each with its floors."""

from collections.abc import Mapping, Sequence

from facecycle_jax.data.fer2013 import OFFICIAL as FER_COUNTS
from facecycle_jax.data.fer2013 import read_fer2013
from facecycle_jax.data.lfw_pairs import OFFICIAL as PAIR_COUNTS
from facecycle_jax.data.lfw_pairs import Pairs, read_cplfw_pairs, read_lfw_pairs
from facecycle_jax.data.raf_db import OFFICIAL as RAF_COUNTS
from facecycle_jax.data.raf_db import read_raf_db
from facecycle_jax.model import FaceCycle
from facecycle_jax.probes.baselines import BASELINES
from facecycle_jax.probes.features import FeatureSet, model_features
from facecycle_jax.probes.judge import judge_emotion, judge_pairs
from facecycle_jax.probes.report import Evaluation

TASKS = ("lfw", "cplfw", "fer2013", "raf-db")
PROBES = ("logistic", "linear")
# Of a deep-funneled picture the middle three fifths are the face, as in the training pictures.
LFW_CROP = 0.6


def feature_sets(model: FaceCycle | None, baselines: Sequence[str], *, task: str) -> dict[str, FeatureSet]:
    """Lists the features a task is judged with.

    Args:
      model: a loaded model, or None for baselines alone.
      baselines: names of `BASELINES`.
      task: one of `TASKS`; verification takes codes, emotion the motion encoder's map and code.

    Returns:
      Features by name.

    Raises:
      ValueError: for an unknown baseline or task, or nothing to evaluate.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ValueError(f"baselines are {', '.join(BASELINES)}, got {unknown[0]!r}.")
    found: dict[str, FeatureSet] = {}
    if model is not None:
        pairs = task in ("lfw", "cplfw")
        wanted = ["identity_code", "motion_code", "both"] if pairs else ["feature_map", "motion_code"]
        if not model.has_identity:
            wanted = [name for name in wanted if name not in ("identity_code", "both")]
        every = model_features(model, size=model.size)
        every["feature_map"] = every["feature_map"]._replace(encode=model.traced_feature_map)
        found = {name: every[name] for name in wanted}
    found |= {name: BASELINES[name]() for name in baselines}
    if not found:
        raise ValueError("there is nothing to evaluate: give a model, baselines, or both.")
    return found


def evaluate(
    task: str,
    path: str,
    *,
    model: FaceCycle | None = None,
    baselines: Sequence[str] = (),
    probe: str = "logistic",
    without: Sequence[str] = (),
    crop: float | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Judges a model's features and baselines on one data set.

    Args:
      task: 'lfw' (view 2 if pairs.txt is there, else view 1), 'cplfw', 'fer2013' or 'raf-db'.
      path: the data, as published.
      model: a loaded model.
      baselines: names of `BASELINES`.
      probe: of emotion: 'logistic' (to convergence, nothing to tune) or 'linear' (the paper's).
      without: people to leave out of verification, because a model was trained on them.
      crop: middle part of the pictures that is kept, 0 to 1; None takes 0.6 for LFW and all elsewhere.
      test_split: of FER-2013: 'PublicTest' (the default) or 'PrivateTest'.
      seed: of folds and initial weights.

    Returns:
      The figures.

    Raises:
      ValueError: for unknown names, or data of another form.
      FileNotFoundError: if data are missing.
      ImportError: if a baseline's library is missing.

    References:
      FaceCycle (ICCV 2021), sections 4.2 and 4.4.
    """
    if probe not in PROBES:
        raise ValueError(f"probe must be one of {', '.join(PROBES)}, got {probe!r}.")
    features = feature_sets(model, baselines, task=task)
    if task in ("lfw", "cplfw"):
        return _verification(task, path, features, frozenset(without), crop)
    if task == "raf-db":
        train, test = (read_raf_db(path, split=split) for split in ("train", "test"))
        counts, names = RAF_COUNTS, ("train", "test")
    else:
        names = ("Training", test_split or "PublicTest")
        train, test = (read_fer2013(path, split=split) for split in names)
        counts = FER_COUNTS
    return judge_emotion(
        features, train, test, task=task, names=names, counts=counts, probe=probe, crop=crop or 1.0, seed=seed
    )


def _verification(
    task: str, path: str, features: Mapping[str, FeatureSet], without: frozenset[str], crop: float | None
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
