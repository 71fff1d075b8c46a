"""Counts kernels, library calls and memory traffic in a program compiled for a GPU.

The text is HLO after optimisation, of one device.
"""

import collections
import re
from typing import NamedTuple

from launch.compile_check.hlo import (
    CONTROL,
    count_runs,
    instructions,
    shape_bytes,
)

# The function that a library call calls.
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
# The mark of a fusion that XLA compiles with Triton.
_TRITON = re.compile(r'"kind":"__triton[^"]*"')
# The scratch memory of a library call, an array of bytes at the end of its results.
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
      fusions: number of fusions, kernels that XLA compiled itself.
      triton: number of those fusions that are matrix products compiled with Triton.
      libraries: (name, number of calls) of library functions such as
        'cudnn$convForward', most calls first.
      others: (name, number) of other operations, such as copies and collectives, most
        first.
      bytes: bytes that all of them read and write. Each operand and each result counts
        once, in a loop once for each iteration.
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
      UserError: If the text is not an HLO module.
    """
    runs = count_runs(text, through=CONTROL | {"async-start"})
    fusions = 0
    triton = 0
    moved = 0
    libraries: collections.Counter[str] = collections.Counter()
    others: collections.Counter[str] = collections.Counter()
    shapes: dict[str, str] = {}

    for instruction in instructions(text):
        times = runs[instruction.computation]
        if not times:
            continue

        opcode = instruction.opcode
        result = instruction.result
        shapes[instruction.name] = result
        # An asynchronous operation counts where it starts.
        if opcode in _NO_KERNEL or opcode in CONTROL or opcode.endswith("-done"):
            continue

        if opcode == "fusion":
            fusions += times
            if _TRITON.search(instruction.definition):
                triton += times
        elif opcode == "custom-call":
            target = _TARGET.search(instruction.definition)
            libraries[target[1].strip("_") if target else "unknown"] += times
            result = _SCRATCH.sub(")", result)
        else:
            others[opcode.removesuffix("-start")] += times

        operands = [shapes.get(name, "") for name in instruction.operands]
        moved += times * shape_bytes(" ".join([result, *operands]))

    return Kernels(
        fusions=fusions,
        triton=triton,
        libraries=tuple(libraries.most_common()),
        others=tuple(others.most_common()),
        bytes=moved,
    )
