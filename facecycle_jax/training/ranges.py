"""The table of the values that fields of a configuration may have.

They are checked before anything is read or compiled. Fields that are not in the table,
such as names and paths, are checked where they are used.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from facecycle_jax.errors import UserError
from facecycle_jax.training.run_config import flatten


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
      low: lower end.
      high: upper end.
      above: whether `low` itself is outside.
      below: whether `high` itself is outside.
      whole: whether only whole numbers are inside, and no floats such as 16.0, which
        shapes and counters cannot have.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a value is a number of the interval; NaN and booleans are not."""
        # bool is a subclass of int.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not math.isfinite(value) or (self.whole and not isinstance(value, int)):
            return False

        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        """Describes the interval, e.g. 'a whole number of at least 1'."""
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} {'above' if self.above else 'of at least'} {self.low:g}"

        start = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"{kind} {start} {'to below' if self.below else 'to'} {self.high:g}"


_COUNT = Range(0, whole=True)
_FROM_ONE = Range(1, whole=True)
_WEIGHT = Range(0)
_POSITIVE = Range(0, above=True)
_FRACTION = Range(0, 1)
_BELOW_ONE = Range(0, 1, below=True)

# Of fields that hold several numbers, each number must be in range.
RANGES: Mapping[str, Range] = {
    "seed": Range(0, 2**32 - 1, whole=True),
    "batch_size": _FROM_ONE,
    "num_epochs": _WEIGHT,
    "num_steps": _COUNT,
    "max_minutes": _WEIGHT,
    # Logs, evaluations and checkpoints.
    "log_every": _FROM_ONE,
    "eval_every": _FROM_ONE,
    "eval_batches": _FROM_ONE,
    "panel_every": _FROM_ONE,
    "panel_rows": _FROM_ONE,
    "checkpoint_every": _FROM_ONE,
    "keep_last": _FROM_ONE,
    "max_nonfinite": _FROM_ONE,
    "probe.limit": _COUNT,
    # Networks.
    "model.width": _POSITIVE,
    "model.encoder_width": _WEIGHT,
    "model.code_dim": _FROM_ONE,
    "model.code_init": _POSITIVE,
    # Losses.
    "loss.vgg_width": _WEIGHT,
    "loss.perceptual_weight": _WEIGHT,
    "loss.pixel_weight": _WEIGHT,
    "loss.symmetry_weight": _WEIGHT,
    "loss.ssim_weight": _WEIGHT,
    "loss.margin_weight": _WEIGHT,
    "loss.consensus_weight": _WEIGHT,
    "loss.mean_detail_weight": _WEIGHT,
    "loss.contrast_weight": _WEIGHT,
    "loss.contrast_temperature": _POSITIVE,
    "loss.bending_weight": _WEIGHT,
    "loss.warped_weight": _WEIGHT,
    "loss.folding_weight": _WEIGHT,
    "loss.saturation_weight": _WEIGHT,
    "loss.mean_flow_weight": _WEIGHT,
    "loss.turn_weight": _WEIGHT,
    "loss.frontal_weight": _WEIGHT,
    "loss.histogram_weight": _WEIGHT,
    "loss.keep_weight": _WEIGHT,
    "loss.agreement_weight": _WEIGHT,
    "loss.margin": _WEIGHT,
    "loss.flow_side": _COUNT,
    "loss.mix": _WEIGHT,
    "loss.epoch_steps": _COUNT,
    "loss.ssim_range": _POSITIVE,
    "loss.temperature": _POSITIVE,
    # Optimiser.
    "optimiser.schedule_epochs": _WEIGHT,
    "optimiser.schedule_rates": _WEIGHT,
    "optimiser.schedule_length_epochs": _WEIGHT,
    "optimiser.schedule_length_steps": _COUNT,
    "optimiser.b1": _BELOW_ONE,
    "optimiser.b2": _BELOW_ONE,
    "optimiser.momentum": _BELOW_ONE,
    "optimiser.weight_decay": _WEIGHT,
    "optimiser.cosine_epochs": _WEIGHT,
    "optimiser.clip_norm": _WEIGHT,
    "optimiser.accumulate": _FROM_ONE,
    "optimiser.ema_decay": _BELOW_ONE,
    # Data.
    "data.memory_gb": _POSITIVE,
    "data.min_frames": _FROM_ONE,
    "data.decode_size": _FROM_ONE,
    "data.mirror_pair_probability": _FRACTION,
    "data.eval_fraction": _BELOW_ONE,
    "data.identity_depth": _FROM_ONE,
    "data.max_tracks": _COUNT,
    "data.identities": _COUNT,
    "data.frames_per_track": _COUNT,
    # Augmentation.
    "augment.scale": _POSITIVE,
    "augment.ratio": _POSITIVE,
    "augment.brightness": _FRACTION,
    "augment.contrast": _FRACTION,
    "augment.saturation": _FRACTION,
    "augment.hue": Range(0, 0.5),
    "augment.jitter_probability": _FRACTION,
    "augment.mirror_probability": _FRACTION,
    "augment.warp": _FRACTION,
    "augment.side_light": Range(0, 90),
    "augment.left": _COUNT,
    "augment.top": _COUNT,
    "augment.side": _FROM_ONE,
    "augment.pose_items": _FROM_ONE,
    "augment.pose_negatives": _FROM_ONE,
    "augment.strength": _FRACTION,
    "augment.grey_probability": _FRACTION,
    "augment.blur_probability": _FRACTION,
    "augment.edge_probability": _FRACTION,
    "augment.smallest": _FROM_ONE,
    "augment.largest": _FROM_ONE,
}

