"""What an evaluation can be asked for, and what it says of its protocol where that leaves the paper's."""

from collections.abc import Sequence

from facecycle_jax.errors import UserError
from facecycle_jax.models import FEATURE_SIDE, FEATURE_SIZE, LAYERS, check_layer

TASKS = ("lfw", "cplfw", "fer2013", "raf-db", "pose", "lights", "faces", "synthetic", "gallery")
PROBES = ("logistic", "linear")
TEST_SPLITS = ("PublicTest", "PrivateTest", "both")
# What is judged of a model, by task; identity codes need stage 2.
FEATURES = {
    "lfw": ("identity_code", "motion_code", "both"),
    "cplfw": ("identity_code", "motion_code", "both"),
    "lights": ("identity_code", "motion_code", "both"),
    "fer2013": ("feature_map", "motion_code"),
    "raf-db": ("feature_map", "motion_code"),
    "pose": ("feature_map", "motion_code"),
}
# Tasks that judge a layer's map, and so may choose the layer and the pictures it is taken of.
_OF_MAPS = tuple(task for task, kinds in FEATURES.items() if "feature_map" in kinds)
# Tasks whose answer neither a mirror nor the light changes.
_OF_LABELS = ("lfw", "cplfw", "lights", "fer2013", "raf-db")
# Sides in pixels: below, the last layer's map is a single place; above, a batch does not fit common memories.
SMALLEST_SIZE, LARGEST_SIZE = 32, 512


def check_options(
    task: str,
    *,
    probe: str,
    without: Sequence[str],
    crop: float | None,
    test_split: str | None,
    limit: int,
    layer: str,
    size: int,
    flip: bool,
    light: float,
) -> None:
    """Refuses values out of range, and options that the task would ignore; arguments are `evaluate`'s.

    Args:
      task: one of `TASKS`.
      probe: one of `PROBES`.
      without: people.
      crop: 0 to 1, or None.
      test_split: one of `TEST_SPLITS`, or None.
      limit: 0 or more.
      layer: one of `facecycle_jax.models.LAYERS`.
      size: pixels.
      flip: whether to average.
      light: 0 to 1.

    Raises:
      ValueError: naming the option and what it may be.
    """
    if task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    if probe not in PROBES:
        raise UserError(f"probe must be one of {', '.join(PROBES)}, got {probe!r}.")
    if test_split not in (None, *TEST_SPLITS):
        raise UserError(f"test_split must be one of {', '.join(TEST_SPLITS)}, got {test_split!r}.")
    if crop is not None and not 0 < crop <= 1:
        raise UserError(f"crop must be above 0 and at most 1, got {crop}.")
    check_layer(layer)
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise UserError(f"size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {size}.")
    if not 0 <= light <= 1:
        raise UserError(f"light must be 0 to 1, got {light}.")
    if limit < 0:
        raise UserError(f"a limit must be 0 (all) or more, got {limit}.")
    for name, given, tasks in (
        ("probe linear", probe == "linear", ("fer2013", "raf-db")),
        ("test_split", test_split is not None, ("fer2013",)),
        ("without", bool(without), ("lfw", "cplfw", "faces")),
        ("crop", crop is not None, (*FEATURES, "faces", "gallery")),
        ("layer", layer != LAYERS[-1], _OF_MAPS),
        ("size", size != FEATURE_SIZE, _OF_MAPS),
        ("flip", flip, _OF_LABELS),
        ("light", light > 0, _OF_LABELS),
    ):
        if given and task not in tasks:
            raise UserError(f"{name} is of {' and '.join(tasks)}, not of {task}.")


def departures(*, layer: str, size: int, flip: bool, light: float) -> str:
    """Says what a protocol leaves the paper's by; arguments are `evaluate`'s.

    Args:
      layer: whose map is taken.
      size: side of the pictures it is taken of, pixels.
      flip: whether features are averaged with the mirror image's.
      light: how far brightness and contrast are evened out.

    Returns:
      Sentences, each after a space; '' for the paper's.
    """
    said = ""
    if (layer, size) != (LAYERS[-1], FEATURE_SIZE):
        places = f"{FEATURE_SIDE}x{FEATURE_SIDE}"
        said += f" Maps of layer {layer} from pictures of {size} pixels, averaged to {places}."
    if flip:
        said += " Features averaged over a picture and its mirror image."
    if light:
        said += f" Brightness and contrast of all pictures evened out by {light:g}."
    return said
