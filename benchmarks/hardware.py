"""Peak speeds of processors, from data sheets and from a large matrix product."""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.ours import PRECISIONS, Setting, device_of
from launch.compile_check import chip_of

# Operations a second by precision, dense, and bytes a second of memory and of the links
# of one GPU.
_GPUS: dict[str, tuple[dict[str, float], float, float]] = {
    "H100": ({"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12}, 3.35e12, 450e9),
    "H200": ({"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12}, 4.8e12, 450e9),
    "A100": ({"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}, 2.0e12, 300e9),
}
# A TPU multiplies float32 in six passes of bfloat16, three for tensorfloat32's
# precision.
_PASSES = {"bfloat16": 1, "tf32": 3, "float32": 6}


class Sheet(NamedTuple):
    """The data sheet of one chip.

    Attributes:
      flops: operations a second at the precision asked for.
      memory: bytes a second of its memory.
      links: bytes a second to other chips, all links together, one direction.
    """

    flops: float
    memory: float
    links: float


def sheet(kind: str, precision: str) -> Sheet | None:
    """Finds a processor's data sheet.

    Args:
      kind: its name as JAX gives it (`Device.device_kind`).
      precision: one of `PRECISIONS`.

    Returns:
      The sheet, or None for a processor not in the table.
    """
    chip = chip_of(kind)
    if chip is not None:
        return Sheet(
            chip.flops / _PASSES[precision], chip.bandwidth, chip.link_bandwidth
        )
    for name, (flops, memory, links) in _GPUS.items():
        if name in kind:
            return Sheet(flops[precision], memory, links)
    return None


def product_speed(setting: Setting, *, repeats: int = 5) -> float:
    """Measures the speed of a large matrix product, the highest one reachable here.

    Args:
      setting: gives device and precision.
      repeats: timed products; the median counts.

    Returns:
      Operations a second.
    """
    dtype, precision = PRECISIONS[setting.precision]
    size = 1536 if setting.device == "cpu" else 8192
    device = device_of(setting.device)
    a = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(lambda a, b: a @ b)
    times = []
    with jax.default_matmul_precision(precision):
        jax.block_until_ready(product(a, a))
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(product(a, a))
            times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)
