"""The options of an evaluation, and how they change its protocol."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.probes.linear import LinearOptions
from facecycle_jax.evaluation.probes.neighbours import PROJECTIONS
from facecycle_jax.networks import FEATURE_SIDE, FEATURE_SIZE, LAYERS, check_layer

PROBES = ("logistic", "linear", "neighbours")
TEST_SPLITS = ("PublicTest", "PrivateTest", "both")


class Task(NamedTuple):
    """An evaluation task.

    Attributes:
      features: features of FaceCycle's models that have rows, in order. Identity codes
        need stage 2. Empty for tasks that evaluate images or the whole model.
      options: fields of `EvaluationOptions` that it uses, in addition to those that
        every task accepts.
    """

    features: tuple[str, ...]
    options: tuple[str, ...]


_CODES = ("identity_code", "motion_code", "both")
_MAPS = ("feature_map", "motion_code")
# Options of any features, of maps, and where labels are invariant to mirroring and
# lighting.
_OF_FEATURES = ("baselines", "crop")
_OF_MAPS = ("layer", "size")
_OF_INVARIANT = ("flip", "light")
_OF_PAIRS = (*_OF_FEATURES, *_OF_INVARIANT, "without")
_OF_EMOTION = (*_OF_FEATURES, *_OF_MAPS, *_OF_INVARIANT, "probe", "epochs")

# How the tasks on published data read and evaluate them is in `tasks.py`.
TASKS = {
    "lfw": Task(_CODES, _OF_PAIRS),
    "cplfw": Task(_CODES, _OF_PAIRS),
    "fer2013": Task(_MAPS, (*_OF_EMOTION, "test_split")),
    "raf-db": Task(_MAPS, _OF_EMOTION),
    "pose": Task(_MAPS, (*_OF_FEATURES, *_OF_MAPS)),
    "lights": Task(_CODES, (*_OF_FEATURES, *_OF_INVARIANT)),
    "faces": Task((), ("crop", "without")),
    "synthetic": Task((), ("baselines",)),
    "gallery": Task((), ("crop", "map")),
}
# The features by task, where it has some.
FEATURES = {name: task.features for name, task in TASKS.items() if task.features}

# Most names of people to leave out that a warning lists when they are unknown.
_NAMED = 5
# Sides in pixels. On smaller images the last layer's map is a single location, and a
# batch of larger ones does not fit into common memories.
SMALLEST_SIZE = 32
LARGEST_SIZE = 512
# scikit-learn accepts seeds of 32 bits.
LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated and how, from the command line to the report.

    The constructor refuses values out of range and options that the task would ignore.
    It accepts `path` and `seed` for every task, even where they change nothing.

    Attributes:
      task: one of `TASKS`. 'lfw' is view 2 if there is pairs.txt, else view 1.
      path: the data, as published. 'gallery' needs a folder of images, 'synthetic'
        nothing.
      baselines: names of `facecycle_jax.evaluation.baselines.BASELINES`.
      probe: for emotion, 'logistic' (to convergence, nothing to tune), 'linear' (the
        paper's) or 'neighbours' (the vote of the nearest training images).
      epochs: of the probe 'linear'; 300 is the paper's. The learning rate falls at the
        same fractions of them.
      without: people to leave out of verification and of 'faces', because a model was
        trained on them.
      crop: central fraction of the images that is kept, above 0 to 1; None means 0.6
        for LFW and 1 elsewhere.
      test_split: for FER-2013, 'PublicTest' (the default), 'PrivateTest' or 'both'.
      limit: most images or pairs of each split, sampled at random. 0 means all. For
        'lights', images under frontal light come in addition. For 'faces' it is most
        people, the first by name. For 'synthetic' it is the number of people, 64 for 0.
      projection: for the maps of 'gallery', 'pca' or 'tsne'.
      layer: for emotion and head pose, the layer of the motion encoder whose map is
        evaluated, one of `facecycle_jax.networks.LAYERS`, averaged to 7 x 7. The last
        one is the paper's. Several, separated by commas, are joined. The baseline
        'random' uses the same.
      size: side in pixels to which those images are resized, 32 to 512. The paper uses
        100.
      flip: for verification and emotion, whether features are averaged over an image
        and its mirror image.
      light: for the same tasks, how far brightness and contrast of all images are
        normalised, 0 (not) to 1 (entirely); see `facecycle_jax.ops.normalise_lighting`.
      seed: for folds, initial weights and sampling.

    Raises:
      UserError: If an option is out of range, or the task does not use it. The message
        names the option and what it may be.
    """

    task: str
    path: str = ""
    baselines: Sequence[str] = ()
    probe: str = "logistic"
    epochs: int = LinearOptions().epochs
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

        # Whether an option differs from its default, by name.
        changed = {
            "probe": self.probe != PROBES[0],
            "epochs": self.epochs != LinearOptions().epochs,
            "baselines": bool(self.baselines),
            "map": self.projection != PROJECTIONS[0],
            "test_split": self.test_split is not None,
            "without": bool(self.without),
            "crop": self.crop is not None,
            "layer": self.layer != LAYERS[-1],
            "size": self.size != FEATURE_SIZE,
            "flip": self.flip,
            "light": self.light > 0,
        }
        if changed["epochs"] and self.probe != "linear":
            raise UserError(f"epochs are for the probe linear, not for {self.probe}.")

        for name, is_changed in changed.items():
            if not is_changed or name in TASKS[self.task].options:
                continue
            tasks = [task for task, uses in TASKS.items() if name in uses.options]
            shown = f"probe {self.probe}" if name == "probe" else name
            kind = "task" if len(tasks) == 1 else "tasks"
            raise UserError(
                f"{shown} is for the {kind} {', '.join(tasks)}, not for {self.task}."
            )

    def _check_values(self) -> None:
        """Refuses values that no task may have."""
        _one_of("task", self.task, TASKS)
        _one_of("probe", self.probe, PROBES)
        _one_of("map", self.projection, PROJECTIONS)
        if self.test_split is not None:
            _one_of("test_split", self.test_split, TEST_SPLITS)
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UserError(f"crop must be above 0 and at most 1, got {self.crop}.")

        check_layer(self.layer)
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise UserError(
                f"size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, "
                f"got {self.size}."
            )
        if not 0 <= self.light <= 1:
            raise UserError(f"light must be 0 to 1, got {self.light}.")
        if self.epochs < 1:
            raise UserError(f"epochs must be at least 1, got {self.epochs}.")
        if self.limit < 0:
            raise UserError(f"a limit must be 0 (all) or more, got {self.limit}.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"seed must be 0 to {LARGEST_SEED}, got {self.seed}.")

        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise UserError(
                f"baselines are {', '.join(BASELINES)}, got {unknown[0]!r}."
            )

    def departures(self) -> str:
        """Describes how the protocol departs from the paper's.

        Returns:
          Sentences, each after a space, or ''.
        """
        text = ""
        if (self.layer, self.size) != (LAYERS[-1], FEATURE_SIZE):
            areas = f"{FEATURE_SIDE}x{FEATURE_SIDE}"
            text += (
                f" Maps of layer {self.layer} from images of {self.size} pixels, "
                f"averaged to {areas}."
            )
        if self.epochs != LinearOptions().epochs:
            text += f" {self.epochs} epochs of SGD instead of the paper's."
        if self.flip:
            text += " Features averaged over an image and its mirror image."
        if self.light:
            text += (
                f" Brightness and contrast of all images normalised by {self.light:g}."
            )
        return text

    def settings(self) -> dict[str, Any]:
        """Returns the options as JSON values for the report.

        Names of people left out are not part of them, only their number is.
        """
        values = dataclasses.asdict(self)
        del values["task"]
        del values["without"]
        values["baselines"] = list(self.baselines)
        return values | {"people_left_out": len(set(self.without))}


def unknown_names_warning(names: Sequence[str], *, where: str) -> list[str]:
    """Returns a sentence on names of people to leave out that nothing shows, if any.

    Args:
      names: those that were not found.
      where: what was searched, as the beginning of the sentence: 'In no pair'.

    Returns:
      One sentence, or none.
    """
    if not names:
        return []
    listed = ", ".join(map(repr, names[:_NAMED]))
    left = len(names) - _NAMED
    more = f" and {left} more" if left > 0 else ""
    return [f"{where}, of the names to be left out: {listed}{more}."]


def _one_of(name: str, value: str, known: Collection[str]) -> None:
    """Refuses a value that is not among those known."""
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
