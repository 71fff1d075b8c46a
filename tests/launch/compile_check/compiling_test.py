"""The training step, compiled for eight local devices and for an absent TPU slice."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from facecycle_jax import training
from facecycle_jax.configs import debug
from facecycle_jax.devices import batch_sharding, make_mesh, replicated
from launch import compile_check
from launch.compile_check.compiling import lower_train_step, read_compiled, settings_of

ROOT = pathlib.Path(__file__).parents[3]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install 'facecycle_jax[compile-check]')",
)


def small_config(**fields):
    config = debug.get_config()
    config.update_from_flattened_dict(
        {"batch_size": 16, "model.trunk": "vgg", "loss.perceptual": "gram", **fields}
    )
    return config.to_dict()


@pytest.mark.parametrize(
    ("method", "perceptual"),
    [
        # Without the VGG-19 of the loss it compiles in half the time.
        ("motion_cycle", "none"),
        pytest.param("motion_cycle", "gram", marks=pytest.mark.slow),
        pytest.param("identity_cycle", "gram", marks=pytest.mark.slow),
    ],
)
def test_devices_send_each_other_sums_only(method, perceptual):
    """No image and no feature map moves between devices.

    A device's share of the batch costs the same whatever their number.
    """
    config = small_config(method=method, **{"loss.perceptual": perceptual})
    compiled = lower_train_step(config, jax.devices()).compile()
    topology = compile_check.parse_topology("v5e:2x4")
    report = read_compiled(
        compiled, topology, settings_of(config, effort="full"), seconds=1.0
    )
    assert {collective.kind for collective in report.collectives} == {"all-reduce"}

    # Devices send the gradients and a few scalars and means of the batch. XLA may send
    # the gradients of a network that is used three times before it adds them up.
    program = training.build_program(
        config, make_mesh(), steps_per_epoch=1, weights=False
    )
    state = program.abstract
    size = sum(4 * np.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    sent = sum(collective.bytes for collective in report.collectives)
    assert size <= sent <= 3 * size + 2**16

    # The whole state is donated.
    state_bytes = sum(
        np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    )
    assert report.donated == pytest.approx(state_bytes, rel=0.01)
    assert report.fits
    assert report.flops > 0


def test_a_batch_that_the_chips_do_not_divide_is_a_sentence():
    with pytest.raises(
        ValueError, match=r"batch_size 12 must be a multiple of .* 8 devices"
    ):
        lower_train_step(small_config(batch_size=12), jax.devices())


@pytest.mark.parametrize(
    ("reported", "seconds", "left_out"),
    [
        (0.0068, 0.0068, 0),
        (-2.9989, 0.0011, 3),
        (-74.99322, 0.00678, 75),
        (-1.0 + 1e-4, 1e-4, 1),
    ],
)
def test_operations_without_a_figure_are_counted_and_left_out(
    reported, seconds, left_out
):
    found = compile_check.xla_estimate(
        {"optimal_seconds": reported}, least=min(1e-3, seconds)
    )
    assert found == (pytest.approx(seconds, rel=1e-3), left_out)
    assert compile_check.xla_estimate({"flops": 1.0}, least=1.0) is None


def test_effort_is_one_of_two():
    topology = compile_check.parse_topology("v5e:2x2")
    with pytest.raises(ValueError, match=r"effort must be one of .*, got 'some'"):
        compile_check.check(small_config(), topology, effort="some")


@needs_libtpu
def test_a_topology_has_its_chips_and_programs_compile_for_them():
    devices = compile_check.abstract_devices(compile_check.parse_topology("v4:2x2x2"))
    assert len(devices) == 8
    mesh = make_mesh(devices)
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((128, 128), (64, 128))
    ]
    text = (
        gradient.lower(*shapes)
        .compile(compiler_options={"exec_time_optimization_effort": -1.0})
        .as_text()
    )
    collectives = compile_check.count_collectives(text)
    assert sum(collective.bytes for collective in collectives) >= 4 * 128 * 128


@needs_libtpu
def test_only_gradients_cross_the_slices_of_tpus():
    topology = compile_check.parse_topology("v5e:2x2", slices=2)
    mesh = make_mesh(compile_check.abstract_devices(topology))
    assert dict(mesh.shape) == {"slice": 2, "data": 4}
    parts = NamedSharding(mesh, PartitionSpec(None, "data"))
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))),
        in_shardings=(parts, batch_sharding(mesh)),
        out_shardings=parts,
    )
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 512), (256, 1024))
    ]
    text = (
        gradient.lower(*shapes)
        .compile(compiler_options={"exec_time_optimization_effort": -1.0})
        .as_text()
    )
    found = compile_check.count_between_slices(text, per_slice=4)
    assert found == [compile_check.Collective("all-reduce", 1, 4 * 1024 * 512 // 4)]


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_jax_has_the_names_that_data_sheets_are_found_by(name):
    topology = compile_check.parse_topology(name)
    device = compile_check.abstract_devices(topology)[0]
    assert compile_check.chip_of(device.device_kind) is topology.chip


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="the CUDA plugin is not installed (pip install 'facecycle_jax[cuda12]')",
)
@pytest.mark.parametrize("name", ["a100:1x2", "h100:2x4"])
def test_programs_compile_for_gpus_that_are_not_there(name):
    topology = compile_check.parse_topology(name)
    devices = compile_check.abstract_devices(topology)
    assert len(devices) == topology.size
    assert {device.device_kind for device in devices} == {topology.chip.kind}

    mesh = make_mesh(devices)
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((128, 128), (64, 128))
    ]
    compiled = gradient.lower(*shapes).compile()
    (sums,) = compile_check.count_collectives(compiled.as_text())
    assert (sums.kind, sums.bytes) == ("all-reduce", 4 * 128 * 128)


def test_compiling_for_gpus_without_the_plugin_is_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs JAX's plugin for CUDA.*\[cuda12\]"):
        compile_check.abstract_devices(compile_check.parse_topology("h100:1x8"))


@needs_libtpu
def test_libtpu_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="libtpu does not compile for v5e:3x5"):
        compile_check.abstract_devices(compile_check.parse_topology("v5e:3x5"))


@needs_libtpu
@pytest.mark.slow
def test_the_command_compiles_the_debug_configuration():
    command = [
        sys.executable,
        "-m",
        "launch.compile_check",
        "--config=configs/debug.py",
        "--topology=v5e:2x2",
        "--config.batch_size=4",
        "--effort=quick",
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("FITS")
    assert "all-reduce" in result.stdout


def test_a_mistake_in_the_command_is_one_line():
    command = [
        sys.executable,
        "-m",
        "launch.compile_check",
        "--config=configs/demo.py",
        "--topology=v5e:2x2",
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=300,
    )
    assert result.returncode == 2
    assert (
        "--stage must be one of flow, flow_fine, motion, identity"
        in result.stderr.strip().splitlines()[-1]
    )
    assert "Traceback" not in result.stderr
