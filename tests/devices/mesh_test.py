"""One mesh over the slices of a job: order, shardings, and the numbers of one slice."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_training

from facecycle_jax import training
from facecycle_jax.devices import batch_axes, batch_sharding, make_mesh
from facecycle_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `make_mesh` reads of a device."""

    id: int
    process_index: int
    slice_index: int | None = None
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def slices_of_chips(*processes, chips=2):
    """Chips of slices, each with the numbers of its processes."""
    return [
        Chip(100 * number + 10 * process + chip, process, number)
        for number, indices in enumerate(processes)
        for process in indices
        for chip in range(chips)
    ]


def test_slices_are_the_outermost_axis_and_devices_of_a_process_neighbours():
    devices = slices_of_chips([0, 1], [2, 3])
    mesh = make_mesh(devices[::-1])
    assert dict(mesh.shape) == {"slice": 2, "data": 4}
    assert list(mesh.devices.flat) == devices
    assert batch_axes(mesh) == ("slice", "data")


@pytest.mark.parametrize(
    "devices",
    [
        slices_of_chips([0, 1]),
        [Chip(0, 0), Chip(1, 0)],
        # Hosts of GPUs are not slices.
        [Chip(n, n, n, platform="gpu") for n in range(4)],
    ],
)
def test_without_several_slices_there_is_one_axis(devices):
    mesh = make_mesh(devices)
    assert dict(mesh.shape) == {"data": len(devices)}
    assert batch_axes(mesh) == "data"


def test_slices_of_different_sizes_are_refused():
    with pytest.raises(UserError, match=r"they have 4 \(slice 0\), 2 \(slice 1\)"):
        make_mesh(slices_of_chips([0, 1], [2]))


def test_processes_that_are_not_numbered_slice_by_slice_are_refused():
    with pytest.raises(UserError, match="numbered slice by slice"):
        make_mesh(slices_of_chips([0, 2], [1, 3]))


@pytest.fixture
def two_slices(monkeypatch):
    """The eight devices stand for two slices of four."""
    monkeypatch.setattr(
        "facecycle_jax.devices.mesh.slice_of", lambda device: device.id // 4
    )


def test_parameters_are_split_within_a_slice_and_batches_over_all(two_slices):
    mesh = make_mesh()
    large = jax.ShapeDtypeStruct((512, 4 * 9), np.float32)
    sharding = training.state_shardings(mesh, large, fsdp=True)
    places = sharding.devices_indices_map(large.shape)
    for device, index in places.items():
        assert index[0] == slice(device.id % 4 * 128, device.id % 4 * 128 + 128)

    batch = batch_sharding(mesh).devices_indices_map((16, 3))
    assert [batch[device][0].start for device in mesh.devices.flat] == [
        2 * n for n in range(8)
    ]
    assert "mesh          slice=2, data=4" in training.describe(mesh, batch_size=16)


@pytest.mark.parametrize("fsdp", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_on_two_slices_ends_where_one_slice_does(tmp_path, monkeypatch, fsdp):
    fields = {"num_steps": 3, "fsdp": fsdp, "eval_every": 100, "panel_every": 100}
    expected = toy_training.train(tmp_path / "one", **fields)
    with monkeypatch.context() as patched:
        patched.setattr(
            "facecycle_jax.devices.mesh.slice_of", lambda device: device.id // 4
        )
        found = toy_training.train(tmp_path / "two", **fields)

        kernel = found.params["generator"]["kernel"]
        share = kernel.size // 4 if fsdp else kernel.size
        assert kernel.addressable_shards[0].data.size == share

    # Sums over the batch are taken in another order; Adam's steps are 1e-3 to 2e-3.
    for x, y in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)

    # It goes on without slices.
    state = toy_training.train(tmp_path / "two", **{**fields, "num_steps": 4})
    assert int(state.step) == 4
