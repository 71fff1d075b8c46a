"""Specifications of one chip of each TPU generation, as the vendor publishes them."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: its name in a topology, e.g. 'v5e'.
      kind: its name in JAX, `Device.device_kind`.
      memory: bytes of high-bandwidth memory.
      flops: peak operations a second in bfloat16, two for each multiply-add. Products
        of float32 run on the same units, rounded to bfloat16 by default.
      bandwidth: bytes a second between chip and memory.
      clock: cycles a second. It follows from the peak and the matrix units, of which a
        v5e has 4 of 128 x 128.
      link_bandwidth: bytes a second that the chip sends over all its links to other
        chips together.
      dimensions: number of dimensions of a topology: 2 for '4x4', 3 for '2x2x4'.
      host: chips of one host along three dimensions.
      options: options of libtpu that this chip needs, as (name, value).
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


# A chip of v4 or v5p has two cores, which JAX uses as one device (a megacore).
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

    Args:
      kind: `Device.device_kind`.

    Returns:
      The chip; None if the device is not a TPU of `CHIPS`.
    """
    for chip in CHIPS.values():
        if chip.kind == kind:
            return chip
    return None
