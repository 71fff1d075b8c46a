"""Operations and bytes of a train step, and the least time that they take.

Command: python -m benchmarks.roofline. Nothing is run.

The schedule is the paper's on VoxCeleb1 and 2: one item an epoch for each track, tracks
being utterances.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks import flops, hardware
from benchmarks.cases import STAGES
from facecycle_jax.errors import UserError

# Utterances of VoxCeleb1 (153,516) and VoxCeleb2 (1,128,246), by their authors' tables.
TRACKS = 153_516 + 1_128_246
EPOCHS = {"motion_cycle": 40, "identity_cycle": 20}
TRAINED_PARAMETERS = {"motion_cycle": 20.1e6, "identity_cycle": 13.7e6}
# (name, data sheet, chips, pairs over all chips). 256 chips need as many pairs, 16
# times the paper's batch.
MACHINES = (
    ("one H200", "H200", 1, 16),
    ("v5e-8", "TPU v5 lite", 8, 16),
    ("v5e-256, 256 pairs", "TPU v5 lite", 256, 256),
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

    It is the larger of arithmetic and memory on each chip, plus the gradients' sum.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      kind: of the chip, as in the table of data sheets.
      chips: how many.
      batch: pairs over all chips, a multiple of `chips`.
      precision: one of `PRECISIONS`.
      slowdown: time a chip takes for its part, over the least that arithmetic and
        memory allow.

    Returns:
      Seconds.

    Raises:
      ValueError: for a chip without a data sheet.
    """
    sheet = hardware.sheet(kind, precision)
    if sheet is None:
        raise UserError(f"no data sheet of {kind} in benchmarks/hardware.py.")
    item_bytes = 2 if precision == "bfloat16" else 4
    count = flops.train_step(stage, batch=batch // chips, item_bytes=item_bytes)
    sums = 2 * 4 * TRAINED_PARAMETERS[stage] * (chips - 1) / chips
    least = max(count.flops / sheet.flops, count.bytes / sheet.memory)
    return slowdown * least + sums / sheet.links


def schedule_hours(stage: str, seconds: float, *, batch: int) -> float:
    """Computes the hours of a stage's epochs from the seconds of an update."""
    return EPOCHS[stage] * (TRACKS // batch) * seconds / 3600


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline")
    parser.add_argument(
        "--slowdown",
        type=float,
        default=1.0,
        help="time of a chip, measured or by benchmarks.abstract_tpu, over the least "
        "there can be",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; exit status 0."""
    options = _parser().parse_args(arguments)
    print(
        "| stage, 16 pairs, width 1 | TFLOP | without sharing | GB, float32 | GB, "
        "bfloat16 | FLOP a byte |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for case, stage in STAGES.items():
        full = flops.train_step(stage, batch=16)
        half = flops.train_step(stage, batch=16, item_bytes=2)
        plain = flops.train_step(stage, batch=16, shared=False)
        print(
            f"| {case} | {full.flops / 1e12:.2f} | {plain.flops / 1e12:.2f} | "
            f"{full.bytes / 1e9:.1f} | {half.bytes / 1e9:.1f} | "
            f"{half.flops / half.bytes:.0f} |"
        )
    print(
        "\n| network, 16 pairs | TFLOP of train-motion | of train-identity "
        "|\n|---|---:|---:|"
    )
    parts = {stage: flops.parts(stage, batch=16) for stage in STAGES.values()}
    for name in dict.fromkeys(name for counted in parts.values() for name in counted):
        cells = [f"{counted.get(name, 0) / 1e12:.3f}" for counted in parts.values()]
        print("| " + " | ".join([name, *cells]) + " |")
    columns = (
        "ms an update, stage 1 | stage 2 | hours of stage 1 | of stage 2 | of both |"
    )
    print(
        f"\n| machine, bfloat16, {options.slowdown:g} times the least time | {columns}"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, kind, chips, batch in MACHINES:
        seconds = {
            stage: step_seconds(
                stage, kind, chips=chips, batch=batch, slowdown=options.slowdown
            )
            for stage in EPOCHS
        }
        hours = [
            schedule_hours(stage, taken, batch=batch)
            for stage, taken in seconds.items()
        ]
        cells = [f"{1e3 * taken:.2f}" for taken in seconds.values()]
        print(
            f"| {name} | "
            + " | ".join(cells + [f"{h:.2f}" for h in (*hours, sum(hours))])
            + " |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
