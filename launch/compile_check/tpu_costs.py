"""Counts the memory traffic and the cycles of a program compiled for a TPU.

The text is HLO after partitioning, of one device.
"""

import re

from launch.compile_check.hlo import (
    CONTROL,
    array_shapes,
    count_runs,
    instructions,
    shape_bytes,
)

# Operations that move nothing: names for arrays or parts of them, and operations that
# consist of others.
_MOVES_NOTHING = CONTROL | {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "custom-call",
}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def memory_bytes(text: str) -> int:
    """Counts the bytes that one run of a TPU program reads from and writes to memory.

    XLA's own count, 'bytes accessed', adds up what operations read and write, wherever
    it is stored. But a TPU's compiler keeps what it can in memory on the chip ('S(1)'
    in layouts) and copies the rest there before it is used. The rules here are:

    - An operand in the chip's main memory is read whole by each operation.
    - A result in main memory is written once.
    - A copy between the two memories counts once.
    - The body of a loop counts once for each iteration.
    - Every branch of a conditional counts once.
    - Custom calls count as nothing.

    Args:
      text: `compiled.as_text()`.

    Returns:
      Bytes.

    Raises:
      UserError: If the text is not an HLO module.
    """
    runs = count_runs(text, through=CONTROL)
    shapes: dict[str, str] = {}
    total = 0

    for instruction in instructions(text):
        times = runs[instruction.computation]
        if not times:
            continue

        result = instruction.result
        operands = [shapes.get(name, "") for name in instruction.operands]

        if instruction.opcode.endswith("-start"):
            # A copy counts where it ends, which needs the shape of its source. The
            # start's own result is a tuple of source and target.
            shapes[instruction.name] = operands[0] if operands else ""
            continue

        shapes[instruction.name] = result
        if instruction.opcode.endswith("-done"):
            # It moved as much as its result has, once for each side in main memory.
            sides = [result, *operands[:1]]
            in_memory = sum(_main_memory_bytes(side) > 0 for side in sides)
            total += times * in_memory * shape_bytes(result)
        elif instruction.opcode not in _MOVES_NOTHING:
            moved = sum(_main_memory_bytes(shape) for shape in [result, *operands])
            total += times * moved

    return total


def estimated_cycles(text: str) -> int:
    """Adds up the cycles that a TPU's compiler estimates for each operation.

    The estimates are those of the code generator, which knows tiles and idle lanes.
    XLA's cost analysis, a sum over arithmetic and bytes, does not. Copies between the
    chip and its memory have no cycles, because they run at the same time. Loops and
    conditionals count as in `memory_bytes`.

    Args:
      text: `compiled.as_text()` of a program compiled for a TPU.

    Returns:
      Cycles; 0 if the text states none.

    Raises:
      UserError: If the text is not an HLO module.
    """
    runs = count_runs(text, through=CONTROL)
    total = 0
    for instruction in instructions(text):
        cycles = _CYCLES.search(instruction.definition)
        if cycles:
            total += runs[instruction.computation] * int(cycles[1])
    return total


def _main_memory_bytes(shapes: str) -> int:
    """Adds up the bytes of those shapes that are not in memory on the chip."""
    return sum(
        shape_bytes(shape) for shape in array_shapes(shapes) if "S(" not in shape
    )
