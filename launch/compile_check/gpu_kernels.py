"""Counts kernels, library calls and memory traffic in a program compiled for a GPU.

The text is HLO after optimisation, of one device.
"""

import collections
import re
from typing import NamedTuple

from launch.compile_check.hlo import (
    CONTROL,
    NAME,
    OPCODE,
    called_runs,
    instructions,
    shape_bytes,
)

_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_TRITON = re.compile(r'"kind":"__triton[^"]*"')
# Scratch memory of a library call is an array of bytes at the end of its results.
_SCRATCH = re.compile(r",\s*[us]8\[\d+\](?:\{[^}]*\})?\s*\)\s*$")
# Operations that start no kernel.
_NO_KERNEL = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
    )
)


class Kernels(NamedTuple):
    """What a GPU starts in one run of a program.

    Attributes:
      fusions: number of fusions that XLA compiled itself.
      triton: those of them that are products by Triton.
      libraries: number of calls by name, such as 'cudnn$convForward', most first.
      others: number of other operations, such as copies and collectives, by name.
      bytes: bytes that all of them read and write, each operand and result once; in
        loops as often as they run.
    """

    fusions: int = 0
    triton: int = 0
    libraries: tuple[tuple[str, int], ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    bytes: int = 0


def count_kernels(text: str) -> Kernels:
    """Counts what a GPU starts in one run of a compiled program.

    Args:
      text: `compiled.as_text()`.

    Returns:
      The counts. The bytes are an estimate: a kernel may read an operand several times,
      or a part of it.

    Raises:
      UserError: If the text is no HLO module.
    """
    runs = called_runs(text, through=CONTROL | {"async-start"})
    fusions = 0
    triton = 0
    moved = 0
    libraries: collections.Counter[str] = collections.Counter()
    others: collections.Counter[str] = collections.Counter()
    shapes: dict[tuple[str, str], str] = {}

    for here, name, definition in instructions(text):
        opcode = OPCODE.search(definition)
        times = runs[here]
        if not times or not opcode:
            continue

        kind = opcode[1]
        result = definition[: opcode.start()]
        shapes[here, name] = result
        if kind in _NO_KERNEL or kind in CONTROL or kind.endswith("-done"):
            continue

        if kind == "fusion":
            fusions += times
            triton += times if _TRITON.search(definition) else 0
        elif kind == "custom-call":
            target = _TARGET.search(definition)
            libraries[target[1].strip("_") if target else "unknown"] += times
            result = _SCRATCH.sub(")", result)
        else:
            others[kind.removesuffix("-start")] += times

        operands = [shapes.get((here, other), "") for other in NAME.findall(opcode[2])]
        moved += times * shape_bytes(" ".join([result, *operands]))

    return Kernels(
        fusions=fusions,
        triton=triton,
        libraries=tuple(libraries.most_common()),
        others=tuple(others.most_common()),
        bytes=moved,
    )
