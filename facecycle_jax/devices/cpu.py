"""The number of devices that a CPU is split into.

One device per core is faster than one device with a thread for each core. XLA's CPU
programs run one operation after the other, and many operations are too small for
several threads. Devices that share a batch work independently.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

# With one pair per device, stage 2 at the paper's width takes a third longer than with
# all pairs on one device.
_FEWEST_PAIRS = 2


def cpu_devices_for(config: Mapping[str, Any], cores: int) -> int:
    """Chooses the number of devices for a CPU.

    Args:
      config: a configuration, or one with `stages`, names of configurations in it.
      cores: number of cores that may be used.

    Returns:
      The largest number, at most `cores`, that splits the micro-batches of every stage
      into two pairs of images or more; at least 1.
    """
    # Missing or wrong values are reported by `training.check_ranges` and `check_batch`.
    stages = [config]
    if "stages" in config:
        stages = [config[name] for name in config["stages"] if name in config]
    sizes = []
    for stage in stages:
        accumulate = stage.get("optimiser", {}).get("accumulate", 1)
        sizes.append((stage.get("batch_size", 1), accumulate))
    if any(batch < 1 or accumulate < 1 for batch, accumulate in sizes):
        return 1

    def fits(devices: int) -> bool:
        for batch, accumulate in sizes:
            pairs, rest = divmod(batch, devices * accumulate)
            if rest or pairs < _FEWEST_PAIRS:
                return False
        return True

    fitting = [devices for devices in range(1, cores + 1) if fits(devices)]
    return max(fitting, default=1)


def split_cpu(config: Mapping[str, Any]) -> None:
    """Splits this machine's CPU into devices, unless their number is set already.

    Call it before JAX is first used. It does not affect accelerators; where there is
    one, the CPU's devices are not used.

    Args:
      config: a configuration, or one with `stages`.

    Raises:
      RuntimeError: If JAX has been used already, so that the number is fixed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in flags
    ):
        return

    # The cores that this process may use, where the system reports them, else those of
    # the machine.
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cpu_devices_for(config, cores))


def cpu_compiler_options(platform: str, *, level: int) -> dict[str, int] | None:
    """Returns the options of `jax.jit` for an optimisation level of XLA's CPU backend.

    Args:
      platform: of the devices that the program is compiled for, such as 'cpu'.
      level: 0 compiles programs that run a few times fastest; XLA's default is 2.

    Returns:
      The options; None for other platforms, whose compilers keep theirs.
    """
    return {"xla_backend_optimization_level": level} if platform == "cpu" else None
