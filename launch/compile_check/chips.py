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
      options: what libtpu wants to be told beside the topology.
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
            "v4",
            "TPU v4",
            32 * GIB,
            275e12,
            1200e9,
            1.05e9,
            300e9,
            dimensions=3,
            options=_MEGACORE,
        ),
        Chip("v5e", "TPU v5 lite", 16 * GIB, 197e12, 819e9, 1.5e9, 200e9, dimensions=2),
        Chip(
            "v5p",
            "TPU v5",
            95 * GIB,
            459e12,
            2765e9,
            1.75e9,
            600e9,
            dimensions=3,
            options=_MEGACORE,
        ),
        Chip(
            "v6e", "TPU v6 lite", 32 * GIB, 918e12, 1638e9, 1.75e9, 400e9, dimensions=2
        ),
    )
}


def chip_of(kind: str) -> Chip | None:
    """Finds a chip by the name that JAX has for it.

    Returns None for a processor that is not a TPU of `CHIPS`.
    """
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
