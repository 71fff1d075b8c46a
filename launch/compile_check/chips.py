"""Specifications of one chip of each TPU generation, from the vendor's pages."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: its name in a topology, e.g. 'v5e'.
      kind: its name in JAX, `Device.device_kind`.
      memory: bytes of high-bandwidth memory.
      flops: peak multiply-adds of bfloat16 a second, times two. Products of float32 run
        on the same units, rounded to bfloat16 by default.
      bandwidth: bytes a second between chip and memory.
      clock: cycles a second, as peak and matrix units have it (v5e: 4 units of 128 x
        128).
      link_bandwidth: bytes a second that all links to other chips carry out of the chip
        together.
      dimensions: numbers in a topology.
      host: chips of one host along each dimension of the topology.
      options: what libtpu needs in addition to the topology.
    """

    name: str
    kind: str
    memory: int
    flops: float
    bandwidth: float
    clock: float
    link_bandwidth: float
    dimensions: int
    host: tuple[int, int, int] = (2, 2, 1)
    options: tuple[tuple[str, str], ...] = ()


# v4 and v5p have two cores in a chip that work as one device, as they do on real ones.
_MEGACORE = (("chip_config_name", "megacore"),)

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            kind="TPU v4",
            memory=32 * GIB,
            flops=275e12,
            bandwidth=1200e9,
            clock=1.05e9,
            link_bandwidth=300e9,
            dimensions=3,
            options=_MEGACORE,
        ),
        Chip(
            name="v5e",
            kind="TPU v5 lite",
            memory=16 * GIB,
            flops=197e12,
            bandwidth=819e9,
            clock=1.5e9,
            link_bandwidth=200e9,
            dimensions=2,
        ),
        Chip(
            name="v5p",
            kind="TPU v5",
            memory=95 * GIB,
            flops=459e12,
            bandwidth=2765e9,
            clock=1.75e9,
            link_bandwidth=600e9,
            dimensions=3,
            options=_MEGACORE,
        ),
        Chip(
            name="v6e",
            kind="TPU v6 lite",
            memory=32 * GIB,
            flops=918e12,
            bandwidth=1638e9,
            clock=1.75e9,
            link_bandwidth=400e9,
            dimensions=2,
        ),
    )
}


def chip_of(kind: str) -> Chip | None:
    """Finds a chip by the name that JAX has for it.

    Returns None for a processor that is not a TPU of `CHIPS`.
    """
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