# Pairs of numbers, the smaller one first.
_RISING = ("augment.scale", "augment.ratio")
# Fields that hold several numbers, and those that may. All others hold one.
_SEVERAL = (*_RISING, "optimiser.schedule_epochs", "optimiser.schedule_rates")
_ONE_OR_SEVERAL = ("data.mirror_pair_probability",)


def check_ranges(config: Mapping[str, Any]) -> None:
    """Checks the numbers of a configuration that have a range in `RANGES`.

    Args:
      config: nested dicts; with `stages`, names of configurations in it, each of these
        is checked.

    Raises:
      UserError: If a field is out of range, naming the first one and its range.
    """
    if "stages" not in config:
        _check_stage(config, "config")
        return

    names = config["stages"]
    missing = [name for name in names if not isinstance(config.get(name), Mapping)]
    if not names or missing:
        known = [name for name, value in config.items() if isinstance(value, Mapping)]
        raise UserError(
            f"config.stages must name some of {', '.join(known)}, got "
            f"{', '.join(missing) or 'nothing'}."
        )

    for name in names:
        _check_stage(config[name], f"config.{name}")


def _check_stage(config: Mapping[str, Any], prefix: str) -> None:
    """Checks one stage, whose fields are named with a prefix."""
    fields = flatten(config)

    for name, allowed in RANGES.items():
        # Not every method has every field.
        if name not in fields:
            continue
        value = fields[name]
        is_list = isinstance(value, list)
        if is_list != (name in _SEVERAL) and name not in _ONE_OR_SEVERAL:
            count = "several numbers" if name in _SEVERAL else "one number"
            raise UserError(f"{prefix}.{name} must be {count}, got {value!r}.")

        numbers = value if is_list else [value]
        if not numbers or not all(number in allowed for number in numbers):
            verb = "each be" if is_list else "be"
            hint = ""
            if allowed.whole and any(_is_whole_float(number) for number in numbers):
                hint = "; write it without a decimal point or exponent"
            raise UserError(
                f"{prefix}.{name} must {verb} {allowed}, got {value!r}{hint}."
            )

    for name in _RISING:
        pair = fields.get(name)
        if pair is not None and (len(pair) != 2 or pair[0] > pair[1]):
            raise UserError(
                f"{prefix}.{name} must be two numbers, the smaller one first, got "
                f"{pair!r}."
            )

    traced = fields.get("profile_steps", [])
    is_range = (
        isinstance(traced, list)
        and len(traced) in (0, 2)
        and all(step in _FROM_ONE for step in traced)
        and sorted(traced) == traced
    )
    if not is_range:
        raise UserError(
            f"{prefix}.profile_steps must be the first and the last step to trace, "
            f"counted from 1, or empty, got {traced!r}."
        )

    if fields.get("num_steps") == 0 and fields.get("num_epochs") == 0:
        raise UserError(
            f"{prefix}.num_steps and {prefix}.num_epochs are both 0: set one of them."
        )


def _is_whole_float(value: object) -> bool:
    """Whether a value is a whole number that is written as a float, such as 1e5."""
    return isinstance(value, float) and value.is_integer()
