"""Counts of collectives, memory traffic and cycles in a compiled program's text.

The text is HLO after partitioning, of one device.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from facecycle_jax.errors import UserError

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(([^)]*)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)="
    r"\{?(%[^,{}]+(?:, %[^,{}]+)*)"
)
_ARRAY = re.compile(_SHAPE.pattern + r"(?:\{[^}]*\})?")
# What moves nothing: names for (parts of) other arrays, and operations that consist of
# others.
_CONTROL = frozenset(("while", "conditional", "call"))
_FREE = _CONTROL | {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "custom-call",
}
_NAME = re.compile(r"%([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=\d+")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """The collectives of one kind in one run of a program.

    Attributes:
      kind: e.g. 'all-reduce'.
      number: how many are run; those in a loop count as often as it turns.
      bytes: their size together, each the larger of what a device gives and what it
        gets.
    """

    kind: str
    number: int
    bytes: int


def shape_bytes(text: str) -> int:
    """Adds up the bytes of the shapes in a text, e.g. '(f32[8,4]{1,0}, bf16[])'.

    Args:
      text: HLO shapes.

    Returns:
      Bytes; types narrower than a byte are rounded up for each array.
    """
    total = 0
    for kind, dimensions in _SHAPE.findall(text):
        bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
        total += math.ceil(
            math.prod(int(n) for n in dimensions.split(",") if n) * bits / 8
        )
    return total


def count_collectives(text: str) -> list[Collective]:
    """Counts what devices send to each other in one run of a compiled program.

    Args:
      text: `compiled.as_text()`.

    Returns:
      One entry for each kind that occurs, largest first.

    Raises:
      ValueError: if the text is no HLO module.
    """
    runs = _runs(text, through=None)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    sizes: dict[str, int] = {}
    for here, name, definition in _instructions(text):
        opcode = _OPCODE.search(definition)
        if not runs[here] or not opcode:
            continue
        sizes[name] = shape_bytes(definition[: opcode.start()])
        kind = opcode[1].removesuffix("-start")
        if kind in KINDS:
            operands = sum(
                sizes.get(operand, 0) for operand in _NAME.findall(opcode[2])
            )
            # The result of a -start holds the operands too.
            given = (
                operands if opcode[1] == f"{kind}-start" and kind != "all-reduce" else 0
            )
            channel = _CHANNEL.search(definition)
            # One that a TPU runs with other work stands in each of its parts: start,
            # that work, end.
            key = kind, channel[0] if channel else name
            found[key] = max(
                found.get(key, (0, 0)), (runs[here], max(operands, sizes[name] - given))
            )
    number: collections.Counter[str] = collections.Counter()
    size: collections.Counter[str] = collections.Counter()
    for (kind, _), (times, bytes_each) in found.items():
        number[kind] += times
        size[kind] += times * bytes_each
    return [
        Collective(kind, number[kind], size[kind]) for kind, _ in size.most_common()
    ]


def memory_bytes(text: str) -> int:
    """Counts the bytes that one run of a TPU program reads from and writes to memory.

    XLA's own count, 'bytes accessed', adds up what operations read and write wherever
    it lies. But a TPU's compiler keeps what it can in memory on the chip ('S(1)' in
    layouts) and copies the rest there ahead of its use. Here an operand outside of it
    is read whole by each operation and a result written once; a copy between the two
    counts once. What is in a loop counts as often as it turns, every branch of a
    conditional once, custom calls as nothing.

    Args:
      text: `compiled.as_text()`.

    Returns:
      Bytes.

    Raises:
      ValueError: if the text is no HLO module.
    """
    runs = _runs(text, through=_CONTROL)
    total, shapes = 0, dict[str, str]()
    for here, name, definition in _instructions(text):
        opcode = _OPCODE.search(definition)
        if not runs[here] or not opcode:
            continue
        result = definition[: opcode.start()]
        operands = [shapes.get(x, "") for x in _NAME.findall(opcode[2])]
        # What starts a copy stands for its source: its own result names source and
        # target.
        started = opcode[1].endswith("-start")
        shapes[name] = (operands[0] if operands else "") if started else result
        if opcode[1].endswith("-done"):
            moved = shape_bytes(result) * sum(
                _outside(x) > 0 for x in (result, *operands[:1])
            )
        elif started or opcode[1] in _FREE:
            continue
        else:
            moved = _outside(result) + sum(_outside(operand) for operand in operands)
        total += runs[here] * moved
    return total


def estimated_cycles(text: str) -> int:
    """Adds up the cycles that a TPU's compiler estimates for each operation.

    They are its code generator's, which knows tiles and idle lanes, as XLA's sum of
    arithmetic and bytes does not; copies between the chip and its memory, which run
    meanwhile, have none. Loops and conditionals count as in `memory_bytes`.

    Args:
      text: `compiled.as_text()` of a program compiled for a TPU.

    Returns:
      Cycles; 0 where the text tells none.

    Raises:
      ValueError: if the text is no HLO module.
    """
    runs = _runs(text, through=_CONTROL)
    return sum(
        runs[here] * int(match[1])
        for here, _, definition in _instructions(text)
        if runs[here] and (match := _CYCLES.search(definition))
    )


def _outside(shapes: str) -> int:
    """Adds up the bytes of those shapes that lie outside of the chip."""
    return sum(
        shape_bytes(match[0])
        for match in _ARRAY.finditer(shapes)
        if "S(" not in match[0]
    )


def _runs(text: str, *, through: frozenset[str] | None) -> collections.Counter[str]:
    """Counts how often each computation runs in one run of the program.

    Args:
      text: the program.
      through: operations whose computations count as run; None: those of all, fusions
        and reducers too.

    Returns:
      The number by computation; the entry has 1.

    Raises:
      ValueError: if no computation is the entry.
    """
    entries = [
        match[2]
        for match in map(_COMPUTATION.match, text.splitlines())
        if match and match[1]
    ]
    if not entries:
        raise UserError("the text has no ENTRY computation, so it is no HLO module.")
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for here, _, definition in _instructions(text):
        opcode = _OPCODE.search(definition)
        if through is not None and (not opcode or opcode[1] not in through):
            continue
        trips = int(match[1]) if (match := _TRIPS.search(definition)) else 1
        for group in _CALLED.findall(definition):
            calls[here] += [(called.strip(" %"), trips) for called in group.split(",")]
    runs: collections.Counter[str] = collections.Counter()
    pending = [(entries[0], 1)]
    while pending:
        here, times = pending.pop()
        runs[here] += times
        pending += [(called, times * trips) for called, trips in calls[here]]
    return runs


def _instructions(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields (computation, name, definition) of every instruction."""
    here = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            here = match[2]
        elif here and (match := _INSTRUCTION.match(line)):
            yield here, match[1], match[2]
