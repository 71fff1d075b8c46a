"""Peak speeds of processors, from data sheets and from a large matrix product."""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.ours import PRECISIONS, Setting, device_of
from launch.compile_check import chip_of


class Sheet(NamedTuple):
    """The data sheet of one chip, for one precision.

    Attributes:
      flops: floating-point operations a second at the precision.
      memory: bytes a second between the chip and its memory.
      links: bytes a second to other chips, all links together, one direction.
    """

    flops: float
    memory: float
    links: float


class _Gpu(NamedTuple):
    """The data sheet of one GPU, for all precisions.

    Attributes:
      flops: dense floating-point operations a second, by precision.
      memory: see `Sheet`.
      links: see `Sheet`.
    """

    flops: dict[str, float]
    memory: float
    links: float


# By a part of the name that JAX has for them. An H200 is an H100 with faster memory.
_HOPPER_FLOPS = {"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12}
_AMPERE_FLOPS = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}
_GPUS = {
    "H100": _Gpu(flops=_HOPPER_FLOPS, memory=3.35e12, links=450e9),
    "H200": _Gpu(flops=_HOPPER_FLOPS, memory=4.8e12, links=450e9),
    "A100": _Gpu(flops=_AMPERE_FLOPS, memory=2.0e12, links=300e9),
}
# A TPU multiplies in bfloat16. It needs six passes for the precision of float32 and
# three for that of tensorfloat32.
_TPU_PASSES = {"bfloat16": 1, "tf32": 3, "float32": 6}


def sheet(kind: str, precision: str) -> Sheet | None:
    """Finds a processor's data sheet.

    Args:
      kind: its name in JAX, `Device.device_kind`.
      precision: one of `PRECISIONS`.

    Returns:
      The sheet; None if the processor is in no table.
    """
    tpu = chip_of(kind)
    if tpu is not None:
        return Sheet(
            flops=tpu.flops / _TPU_PASSES[precision],
            memory=tpu.bandwidth,
            links=tpu.link_bandwidth,
        )

    for name, gpu in _GPUS.items():
        if name in kind:
            return Sheet(flops=gpu.flops[precision], memory=gpu.memory, links=gpu.links)
    return None


def product_speed(setting: Setting, *, repeats: int = 5) -> float:
    """Measures the speed of a large matrix product, the highest one reachable here.

    Args:
      setting: gives device and precision.
      repeats: number of timed products; the median counts.

    Returns:
      Floating-point operations a second.
    """
    dtype, precision = PRECISIONS[setting.precision]
    side = 1536 if setting.device == "cpu" else 8192
    matrix = jax.device_put(jnp.ones((side, side), dtype), device_of(setting.device))
    product = jax.jit(lambda a, b: a @ b)

    times = []
    with jax.default_matmul_precision(precision):
        # The first call compiles.
        jax.block_until_ready(product(matrix, matrix))
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(product(matrix, matrix))
            times.append(time.perf_counter() - start)

    # Each entry of the result is a sum of `side` products.
    return 2 * side**3 / statistics.median(times)
