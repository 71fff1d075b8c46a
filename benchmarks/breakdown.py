"""Where the time of a train step goes: a profiler's trace, summed by network."""

import collections
import gzip
import json
import pathlib
import re
from typing import Any

import jax

from benchmarks.ours import Setting, TrainStep

_INSTRUCTION = re.compile(r"%?([\w.\-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]*)\"")
# Modules by their names in the program, first match counts.
_NETWORKS = (
    ("Generator", "generator"),
    ("NoiseEncoding", "generator"),
    ("FlowDecoder", "flow decoder"),
    ("CodeEncoder", "encoder"),
    ("Normaliser", "normaliser"),
    ("VGG19", "VGG-19"),
)


def profile(
    stage: str, setting: Setting, folder: pathlib.Path, *, steps: int = 3
) -> str:
    """Traces train steps and sums their time by network, forward and backward.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is measured.
      folder: for the trace, which TensorBoard and Perfetto show.
      steps: traced updates.

    Returns:
      A Markdown table of shares.
    """
    step = TrainStep(stage, setting)
    names = instruction_names(step.compiled().as_text() or "")
    step()
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            step()
    newest = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(newest, "rt") as file:
        events = json.load(file)["traceEvents"]
    return summary(events, names)


def instruction_names(text: str) -> dict[str, str]:
    """Maps the instructions of a compiled program to their names in the source."""
    return {
        match[1]: match[2]
        for match in map(_INSTRUCTION.search, text.splitlines())
        if match
    }


def place(name: str) -> tuple[str, str]:
    """Tells network and direction of an operation by its name in the source."""
    network = next(
        (label for word, label in _NETWORKS if word in name),
        "losses, sampling and update",
    )
    return network, "backward" if "transpose(" in name else "forward"


def summary(events: list[dict[str, Any]], names: dict[str, str]) -> str:
    """Sums the trace's events of instructions by network and direction.

    Args:
      events: `traceEvents` of the trace.
      names: from `instruction_names`.

    Returns:
      A Markdown table.
    """
    spent: dict[tuple[str, str], float] = collections.defaultdict(float)
    for event in events:
        instruction = event.get("args", {}).get("hlo_op", "")
        if event.get("ph") == "X" and instruction in names:
            spent[place(names[instruction])] += event["dur"]
    whole = sum(spent.values())
    if not whole:
        return "The trace names no instruction of the train step on this device."
    lines = ["| network | forward | backward |", "|---|---:|---:|"]
    for network in dict.fromkeys(
        [label for _, label in _NETWORKS] + [network for network, _ in spent]
    ):
        shares = [
            100 * spent.get((network, direction), 0.0) / whole
            for direction in ("forward", "backward")
        ]
        if any(shares):
            lines.append(f"| {network} | {shares[0]:.1f} % | {shares[1]:.1f} % |")
    return "\n".join(lines)
