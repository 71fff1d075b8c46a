"""What a compile check found, as numbers and as text."""

import dataclasses
from typing import Any

from launch.compile_check.chips import GIB
from launch.compile_check.gpu_kernels import Kernels
from launch.compile_check.hlo import Collective
from launch.compile_check.topology import Topology


@dataclasses.dataclass(frozen=True)
class Report:
    """One compiled train step; every number is of one chip and one step.

    Attributes:
      topology: what was compiled for.
      settings: what tells this program from others: method, width, dtype, image_size,
        batch_size, accumulate, fsdp, effort.
      arguments: bytes of state and batch.
      outputs: bytes of the new state and the averages.
      donated: bytes of the outputs that take the place of arguments.
      temporaries: bytes of everything between.
      code: bytes of the program.
      flops: floating-point operations, by XLA's count.
      bytes: bytes between chip and memory, see `memory_bytes`, of GPUs
        `count_kernels`; 0 where not known.
      kernels: what a GPU starts; None of TPUs.
      xla_seconds: XLA's own estimate of the time, None where it gives none.
      xla_left_out: operations of which it has no estimate.
      collectives: what chips send each other.
      between_slices: what of it goes to other slices, over the data-centre network.
      compile_seconds: wall time the compilation took on this machine.
      refused: XLA's reason where it found that the program does not fit, else ''; the
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
        """Bytes in use at once, at most."""
        return (
            self.arguments + self.outputs - self.donated + self.temporaries + self.code
        )

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return not self.refused and self.memory <= self.topology.chip.memory

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that a step takes at least, by what bounds it."""
        chip = self.topology.chip
        # An all-reduce sends what it adds up twice, whatever the way; the others once.
        sent = sum(
            c.bytes * (2 if c.kind == "all-reduce" else 1) for c in self.collectives
        )
        return {
            "compute": self.flops / chip.flops,
            **({"memory": self.bytes / chip.bandwidth} if self.bytes else {}),
            "links": sent / chip.link_bandwidth
            if self.topology.chips_per_slice > 1
            else 0.0,
        }

    def as_json(self) -> dict[str, Any]:
        """Returns everything, the derived numbers too, as JSON knows it."""
        chip = self.topology.chip
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **fields,
            "topology": str(self.topology),
            "slices": self.topology.slices,
            "chips": self.topology.size,
            "collectives": [c._asdict() for c in self.collectives],
            "between_slices": [c._asdict() for c in self.between_slices],
            "kernels": self.kernels._asdict() if self.kernels else None,
            "memory": self.memory,
            "memory_of_chip": chip.memory,
            "fits": self.fits,
            "bounds_seconds": self.bounds,
        }


def _between_slices(report: Report) -> list[str]:
    """Writes what crosses the network between slices, one kind a line."""
    nothing = "" if report.between_slices else " nothing"
    lines = [f"over the data-centre network, between slices:{nothing}"]
    chips = report.topology.chips_per_slice
    for c in report.between_slices:
        lines.append(
            f"  {c.kind:<20}{c.number:5}  {c.bytes / 1e6:10.3f} MB of a chip, "
            f"{chips * c.bytes / 1e6:.3f} MB of a slice"
        )
    return lines


def _kernels(kernels: Kernels) -> list[str]:
    """Writes what a GPU starts, one kind a line."""
    calls = sum(number for _, number in kernels.libraries)
    others = sum(number for _, number in kernels.others)
    lines = [
        f"kernels in a step: {kernels.fusions} fusions ({kernels.triton} by Triton), "
        f"{calls} library calls, {others} others"
    ]
    for name, number in (*kernels.libraries, *kernels.others):
        lines.append(f"  {name:<40}{number:5}")
    return lines


def describe(report: Report) -> str:
    """Writes a report for people.

    Args:
      report: of `check`.

    Returns:
      A few lines.
    """
    chip, s = report.topology.chip, report.settings
    lines = [
        f"{report.topology}: {report.topology.size} chips; {s['method']}, width "
        f"{s['width']}, {s['dtype']}, {s['image_size']} pixels, {s['batch_size']} "
        f"pairs in all, {s['batch_size'] / report.topology.size:g} per chip"
        + (f", {s['accumulate']} micro-batches" if s["accumulate"] > 1 else "")
        + (", parameters sharded" if s["fsdp"] else ""),
    ]
    if report.refused:
        return "\n".join([*lines, f"DOES NOT FIT: {report.refused}"])
    lines.append(f"memory of a chip ({chip.memory / GIB:.0f} GiB):")
    for name, value in (
        ("arguments", report.arguments),
        ("outputs", report.outputs),
        ("of them donated", -report.donated),
        ("temporaries", report.temporaries),
        ("program", report.code),
    ):
        lines.append(f"  {name:<18}{value / GIB:10.3f} GiB")
    share = report.memory / chip.memory
    lines.append(
        f"  {'together':<18}{report.memory / GIB:10.3f} GiB, {share:.1%} of what it has"
    )
    work = f"work of a chip in a step: {report.flops / 1e9:.4g} GFLOP"
    if report.bytes:
        work += f", {report.bytes / 1e9:.4g} GB to and from memory"
    lines.append(work)

    if report.kernels is not None:
        lines += _kernels(report.kernels)
    lines.append("collectives in a step:" + ("" if report.collectives else " none"))
    for c in report.collectives:
        lines.append(f"  {c.kind:<20}{c.number:5}  {c.bytes / 1e6:10.3f} MB")
    if report.topology.slices > 1:
        lines += _between_slices(report)
    names = {
        "compute": "peak arithmetic",
        "memory": "memory bandwidth",
        "links": "links between chips",
    }
    bounds = ", ".join(
        f"{1e3 * value:.3g} ms by {names[name]}"
        for name, value in report.bounds.items()
    )
    lines.append(f"a step takes at least: {bounds}")
    if report.xla_seconds is not None:
        left_out = (
            f", {report.xla_left_out} operations left out"
            if report.xla_left_out
            else ""
        )
        lines.append(
            f"XLA's estimate of a step: {1e3 * report.xla_seconds:.3g} ms{left_out}"
        )
    if s["accumulate"] > 1:
        lines.append(
            "XLA counts a loop's body once: GFLOP and its estimate are those of it "
            "times the micro-batches."
        )
    lines.append(f"compiled in {report.compile_seconds:.0f} s")
    lines.append("FITS" if report.fits else "DOES NOT FIT")
    return "\n".join(lines)
