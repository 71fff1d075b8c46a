"""Checkpoints: which are kept, damaged ones, and networks copied to another run."""

import errno
import gc
import shutil
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damage import damage
from etils import epath
from jax.experimental import multihost_utils

from facecycle_jax import training
from facecycle_jax.devices import make_mesh, replicated
from facecycle_jax.errors import UserError
from facecycle_jax.training.checkpoint_reading import (
    DamagedCheckpointError,
    check_whole,
    load_newest,
)
from facecycle_jax.training.digests import device_digests, host_digests

# Of several reads that fail, Orbax awaits only the first.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("garbage_of_a_module_ends_with_it"),
]


def tree(value):
    return {
        "params": {"net": {"kernel": jnp.full((64, 64), value, jnp.float32)}},
        "frozen": {"vgg": {"bias": jnp.arange(8.0)}},
        "ema": None,
        "step": jnp.asarray(value, jnp.int32),
    }


def abstract():
    sharding = replicated(make_mesh(jax.devices()[:1]))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree(0)
    )


def save(workdir, losses, *, keep_last=2):
    checkpointer = training.Checkpointer(workdir, keep_last=keep_last)
    for step, loss in losses.items():
        checkpointer.save(step, tree(step), loss=loss)
    checkpointer.close()


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_the_last_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 5.0, 2: 1.0, 3: None, 4: 3.0, 5: float("nan"), 6: 4.0})
    assert steps(tmp_path) == [2, 5, 6]
    # Still so after a restart.
    save(tmp_path, {7: 2.0, 8: None})
    assert steps(tmp_path) == [2, 7, 8]
    checkpointer = training.Checkpointer(tmp_path, keep_last=2)
    assert checkpointer.latest_step == 8
    checkpointer.close()


def test_a_loss_whose_checkpoint_is_gone_does_not_count(tmp_path):
    save(tmp_path, {1: 5.0, 2: 1.0})
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    checkpointer = training.Checkpointer(tmp_path, keep_last=2)
    assert checkpointer.has_loss(1)
    assert not checkpointer.has_loss(2)
    checkpointer.close()


def test_only_the_loop_asks_whether_the_job_is_to_stop(tmp_path, monkeypatch):
    """The service takes numbers that rise, and the loop's are not those of steps."""
    asked = []
    monkeypatch.setattr(
        multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step),
    )
    save(tmp_path, {1: 5.0, 2: 1.0})
    assert not asked


def test_half_written_checkpoints_are_gone_at_once_and_no_thread_is_left(tmp_path):
    save(tmp_path, {1: 0.5})
    half_written = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    half_written.mkdir()
    (half_written / "state").write_bytes(b"the beginning of a state")

    before = set(threading.enumerate())
    checkpointer = training.Checkpointer(tmp_path)
    assert steps(tmp_path) == [1]
    # A run that is refused now must end with one sentence, and not with the traceback
    # of a thread for which the interpreter shuts down too early.
    # asyncio keeps idle threads for its next use.
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert [name for name in left if not name.startswith("asyncio")] == []
    checkpointer.close()


@pytest.mark.parametrize("kind", ["truncated", "missing", "manifest", "flipped"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(tmp_path, log, kind):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path, 2, kind)
    checkpointer = training.Checkpointer(tmp_path)
    state = checkpointer.restore(abstract())
    assert int(state["step"]) == 1
    np.testing.assert_array_equal(state["params"]["net"]["kernel"], 1.0)
    assert "IS UNREADABLE" in log.text
    # The step can be saved again.
    checkpointer.save(2, tree(2))
    checkpointer.close()
    assert steps(tmp_path) == [1, 2]
    assert (tmp_path / "checkpoints_unreadable" / "2").is_dir()
    restored = training.Checkpointer(tmp_path)
    assert int(restored.restore(abstract())["step"]) == 2
    restored.close()


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path):
    save(tmp_path, {1: None})
    damage(tmp_path, 1, "truncated")
    checkpointer = training.Checkpointer(tmp_path)
    with pytest.raises(ValueError, match="none of the checkpoints"):
        checkpointer.restore(abstract())
    checkpointer.close()


def test_an_empty_workdir_restores_nothing(tmp_path):
    checkpointer = training.Checkpointer(tmp_path)
    assert checkpointer.restore(abstract()) is None
    assert checkpointer.latest_step is None
    checkpointer.close()


