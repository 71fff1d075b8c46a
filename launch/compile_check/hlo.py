"""Counts of collectives, memory traffic and cycles in a compiled program's text.

The text is HLO after partitioning, of one device.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

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
OPCODE = re.compile(r" ([a-z][\w\-]*)\(([^)]*)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)="
    r"\{?(%[^,{}]+(?:, %[^,{}]+)*)"
)
_ARRAY = re.compile(_SHAPE.pattern + r"(?:\{[^}]*\})?")
# What moves nothing: names for (parts of) other arrays, and operations that consist of
# others.
CONTROL = frozenset(("while", "conditional", "call"))
_FREE = CONTROL | {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "custom-call",
}
NAME = re.compile(r"%([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=\d+")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Groups of devices, as lists '{{0,1},{2,3}}' (of a permutation: pairs), as an array of
# all devices that is transposed and reshaped, '[2,2]<=[2,2]T(1,0)', or as the axes of a
# mesh that they run along, "mesh['a'=2,'b'=4] {'b'}".
_LISTED = re.compile(
    r"\b(?:replica_groups|source_target_pairs)=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}"
)
_IOTA = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"\breplica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_MESH_AXIS = re.compile(r"'([^']*)'=(\d+)")
# An axis, or of its places (counted outermost first) a factor: 'b':(2)4.
_GROUP_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
# What a TPU's compiler makes of a collective between slices: it adds up, or gathers,
# within each slice, and each chip hands its part to the host, which exchanges it.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]+)"')


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
    return _added_up(_collectives(text, per_slice=None))


def count_between_slices(text: str, *, per_slice: int) -> list[Collective]:
    """Counts what devices send to other slices in one run of a compiled program.

    These are the collectives whose groups hold devices of several slices. In a program
    that was compiled for several slices of TPUs, the hosts do that part; it counts with
    the bytes that a chip hands to its host.

    Args:
      text: `compiled.as_text()`.
      per_slice: devices of a slice. The program's devices are numbered slice by slice,
        as in the mesh.

    Returns:
      One entry for each kind that occurs, largest first.

    Raises:
      ValueError: if the text is no HLO module.
    """
    # Where hosts exchange, collectives are those of one slice, with its own numbers.
    found = _transfers(text) or _collectives(text, per_slice=per_slice)
    return _added_up(found)


def _added_up(found: dict[tuple[str, str], tuple[int, int]]) -> list[Collective]:
    """Adds up (number of runs, bytes of each) by kind."""
    number: collections.Counter[str] = collections.Counter()
    size: collections.Counter[str] = collections.Counter()
    for (kind, _), (times, bytes_each) in found.items():
        number[kind] += times
        size[kind] += times * bytes_each
    return [
        Collective(kind, number[kind], size[kind]) for kind, _ in size.most_common()
    ]


def _transfers(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Finds what TPUs hand to their hosts for other slices.

    Returns:
      (number of runs, bytes of each) by kind and name.
    """
    runs = called_runs(text, through=None)
    sizes: dict[str, int] = {}
    sent: collections.Counter[tuple[str, str]] = collections.Counter()
    received: collections.Counter[tuple[str, str]] = collections.Counter()
    times: dict[tuple[str, str], int] = {}
    for here, name, definition in instructions(text):
        opcode = OPCODE.search(definition)
        if not runs[here] or not opcode:
            continue

        result = definition[: opcode.start()]
        sizes[name] = shape_bytes(result)
        transfer = _TRANSFER.search(definition)
        rendezvous = _RENDEZVOUS.search(definition)
        if opcode[1] not in ("send", "recv") or not transfer or not rendezvous:
            continue

        kind = transfer[1].lower().replace("_", "-")
        key = kind, rendezvous[1]
        times[key] = runs[here]
        if opcode[1] == "send":
            operand = NAME.findall(opcode[2])[0]
            sent[key] += sizes.get(operand, 0)
        else:
            # The result holds the array, a number of 4 bytes and a token.
            received[key] += sizes[name] - 4

    return {key: (times[key], max(sent[key], received[key])) for key in times}


