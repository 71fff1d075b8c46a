"""Reads the text of a compiled program: instructions, sizes, how often they run.

The text is HLO, XLA's language, after partitioning and optimisation: the program of one
device. It consists of computations. One of them is the entry; the others are run by
instructions that name them, such as loops and fusions.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from facecycle_jax.errors import UserError

# Operations that only run the computations they name.
CONTROL = frozenset(("while", "conditional", "call"))

# The first line of a computation: 'ENTRY %main (x: f32[8]) -> f32[8] {'.
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# A line of a computation: '  %sum = f32[8]{0} add(%x, %y), metadata={...}'.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
# Of such a line, the opcode and its operands: ' add(%x, %y'.
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(([^)]*)")
_NAME = re.compile(r"%([\w.\-]+)")
# An array's type and dimensions: 'f32[8,4]'.
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
# The same with its layout: 'f32[8,4]{1,0:T(8,128)S(1)}'.
_ARRAY = re.compile(_SHAPE.pattern + r"(?:\{[^}]*\})?")
# Attributes that name the computations an instruction runs. The condition of a loop is
# not among them, because it only compares a number.
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)="
    r"\{?(%[^,{}]+(?:, %[^,{}]+)*)"
)
# The attribute of a loop whose number of iterations XLA knows.
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """One instruction of a program.

    Attributes:
      computation: name of the computation that it belongs to.
      name: its name, without '%'.
      opcode: what it does, e.g. 'all-reduce-start'.
      result: the shape of its result, e.g. 'f32[8,4]{1,0}'. A tuple has several.
      operands: names of its operands, which are of the same computation.
      definition: everything after its name: result, opcode, operands and attributes.
    """

    computation: str
    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    definition: str


def instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of a program, an operand before what uses it.

    Args:
      text: `compiled.as_text()`.
    """
    computation = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            computation = head[2]
            continue

        parts = _INSTRUCTION.match(line)
        if not computation or not parts:
            continue

        definition = parts[2]
        opcode = _OPCODE.search(definition)
        if not opcode:
            continue

        yield Instruction(
            computation=computation,
            name=parts[1],
            opcode=opcode[1],
            result=definition[: opcode.start()],
            operands=tuple(_NAME.findall(opcode[2])),
            definition=definition,
        )


def count_runs(
    text: str, *, through: frozenset[str] | None
) -> collections.Counter[str]:
    """Counts how often each computation runs in one run of the program.

    Args:
      text: `compiled.as_text()`.
      through: opcodes whose computations are counted. None counts those of all, also
        of fusions and reductions.

    Returns:
      The number by the name of the computation; the entry has 1.

    Raises:
      UserError: If the text is not an HLO module.
    """
    entry = _entry(text)

    # By computation, those that it runs, and how often each time.
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for instruction in instructions(text):
        if through is not None and instruction.opcode not in through:
            continue

        trips = _TRIPS.search(instruction.definition)
        times = int(trips[1]) if trips else 1
        for names in _CALLED.findall(instruction.definition):
            called = [(name.strip(" %"), times) for name in names.split(",")]
            calls[instruction.computation] += called

    # From the entry downwards. What several instructions run is visited for each.
    runs: collections.Counter[str] = collections.Counter()
    pending = [(entry, 1)]
    while pending:
        computation, times = pending.pop()
        runs[computation] += times
        for called_name, trips_each in calls[computation]:
            pending.append((called_name, times * trips_each))
    return runs


def shape_bytes(text: str) -> int:
    """Adds up the bytes of the shapes in a text, e.g. '(f32[8,4]{1,0}, bf16[])'.

    Args:
      text: HLO shapes.

    Returns:
      Bytes. An array of a type narrower than a byte is rounded up to whole bytes.
    """
    total = 0
    for kind, dimensions in _SHAPE.findall(text):
        # The first number in a type's name is its width: f32, bf16, s4, f8e4m3fn.
        bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
        elements = math.prod(int(size) for size in dimensions.split(",") if size)
        total += math.ceil(elements * bits / 8)
    return total


def array_shapes(text: str) -> list[str]:
    """Lists the shapes in a text, each with its layout.

    Args:
      text: HLO shapes, e.g. '(f32[8,4]{1,0:S(1)}, bf16[])'.

    Returns:
      The shapes, e.g. ['f32[8,4]{1,0:S(1)}', 'bf16[]'].
    """
    return [match[0] for match in _ARRAY.finditer(text)]


def _entry(text: str) -> str:
    """Finds the computation that a program begins with."""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head and head[1]:
            return head[2]
    raise UserError("the text has no ENTRY computation, so it is not an HLO module.")