def test_networks_are_loaded_by_run_and_by_checkpoint(tmp_path):
    save(tmp_path, {1: None, 2: None})
    for path, value in ((tmp_path, 2.0), (tmp_path / "checkpoints" / "1", 1.0)):
        trees = training.load_trees(path)
        assert sorted(trees) == ["net", "vgg"]
        np.testing.assert_array_equal(trees["net"]["kernel"], value)
        assert isinstance(trees["net"]["kernel"], np.ndarray)
    with pytest.raises(FileNotFoundError, match="no checkpoint under"):
        training.load_trees(tmp_path / "nowhere")
    damage(tmp_path, 2, "truncated")
    with pytest.raises(ValueError, match="2 is damaged"):
        training.load_trees(tmp_path / "checkpoints" / "2")


def test_copying_networks_by_name():
    own = {"a": {"k": np.zeros(2)}, "b": {"k": np.zeros(3)}, "vgg": {"k": np.zeros(1)}}
    source = {"a": {"k": np.ones(2)}, "c": {"k": np.ones(4)}, "vgg": {"k": np.ones(9)}}
    result, copied = training.copy_trees(own, source, keep=("vgg",))
    assert copied == ["a"]
    np.testing.assert_array_equal(result["a"]["k"], 1.0)
    np.testing.assert_array_equal(result["b"]["k"], 0.0)
    with pytest.raises(ValueError, match="lacks 'b'"):
        training.copy_trees(own, source, required=("b",), keep=("vgg",))
    with pytest.raises(ValueError, match=r"shape \(9,\) there and \(1,\) here"):
        training.copy_trees(own, source)


def test_configurations_are_compared_field_by_field(tmp_path):
    config = {"seed": 1, "num_steps": 3, "model": {"width": 0.5, "sizes": (1, 2)}}
    training.keep_run(config, {}, tmp_path)
    training.check_config({**config, "num_steps": 9}, tmp_path, resuming=True)
    assert training.read_config(tmp_path)["model"] == {"width": 0.5, "sizes": [1, 2]}
    with pytest.raises(ValueError, match=r"config.model.width was 0.5 and is 1.0"):
        training.check_config(
            {**config, "model": {"width": 1.0, "sizes": (1, 2)}},
            tmp_path,
            resuming=True,
        )
    # Without a checkpoint there is nothing to contradict.
    training.check_config({**config, "seed": 2}, tmp_path, resuming=False)
    with pytest.raises(FileNotFoundError, match="not the workdir of a run"):
        training.read_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        MemoryError(),
    ],
)
def test_an_error_that_is_no_damage_leaves_every_checkpoint_in_place(
    tmp_path, monkeypatch, error
):
    save(tmp_path, {1: None, 2: None})
    checkpointer = training.Checkpointer(tmp_path)

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpointer._manager, "restore", fail)
        with pytest.raises(type(error)) as raised:
            checkpointer.restore(abstract())
    assert raised.value is error
    assert steps(tmp_path) == [1, 2]
    assert not (tmp_path / "checkpoints_unreadable").exists()
    # The same start, the trouble over, goes on from the newest.
    assert int(checkpointer.restore(abstract())["step"]) == 2
    checkpointer.close()


@pytest.mark.parametrize(
    "status", ["UNAVAILABLE", "PERMISSION_DENIED", "UNKNOWN", "RESOURCE_EXHAUSTED"]
)
def test_a_storage_that_cannot_be_read_is_an_os_error_and_no_damage(
    tmp_path, monkeypatch, status
):
    save(tmp_path, {1: None})

    def fail(*arguments, **options):
        raise ValueError(
            f"{status}: Error reading local file [OS error 5: EIO Input/output error]"
        )

    monkeypatch.setattr("facecycle_jax.training.checkpoint_reading._read_arrays", fail)
    with pytest.raises(OSError, match=status):
        check_whole(epath.Path(tmp_path / "checkpoints" / "1"))
    with pytest.raises(OSError, match=status):
        training.load_trees(tmp_path)
    assert steps(tmp_path) == [1]


