"""A CPU is split into as many devices as can share a batch."""

import os
import subprocess
import sys

import pytest

from facecycle_jax.configs import demo
from facecycle_jax.devices.cpu import cpu_devices_for


def stage(batch_size, accumulate=1):
    return {"batch_size": batch_size, "optimiser": {"accumulate": accumulate}}


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "cores", "devices"),
    [
        (16, 1, 2, 2),
        (16, 4, 8, 2),
        (6, 1, 4, 3),
        (7, 1, 4, 1),
        (8, 1, 12, 4),
        (2, 1, 2, 1),
        (3, 2, 4, 1),
        (0, 1, 4, 1),
    ],
)
def test_the_largest_number_that_splits_the_batch_is_chosen(
    batch_size, accumulate, cores, devices
):
    assert cpu_devices_for(stage(batch_size, accumulate), cores) == devices


def test_the_number_splits_the_batch_of_every_stage():
    config = {"stages": ("one", "two"), "one": stage(8), "two": stage(12)}
    assert cpu_devices_for(config, 8) == 4
    assert cpu_devices_for(demo.get_config(), 2) == 2


@pytest.mark.parametrize(
    ("environment", "count"), [({}, None), ({"JAX_NUM_CPU_DEVICES": "3"}, 3)]
)
def test_a_number_set_in_the_environment_is_kept(environment, count):
    program = (
        "import jax; from facecycle_jax.devices import split_cpu;"
        "split_cpu({'batch_size': 720720, 'optimiser': {'accumulate': 1}});"
        "print(jax.device_count())"
    )
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )

    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    expected = cpu_devices_for(stage(720720), cores) if count is None else count
    assert int(result.stdout) == expected
