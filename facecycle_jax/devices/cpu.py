"""How many devices a CPU stands for.

One a core is faster than one device with a thread for each core.

XLA's CPU programs run one operation after the other, and many are too small to keep
several threads busy; devices that share a batch each work through their part
undisturbed.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

# With one pair on a device stage 2 at the paper's width takes a third longer than on
# one device for all.
_FEWEST_PAIRS = 2


def cpu_devices_for(config: Mapping[str, Any], cores: int) -> int:
    """Chooses the number of devices.

    Args:
      config: a configuration, or one with `stages`, names of configurations in it.
      cores: that may be used.

    Returns:
      The largest number, at most `cores`, that splits the micro-batches of every stage
      into two pairs of pictures or more; at least 1.
    """
    stages = (
        [config[name] for name in config["stages"]] if "stages" in config else [config]
    )
    # What is missing or wrong is told by `training.check_config` and `check_batch`.
    sizes = [
        (s.get("batch_size", 1), s.get("optimiser", {}).get("accumulate", 1))
        for s in stages
    ]
    if any(batch < 1 or accumulate < 1 for batch, accumulate in sizes):
        return 1
    fitting = [
        n
        for n in range(1, cores + 1)
        if all(b % (n * a) == 0 and b // (n * a) >= _FEWEST_PAIRS for b, a in sizes)
    ]
    return max(fitting, default=1)


def split_cpu(config: Mapping[str, Any]) -> None:
    """Splits this machine's CPU into devices, unless JAX was told how many.

    Before JAX is first used.

    Accelerators are not touched: where there is one, the CPU's devices are not used.

    Args:
      config: a configuration, or one with `stages`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in flags
    ):
        return
    # The cores that this process may use, where the system can tell, not those of the
    # machine.
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    jax.config.update("jax_num_cpu_devices", cpu_devices_for(config, cores))
