"""Operations and bytes of a train step, and the least time that they take.

Command: python -m benchmarks.roofline; see --help. Nothing is run. Exit status 0, or 2
for a wrong argument, in one sentence.

The schedule is the paper's on VoxCeleb1 and 2. A track is an utterance, and an epoch
has one item of each track.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import flops, hardware
from benchmarks.cases import STAGES
from facecycle_jax.errors import UserError

# Utterances of VoxCeleb1 (153,516) and VoxCeleb2 (1,128,246), by their authors' tables.
TRACKS = 153_516 + 1_128_246
EPOCHS = {"motion_cycle": 40, "identity_cycle": 20}
# At width 1.
TRAINED_PARAMETERS = {"motion_cycle": 20.1e6, "identity_cycle": 13.7e6}


class Machine(NamedTuple):
    """What the least times are computed for.

    Attributes:
      name: in the table.
      kind: of its chips, as in `hardware.sheet`.
      chips: number of chips.
      batch: pairs over all chips.
    """

    name: str
    kind: str
    chips: int
    batch: int


# 256 chips need as many pairs, 16 times the paper's batch.
MACHINES = (
    Machine(name="one H200", kind="H200", chips=1, batch=16),
    Machine(name="v5e-8", kind="TPU v5 lite", chips=8, batch=16),
    Machine(name="v5e-256, 256 pairs", kind="TPU v5 lite", chips=256, batch=256),
)


def step_seconds(
    stage: str,
    kind: str,
    *,
    chips: int,
    batch: int,
    precision: str = "bfloat16",
    slowdown: float = 1.0,
) -> float:
    """Computes the least time of an update.

    It is the larger one of arithmetic and memory traffic on each chip, plus the sum of
    the gradients over the chips.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      kind: kind of the chip, as in `hardware.sheet`.
      chips: number of chips.
      batch: pairs over all chips, a multiple of `chips`.
      precision: one of `PRECISIONS`.
      slowdown: time that a chip takes for its part, over the least that arithmetic and
        memory allow.

    Returns:
      Seconds.

    Raises:
      UserError: If the chip has no data sheet.
    """
    sheet = hardware.sheet(kind, precision)
    if sheet is None:
        raise UserError(f"no data sheet of {kind} in benchmarks/hardware.py.")

    item_bytes = 2 if precision == "bfloat16" else 4
    count = flops.train_step(stage, batch=batch // chips, item_bytes=item_bytes)
    least = max(count.flops / sheet.flops, count.bytes / sheet.memory)

    # In an all-reduce of float32 gradients, a chip sends its part of the others' sums
    # twice: once to add up, once to distribute the result.
    gradient_bytes = 4 * TRAINED_PARAMETERS[stage]
    sent = 2 * gradient_bytes * (chips - 1) / chips
    return slowdown * least + sent / sheet.links


def schedule_hours(stage: str, seconds: float, *, batch: int) -> float:
    """Computes the time of all epochs of a stage.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      seconds: time of an update.
      batch: pairs of an update.

    Returns:
      Hours.
    """
    updates = EPOCHS[stage] * (TRACKS // batch)
    return updates * seconds / 3600


def _parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description="Prints operations and bytes of a train step, and the least times "
        "of an update and of the paper's schedule. Nothing is run.",
    )
    parser.add_argument(
        "--slowdown",
        type=float,
        default=1.0,
        help="time of a chip, measured or by benchmarks.abstract_tpu, over the least "
        "there can be",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables.

    Args:
      arguments: command line without the program's name; None takes that of the
        process.

    Returns:
      The exit status.
    """
    options = _parser().parse_args(arguments)
    if not 0 < options.slowdown < float("inf"):
        message = f"--slowdown must be above 0, got {options.slowdown:g}."
        print(f"roofline: {message}", file=sys.stderr)
        return 2

    print(_stages_table())
    print("\n" + _networks_table())
    print("\n" + _machines_table(options.slowdown))
    return 0


def _stages_table() -> str:
    """Formats operations and bytes of a train step of each stage."""
    lines = [
        "| stage, 16 pairs, width 1 | TFLOP | without sharing | GB, float32 | GB, "
        "bfloat16 | FLOP a byte |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case, stage in STAGES.items():
        full = flops.train_step(stage, batch=16)
        half = flops.train_step(stage, batch=16, item_bytes=2)
        plain = flops.train_step(stage, batch=16, shared=False)
        lines.append(
            f"| {case} | {full.flops / 1e12:.2f} | {plain.flops / 1e12:.2f} | "
            f"{full.bytes / 1e9:.1f} | {half.bytes / 1e9:.1f} | "
            f"{half.flops / half.bytes:.0f} |"
        )
    return "\n".join(lines)


def _networks_table() -> str:
    """Formats the operations of a train step by network."""
    parts = [flops.parts(stage, batch=16) for stage in STAGES.values()]
    names: dict[str, None] = {}
    for counted in parts:
        names |= dict.fromkeys(counted)

    headings = " | ".join(f"TFLOP of {case}" for case in STAGES)
    lines = [
        f"| network, 16 pairs | {headings} |",
        "|---|---:|---:|",
    ]
    for name in names:
        cells = [f"{counted.get(name, 0) / 1e12:.3f}" for counted in parts]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _machines_table(slowdown: float) -> str:
    """Formats the time of an update and of the schedule on each machine."""
    lines = [
        f"| machine, bfloat16, {slowdown:g} times the least time | ms an update, stage "
        "1 | stage 2 | hours of stage 1 | of stage 2 | of both |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for machine in MACHINES:
        milliseconds = []
        hours = []
        for stage in EPOCHS:
            seconds = step_seconds(
                stage,
                machine.kind,
                chips=machine.chips,
                batch=machine.batch,
                slowdown=slowdown,
            )
            milliseconds.append(1e3 * seconds)
            hours.append(schedule_hours(stage, seconds, batch=machine.batch))

        figures = [*milliseconds, *hours, sum(hours)]
        cells = [f"{figure:.2f}" for figure in figures]
        lines.append(f"| {' | '.join([machine.name, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
