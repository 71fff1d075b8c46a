"""Counts what devices send to each other in one run of a compiled program.

The text is HLO after partitioning, of one device.
"""

import collections
import re
from typing import NamedTuple

from launch.compile_check.device_groups import crosses_slices
from launch.compile_check.hlo import count_runs, instructions, shape_bytes

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_CHANNEL = re.compile(r"\bchannel_id=\d+")
# A TPU's compiler splits a collective between slices. Each slice reduces or gathers
# within itself. Then each chip sends its part to its host, and the hosts exchange the
# parts. Those sends and receives have the kind of the collective and its name.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]+)"')


class Collective(NamedTuple):
    """The collectives of one kind in one run of a program.

    Attributes:
      kind: e.g. 'all-reduce'.
      number: how many are run. One in a loop counts once for each iteration.
      bytes: their sizes together. The size of one is the larger of what a device gives
        and what it gets.
    """

    kind: str
    number: int
    bytes: int


class _Found(NamedTuple):
    """One collective of a program: how often it runs, and its bytes each time."""

    runs: int
    bytes: int


# Collectives by (kind, name).
_Collectives = dict[tuple[str, str], _Found]


def count_collectives(text: str) -> list[Collective]:
    """Counts what devices send to each other in one run of a compiled program.

    Args:
      text: `compiled.as_text()`.

    Returns:
      One entry for each kind that occurs, most bytes first.

    Raises:
      UserError: If the text is not an HLO module.
    """
    return _by_kind(_collectives(text, per_slice=None))


def count_between_slices(text: str, *, per_slice: int) -> list[Collective]:
    """Counts what devices send to other slices in one run of a compiled program.

    These are the collectives whose groups hold devices of several slices. In a program
    that was compiled for several slices of TPUs, the hosts do that part; it counts with
    the bytes that a chip sends to its host.

    Args:
      text: `compiled.as_text()`.
      per_slice: devices of a slice. The program's devices are numbered slice by slice,
        as in the mesh.

    Returns:
      One entry for each kind that occurs, most bytes first.

    Raises:
      UserError: If the text is not an HLO module.
    """
    transfers = _host_transfers(text)
    if transfers:
        # Then the collectives are those within one slice, and number only its devices.
        return _by_kind(transfers)
    return _by_kind(_collectives(text, per_slice=per_slice))


def _by_kind(found: _Collectives) -> list[Collective]:
    """Adds up collectives of the same kind, most bytes first."""
    numbers: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for (kind, _), collective in found.items():
        numbers[kind] += collective.runs
        sizes[kind] += collective.runs * collective.bytes

    return [
        Collective(kind=kind, number=numbers[kind], bytes=size)
        for kind, size in sizes.most_common()
    ]


def _collectives(text: str, *, per_slice: int | None) -> _Collectives:
    """Finds the collectives of a program.

    Args:
      text: the program.
      per_slice: devices of a slice, to find only what crosses slices; None for all.

    Returns:
      The collectives.
    """
    runs = count_runs(text, through=None)
    sizes: dict[str, int] = {}
    found: _Collectives = {}

    for instruction in instructions(text):
        times = runs[instruction.computation]
        if not times:
            continue

        got = shape_bytes(instruction.result)
        sizes[instruction.name] = got
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _KINDS:
            continue

        definition = instruction.definition
        if per_slice is not None and not crosses_slices(
            definition, per_slice=per_slice
        ):
            continue

        # The result of an asynchronous start holds the operands too. That of an
        # all-reduce does not.
        given = sum(sizes.get(operand, 0) for operand in instruction.operands)
        if instruction.opcode.endswith("-start") and kind != "all-reduce":
            got -= given

        # A collective that a TPU overlaps with other work occurs in several fusions:
        # its start, that work, and its end. All of them have its channel.
        channel = _CHANNEL.search(definition)
        key = (kind, channel[0] if channel else instruction.name)
        this = _Found(runs=times, bytes=max(given, got))
        found[key] = max(found.get(key, this), this)

    return found


def _host_transfers(text: str) -> _Collectives:
    """Finds what the chips of a TPU slice send to their hosts for other slices."""
    runs = count_runs(text, through=None)
    sizes: dict[str, int] = {}
    times: dict[tuple[str, str], int] = {}
    sent: collections.Counter[tuple[str, str]] = collections.Counter()
    received: collections.Counter[tuple[str, str]] = collections.Counter()

    for instruction in instructions(text):
        if not runs[instruction.computation]:
            continue

        result_bytes = shape_bytes(instruction.result)
        sizes[instruction.name] = result_bytes
        transfer = _TRANSFER.search(instruction.definition)
        rendezvous = _RENDEZVOUS.search(instruction.definition)
        if instruction.opcode not in ("send", "recv") or not transfer or not rendezvous:
            continue

        # 'ALL_REDUCE' becomes 'all-reduce'.
        kind = transfer[1].lower().replace("_", "-")
        key = (kind, rendezvous[1])
        times[key] = runs[instruction.computation]
        if instruction.opcode == "send":
            sent[key] += sizes.get(instruction.operands[0], 0)
        else:
            # The result holds the array, a number of 4 bytes and a token.
            received[key] += result_bytes - 4

    return {
        key: _Found(runs=times[key], bytes=max(sent[key], received[key]))
        for key in times
    }
