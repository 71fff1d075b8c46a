"""What a compile check found, as numbers and as text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from launch.compile_check.chips import GIB
from launch.compile_check.collectives import Collective
from launch.compile_check.gpu_kernels import Kernels
from launch.compile_check.topology import Topology

# The names of `Report.bounds` in a sentence.
_BOUNDS = {
    "compute": "peak arithmetic",
    "memory": "memory bandwidth",
    "links": "links between chips",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """One compiled training step. Every number is that of one chip and one step.

    Attributes:
      topology: what was compiled for.
      settings: what tells this program from others: method, width, dtype, image_size,
        batch_size, accumulate, fsdp, effort.
      arguments: bytes of the state and the batch.
      outputs: bytes of the new state and the metrics.
      donated: bytes of the outputs that take the place of arguments.
      temporaries: bytes of all intermediate results.
      code: bytes of the program.
      flops: floating-point operations, by XLA's count.
      bytes: bytes moved between chip and memory. Those of TPUs are counted by
        `memory_bytes`, those of GPUs by `count_kernels`; 0 if not known.
      kernels: what a GPU starts; None for TPUs.
      xla_seconds: XLA's own estimate of the time; None if it gives none.
      xla_left_out: number of operations that the estimate leaves out.
      collectives: what chips send each other.
      between_slices: what chips send to other slices, over the data-centre network.
      compile_seconds: wall time of the compilation on this machine.
      refused: XLA's reason if it found that the program does not fit, else ''. The
        other numbers are 0 then.
    """

    topology: Topology
    settings: dict[str, Any]
    arguments: int = 0
    outputs: int = 0
    donated: int = 0
    temporaries: int = 0
    code: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    kernels: Kernels | None = None
    xla_seconds: float | None = None
    xla_left_out: int = 0
    collectives: tuple[Collective, ...] = ()
    between_slices: tuple[Collective, ...] = ()
    compile_seconds: float = 0.0
    refused: str = ""

    @property
    def memory(self) -> int:
        """The most bytes that are in use at the same time."""
        return (
            self.arguments + self.outputs - self.donated + self.temporaries + self.code
        )

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory of a chip."""
        return not self.refused and self.memory <= self.topology.chip.memory

    @property
    def bounds(self) -> dict[str, float]:
        """The least seconds that a step takes, by what limits it."""
        chip = self.topology.chip
        bounds = {"compute": self.flops / chip.flops}
        if self.bytes:
            bounds["memory"] = self.bytes / chip.bandwidth

        # Whatever its algorithm, an all-reduce sends its array twice: once to add up
        # and once to distribute the sum. The other kinds send theirs once.
        sent = 0
        for collective in self.collectives:
            times = 2 if collective.kind == "all-reduce" else 1
            sent += times * collective.bytes

        # A single chip has no other to send to.
        has_links = self.topology.chips_per_slice > 1
        bounds["links"] = sent / chip.link_bandwidth if has_links else 0.0
        return bounds

    def as_json(self) -> dict[str, Any]:
        """Returns all attributes and derived numbers, in types that JSON has."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return {
            **fields,
            "topology": str(self.topology),
            "slices": self.topology.slices,
            "chips": self.topology.size,
            "collectives": [found._asdict() for found in self.collectives],
            "between_slices": [found._asdict() for found in self.between_slices],
            "kernels": self.kernels._asdict() if self.kernels else None,
            "memory": self.memory,
            "memory_of_chip": self.topology.chip.memory,
            "fits": self.fits,
            "bounds_seconds": self.bounds,
        }


def describe(report: Report) -> str:
    """Formats a report as text.

    Args:
      report: that of `check`.

    Returns:
      Several lines. The last one says whether the step fits.
    """
    lines = [_heading(report)]
    if report.refused:
        lines.append(f"DOES NOT FIT: {report.refused}")
        return "\n".join(lines)

    lines += _memory(report)
    lines.append(_work(report))
    if report.kernels is not None:
        lines += _kernels(report.kernels)

    lines += _collectives(report.collectives)
    if report.topology.slices > 1:
        lines += _between_slices(report)

    lines += _times(report)
    lines.append(f"compiled in {report.compile_seconds:.0f} s")
    lines.append("FITS" if report.fits else "DOES NOT FIT")
    return "\n".join(lines)


def _heading(report: Report) -> str:
    """Names the topology and the settings."""
    chips = report.topology.size
    settings = report.settings
    batch_size = settings["batch_size"]

    parts = [
        settings["method"],
        f"width {settings['width']}",
        settings["dtype"],
        f"{settings['image_size']} pixels",
        f"{batch_size} pairs in all",
        f"{batch_size / chips:g} per chip",
    ]
    if settings["accumulate"] > 1:
        parts.append(f"{settings['accumulate']} micro-batches")
    if settings["fsdp"]:
        parts.append("parameters sharded")
    return f"{report.topology}: {chips} chips; {', '.join(parts)}"


def _memory(report: Report) -> list[str]:
    """Lists what the memory of a chip holds."""
    capacity = report.topology.chip.memory
    held = {
        "arguments": report.arguments,
        "outputs": report.outputs,
        "of them donated": -report.donated,
        "temporaries": report.temporaries,
        "program": report.code,
    }

    lines = [f"memory of a chip ({capacity / GIB:.0f} GiB):"]
    for name, value in held.items():
        lines.append(f"  {name:<18}{value / GIB:10.3f} GiB")

    fraction = report.memory / capacity
    lines.append(
        f"  {'together':<18}{report.memory / GIB:10.3f} GiB, {fraction:.1%} of what it "
        "has"
    )
    return lines


def _work(report: Report) -> str:
    """States the arithmetic and the memory traffic of a step."""
    work = f"work of a chip in a step: {report.flops / 1e9:.4g} GFLOP"
    if report.bytes:
        work += f", {report.bytes / 1e9:.4g} GB to and from memory"
    return work


def _kernels(kernels: Kernels) -> list[str]:
    """Lists what a GPU starts, one kind a line."""
    calls = sum(number for _, number in kernels.libraries)
    others = sum(number for _, number in kernels.others)

    lines = [
        f"kernels in a step: {kernels.fusions} fusions ({kernels.triton} by Triton), "
        f"{calls} library calls, {others} others"
    ]
    for name, number in (*kernels.libraries, *kernels.others):
        lines.append(f"  {name:<40}{number:5}")
    return lines


def _collectives(collectives: Sequence[Collective]) -> list[str]:
    """Lists what chips send each other, one kind a line."""
    none = "" if collectives else " none"
    lines = [f"collectives in a step:{none}"]
    for collective in collectives:
        lines.append(_collective(collective))
    return lines


def _between_slices(report: Report) -> list[str]:
    """Lists what crosses the network between slices, one kind a line."""
    chips = report.topology.chips_per_slice
    nothing = "" if report.between_slices else " nothing"

    lines = [f"over the data-centre network, between slices:{nothing}"]
    for collective in report.between_slices:
        of_slice = chips * collective.bytes / 1e6
        lines.append(
            f"{_collective(collective)} of a chip, {of_slice:.3f} MB of a slice"
        )
    return lines


def _collective(collective: Collective) -> str:
    """States the kind, the number and the size of collectives."""
    megabytes = collective.bytes / 1e6
    return f"  {collective.kind:<20}{collective.number:5}  {megabytes:10.3f} MB"


def _times(report: Report) -> list[str]:
    """States the least time of a step and XLA's estimate."""
    bounds = ", ".join(
        f"{1e3 * seconds:.3g} ms by {_BOUNDS[name]}"
        for name, seconds in report.bounds.items()
    )
    lines = [f"a step takes at least: {bounds}"]

    if report.xla_seconds is not None:
        estimate = f"XLA's estimate of a step: {1e3 * report.xla_seconds:.3g} ms"
        if report.xla_left_out:
            estimate += f", {report.xla_left_out} operations left out"
        lines.append(estimate)

    if report.settings["accumulate"] > 1:
        lines.append(
            "XLA counts the body of a loop once: GFLOP and XLA's estimate are those of "
            "the body times the micro-batches."
        )
    return lines