def test_a_state_of_another_shape_is_named_and_nothing_moved(tmp_path, monkeypatch):
    save(tmp_path, {1: None, 2: None})
    checkpointer = training.Checkpointer(tmp_path)
    other = abstract()
    kernel = other["params"]["net"]["kernel"]
    other["params"]["net"]["kernel"] = jax.ShapeDtypeStruct(
        (32, 64), kernel.dtype, sharding=kernel.sharding
    )
    sentence = r"params/net/kernel has shape \(64, 64\) there and \(32, 64\) here"
    with pytest.raises(UserError, match=sentence):
        checkpointer.restore(other)
    # A network that is new here is as much another state.
    other = abstract()
    other["params"]["more"] = {"bias": kernel}
    with pytest.raises(
        UserError, match=r"params/more/bias has shape none there and \(64, 64\) here"
    ):
        checkpointer.restore(other)
    checkpointer.close()
    assert steps(tmp_path) == [1, 2]
    assert not (tmp_path / "checkpoints_unreadable").exists()
    # No read is left that would print a stack trace when it is freed.
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    del checkpointer
    gc.collect()
    assert not printed


def test_no_start_from_scratch_while_checkpoints_are_set_aside(tmp_path, log):
    save(tmp_path, {1: None})
    damage(tmp_path, 1, "truncated")
    for _ in range(2):
        # The second time there is no checkpoint left, which is no reason either.
        checkpointer = training.Checkpointer(tmp_path)
        with pytest.raises(
            UserError, match=r"1 were set aside in .* as damaged.*--start_anew"
        ):
            checkpointer.restore(abstract())
        assert checkpointer.has_history
        checkpointer.close()
    checkpointer = training.Checkpointer(tmp_path, start_anew=True)
    assert not checkpointer.has_history
    assert checkpointer.restore(abstract()) is None
    assert "Starting anew" in log.text
    checkpointer.close()
    assert (tmp_path / "checkpoints_unreadable" / "1").is_dir()


def test_a_checkpoint_set_aside_never_takes_the_place_of_another(tmp_path):
    for _ in range(3):
        save(tmp_path, {1: None, 2: None})
        damage(tmp_path, 2, "truncated")
        checkpointer = training.Checkpointer(tmp_path)
        assert int(checkpointer.restore(abstract())["step"]) == 1
        checkpointer.close()
    assert {p.name for p in (tmp_path / "checkpoints_unreadable").iterdir()} == {
        "2",
        "2-2",
        "2-3",
    }


def test_networks_come_from_the_checkpoint_before_a_damaged_one(tmp_path, log):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path, 2, "flipped")
    np.testing.assert_array_equal(training.load_trees(tmp_path)["net"]["kernel"], 1.0)
    assert "Using the checkpoint before it" in log.text
    # Reading moves nothing.
    assert steps(tmp_path) == [1, 2]
    checkpoint, _ = load_newest(tmp_path)
    assert checkpoint.name == "1"
    damage(tmp_path, 1, "missing")
    with pytest.raises(DamagedCheckpointError, match="1 is damaged"):
        training.load_trees(tmp_path)


def test_a_checkpoint_that_is_not_complete_is_none(tmp_path, monkeypatch):
    save(tmp_path, {1: None, 2: None})
    # In a bucket a checkpoint is written under its own name, and a last file says that
    # it is complete.
    monkeypatch.setattr(
        "orbax.checkpoint.utils.is_checkpoint_finalized",
        lambda path: (path / "commit_success.txt").exists(),
    )
    for number in (1, 2):
        (tmp_path / "checkpoints" / str(number) / "commit_success.txt").touch()
    assert training.find_checkpoint(tmp_path).name == "2"
    (tmp_path / "checkpoints" / "2" / "commit_success.txt").unlink()
    assert training.find_checkpoint(tmp_path).name == "1"
    np.testing.assert_array_equal(training.load_trees(tmp_path)["net"]["kernel"], 1.0)


def test_checksums_of_the_host_are_those_of_the_devices(monkeypatch):
    monkeypatch.setattr("facecycle_jax.training.digests._PART", 1000)
    rng = np.random.default_rng(0)
    arrays = {
        "float32": rng.normal(size=(70, 50)).astype(np.float32),
        "float16": rng.normal(size=(3, 999)).astype(np.float16),
        "bfloat16": jnp.asarray(rng.normal(size=(41, 53)), jnp.bfloat16),
        "int32": rng.integers(-(2**31), 2**31, (2001,), dtype=np.int32),
        "uint8": rng.integers(0, 256, (5, 7, 11), dtype=np.uint8),
        "scalar": np.float32(3.5),
        "transposed": rng.normal(size=(64, 33)).astype(np.float32).T,
    }
    assert host_digests(jax.tree.map(np.asarray, arrays)) == device_digests(
        jax.tree.map(jnp.asarray, arrays)
    )


def test_a_broken_configuration_file_of_a_run_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json is broken"):
        training.check_config({"seed": 1}, tmp_path, resuming=True)