def _spans(definition: str, per_slice: int) -> bool:
    """Whether a collective has devices of several slices in one group."""
    groups = _groups(definition)
    # No groups means one group of all devices.
    if groups is None:
        return True
    return any(len({device // per_slice for device in group}) > 1 for group in groups)


def _groups(definition: str) -> list[list[int]] | None:
    """Reads the groups of devices that a collective runs in; None: all in one."""
    if match := _LISTED.search(definition):
        lists = re.findall(r"\{([\d,]*)\}", match[1])
        return [[int(n) for n in numbers.split(",") if n] for numbers in lists]

    if match := _IOTA.search(definition):
        devices = _ordered(match[3], match[4])
        return devices.reshape(int(match[1]), int(match[2])).tolist()

    if match := _MESH.search(definition):
        return _groups_of_mesh(match)

    return None


def _ordered(shape: str, order: str | None) -> np.ndarray:
    """Numbers all devices in an array of a shape '2,4', transposed by '1,0'."""
    sizes = [int(n) for n in shape.split(",")]
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    if order:
        devices = devices.transpose([int(n) for n in order.split(",")])
    return devices


def _groups_of_mesh(match: re.Match[str]) -> list[list[int]]:
    """Reads groups that are given by axes of a mesh."""
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(match[1])}
    devices = np.arange(math.prod(sizes.values()))
    if match[2]:
        devices = _ordered(match[2], match[3])

    grouped = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in _GROUP_AXIS.findall(match[4])
    }

    # Every axis becomes three: what is outside of the group, the group, and the rest.
    shape: list[int] = []
    for name, size in sizes.items():
        before, part = grouped.get(name, (size, 1))
        shape += [before, part, size // (before * part)]
    within = [axis for axis in range(len(shape)) if axis % 3 == 1]
    outside = [axis for axis in range(len(shape)) if axis % 3 != 1]

    number = math.prod(shape[axis] for axis in outside)
    arranged = devices.reshape(shape).transpose(outside + within)
    return arranged.reshape(number, -1).tolist()


def _collectives(
    text: str, *, per_slice: int | None
) -> dict[tuple[str, str], tuple[int, int]]:
    """Finds collectives, or those between slices of so many devices.

    Returns:
      (number of runs, bytes of each) by kind and name.
    """
    runs = called_runs(text, through=None)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    sizes: dict[str, int] = {}
    for here, name, definition in instructions(text):
        opcode = OPCODE.search(definition)
        if not runs[here] or not opcode:
            continue
        sizes[name] = shape_bytes(definition[: opcode.start()])
        kind = opcode[1].removesuffix("-start")
        if kind in KINDS and (per_slice is None or _spans(definition, per_slice)):
            operands = sum(sizes.get(operand, 0) for operand in NAME.findall(opcode[2]))
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
    return found


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
    runs = called_runs(text, through=CONTROL)
    total, shapes = 0, dict[str, str]()
    for here, name, definition in instructions(text):
        opcode = OPCODE.search(definition)
        if not runs[here] or not opcode:
            continue
        result = definition[: opcode.start()]
        operands = [shapes.get(x, "") for x in NAME.findall(opcode[2])]
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
    runs = called_runs(text, through=CONTROL)
    return sum(
        runs[here] * int(match[1])
        for here, _, definition in instructions(text)
        if runs[here] and (match := _CYCLES.search(definition))
    )


def _outside(shapes: str) -> int:
    """Adds up the bytes of those shapes that lie outside of the chip."""
    return sum(
        shape_bytes(match[0])
        for match in _ARRAY.finditer(shapes)
        if "S(" not in match[0]
    )


def called_runs(
    text: str, *, through: frozenset[str] | None
) -> collections.Counter[str]:
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
    for here, _, definition in instructions(text):
        opcode = OPCODE.search(definition)
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


def instructions(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields (computation, name, definition) of every instruction."""
    here = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            here = match[2]
        elif here and (match := _INSTRUCTION.match(line)):
            yield here, match[1], match[2]
