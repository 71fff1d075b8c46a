"""The options of an evaluation, and what they mean for its protocol."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS, check_layer

TASKS = (
    "lfw",
    "cplfw",
    "fer2013",
    "raf-db",
    "pose",
    "lights",
    "faces",
    "synthetic",
    "gallery",
)
PROBES = ("logistic", "linear")
TEST_SPLITS = ("PublicTest", "PrivateTest", "both")
# The features of a model by task; identity codes need stage 2.
FEATURES = {
    "lfw": ("identity_code", "motion_code", "both"),
    "cplfw": ("identity_code", "motion_code", "both"),
    "lights": ("identity_code", "motion_code", "both"),
    "fer2013": ("feature_map", "motion_code"),
    "raf-db": ("feature_map", "motion_code"),
    "pose": ("feature_map", "motion_code"),
}
# Tasks that evaluate a layer's map, and so may choose the layer and the size of the
# images.
_OF_MAPS = tuple(task for task, kinds in FEATURES.items() if "feature_map" in kinds)
# Tasks whose answer neither mirroring nor lighting changes.
_OF_LABELS = ("lfw", "cplfw", "lights", "fer2013", "raf-db")
# Sides in pixels: below, the last layer's map is a single place; above, a batch does
# not fit common memories.
SMALLEST_SIZE, LARGEST_SIZE = 32, 512


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated and how, from the command line to the report.

    Values out of range, and options that the task would ignore, raise a UserError at
    once.

    Attributes:
      task: one of `TASKS`: 'lfw' (view 2 if pairs.txt is there, else view 1), 'cplfw',
        'fer2013', 'raf-db', 'pose', 'lights', 'faces', 'synthetic' or 'gallery'.
      path: the data, as published; of 'gallery' a folder of images; 'synthetic' needs
        none.
      baselines: names of `facecycle_jax.evaluation.baselines.BASELINES`.
      probe: of emotion: 'logistic' (to convergence, nothing to tune) or 'linear' (the
        paper's).
      without: people to leave out of verification, because a model was trained on them.
      crop: central fraction of the images that is kept, above 0 to 1; None means 0.6
        for LFW and 1 elsewhere.
      test_split: of FER-2013: 'PublicTest' (the default), 'PrivateTest' or 'both'.
      limit: most images, or pairs, of each split, drawn at random; of 'synthetic' the
        people; 0: all.
      projection: of the maps of 'gallery': 'pca' or 'tsne'.
      layer: of the motion encoder, whose map is evaluated for emotion and head pose,
        one of `facecycle_jax.networks.LAYERS`, averaged to 7 x 7; the last is the
        paper's. Random weights likewise.
      size: side those images are resized to, 32 to 512 pixels; 100 is the paper's.
      flip: of verification and emotion: average all features over an image and its
        mirror image.
      light: of the same: how far brightness and contrast of all images are normalised,
        0 (not) to 1 (entirely), see `facecycle_jax.ops.normalise_lighting`.
      seed: of folds, initial weights and draws.

    Raises:
      UserError: naming the option and what it may be.
    """

    task: str
    path: str = ""
    baselines: Sequence[str] = ()
    probe: str = "logistic"
    without: Sequence[str] = ()
    crop: float | None = None
    test_split: str | None = None
    limit: int = 0
    projection: str = "pca"
    layer: str = LAYERS[-1]
    size: int = FEATURE_SIZE
    flip: bool = False
    light: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        self._check_values()

        # Options that are given, and the tasks that use them.
        for name, given, tasks in (
            ("probe linear", self.probe == "linear", ("fer2013", "raf-db")),
            ("test_split", self.test_split is not None, ("fer2013",)),
            ("without", bool(self.without), ("lfw", "cplfw", "faces")),
            ("crop", self.crop is not None, (*FEATURES, "faces", "gallery")),
            ("layer", self.layer != LAYERS[-1], _OF_MAPS),
            ("size", self.size != FEATURE_SIZE, _OF_MAPS),
            ("flip", self.flip, _OF_LABELS),
            ("light", self.light > 0, _OF_LABELS),
        ):
            if given and self.task not in tasks:
                raise UserError(
                    f"{name} is of {' and '.join(tasks)}, not of {self.task}."
                )

    def _check_values(self) -> None:
        """Refuses values that no task may have."""
        _one_of("task", self.task, TASKS)
        _one_of("probe", self.probe, PROBES)
        if self.test_split is not None:
            _one_of("test_split", self.test_split, TEST_SPLITS)
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UserError(f"crop must be above 0 and at most 1, got {self.crop}.")
        check_layer(self.layer)
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise UserError(
                f"size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {self.size}."
            )
        if not 0 <= self.light <= 1:
            raise UserError(f"light must be 0 to 1, got {self.light}.")
        if self.limit < 0:
            raise UserError(f"a limit must be 0 (all) or more, got {self.limit}.")
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise UserError(
                f"baselines are {', '.join(BASELINES)}, got {unknown[0]!r}."
            )

    def departures(self) -> str:
        """Words where a protocol departs from the paper's.

        Sentences, each after a space, or ''.
        """
        words = ""
        if (self.layer, self.size) != (LAYERS[-1], FEATURE_SIZE):
            areas = f"{FEATURE_SIDE}x{FEATURE_SIDE}"
            words += f" Maps of layer {self.layer} from pictures of {self.size} pixels, averaged to {areas}."
        if self.flip:
            words += " Features averaged over a picture and its mirror image."
        if self.light:
            words += f" Brightness and contrast of all pictures evened out by {self.light:g}."
        return words

    def settings(self) -> dict[str, Any]:
        """Returns the options as JSON values for the report.

        Of the people left out only their number.
        """
        values = dataclasses.asdict(self)
        del values["task"], values["without"]
        values["baselines"] = list(self.baselines)
        return values | {"people_left_out": len(set(self.without))}


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuses a value that is not among those known."""
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
