"""Where the time of a train step goes: a profiler's trace, summed by network."""

import collections
import gzip
import json
import pathlib
import re
from typing import Any

import jax

from benchmarks.ours import Setting, TrainStep

# An instruction of a compiled program: its name, and the operation in the source that
# it comes from.
_INSTRUCTION = re.compile(r"%?([\w.\-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]*)\"")
# Modules as they are named in operations, with the label of their network. The first
# match counts.
_NETWORKS = (
    ("Generator", "generator"),
    ("NoiseEncoding", "generator"),
    ("FlowDecoder", "flow decoder"),
    ("CodeEncoder", "encoder"),
    ("Normaliser", "normaliser"),
    ("VGG19", "VGG-19"),
)
_OTHERS = "losses, sampling and update"
_DIRECTIONS = ("forward", "backward")


def profile(
    stage: str, setting: Setting, folder: pathlib.Path, *, steps: int = 3
) -> str:
    """Traces train steps and sums their time by network, forward and backward.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is measured.
      folder: for the trace, which TensorBoard and Perfetto show.
      steps: number of traced updates.

    Returns:
      A Markdown table of shares.
    """
    step = TrainStep(stage, setting)
    names = instruction_names(step.compiled().as_text() or "")

    # The first call is not traced: it is slower than the others.
    step()
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            step()

    # The folder may hold earlier traces.
    traces = folder.rglob("*.trace.json.gz")
    newest = max(traces, key=lambda path: path.stat().st_mtime)
    with gzip.open(newest, "rt") as file:
        events = json.load(file)["traceEvents"]
    return summary(events, names)


def instruction_names(text: str) -> dict[str, str]:
    """Maps the instructions of a compiled program to their names in the source.

    Args:
      text: the program as `Compiled.as_text` returns it.

    Returns:
      {instruction: operation}, e.g. {'dot.3': 'jit(step)/jvp(Generator)/dot'}.
    """
    names = {}
    for line in text.splitlines():
        match = _INSTRUCTION.search(line)
        if match:
            names[match[1]] = match[2]
    return names


def place(name: str) -> tuple[str, str]:
    """Finds the network and the direction of an operation.

    Args:
      name: the operation's name in the source.

    Returns:
      The label of the network, and 'forward' or 'backward'.
    """
    network = _OTHERS
    for module, label in _NETWORKS:
        if module in name:
            network = label
            break

    # JAX derives the backward pass by transposing.
    return network, "backward" if "transpose(" in name else "forward"


def summary(events: list[dict[str, Any]], names: dict[str, str]) -> str:
    """Sums the trace's events of instructions by network and direction.

    Args:
      events: `traceEvents` of the trace.
      names: those of `instruction_names`.

    Returns:
      A Markdown table, or a sentence if the trace has no instruction of the program.
    """
    spent: dict[tuple[str, str], float] = collections.defaultdict(float)
    for event in events:
        instruction = event.get("args", {}).get("hlo_op", "")
        # 'X' is an event with a duration.
        if event.get("ph") == "X" and instruction in names:
            spent[place(names[instruction])] += event["dur"]

    whole = sum(spent.values())
    if not whole:
        return "The trace names no instruction of the train step on this device."

    lines = ["| network | forward | backward |", "|---|---:|---:|"]
    for network in dict.fromkeys([label for _, label in _NETWORKS] + [_OTHERS]):
        forward, backward = (
            100 * spent[network, direction] / whole for direction in _DIRECTIONS
        )
        if forward or backward:
            lines.append(f"| {network} | {forward:.1f} % | {backward:.1f} % |")
    return "\n".join(lines)
