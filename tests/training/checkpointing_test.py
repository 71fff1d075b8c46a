"""Checkpoints: which are kept, what a damaged one does, what starting from another run copies."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax import training

# Orbax leaves reads that fail beside the first one unawaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def logs(caplog):
    # The command line program stops the package's log from going further up.
    logging.getLogger("facecycle_jax").propagate = True
    return caplog


def tree(value):
    return {
        "params": {"net": {"kernel": jnp.full((64, 64), value, jnp.float32)}},
        "frozen": {"vgg": {"bias": jnp.arange(8.0)}},
        "ema": None,
        "step": jnp.asarray(value, jnp.int32),
    }


def abstract():
    sharding = training.replicated(training.make_mesh(jax.devices()[:1]))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree(0))


def save(workdir, losses, *, keep_last=2):
    checkpointer = training.Checkpointer(workdir, keep_last=keep_last)
    for step, loss in losses.items():
        checkpointer.save(step, tree(step), loss=loss)
    checkpointer.close()


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def damage(workdir, step, kind):
    folder = workdir / "checkpoints" / str(step)
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    assert files
    if kind == "manifest":
        (folder / "state" / "manifest.ocdbt").unlink()
    for path in files:
        content = path.read_bytes()
        if kind == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif kind == "missing":
            path.unlink()
        elif kind == "flipped":
            path.write_bytes(bytes(b ^ (i == len(content) // 2) for i, b in enumerate(content)))


def test_the_last_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 5.0, 2: 1.0, 3: None, 4: 3.0, 5: float("nan"), 6: 4.0})
    assert steps(tmp_path) == [2, 5, 6]
    # Still so after a restart.
    save(tmp_path, {7: 2.0, 8: None})
    assert steps(tmp_path) == [2, 7, 8]
    checkpointer = training.Checkpointer(tmp_path, keep_last=2)
    assert checkpointer.best_step == 2
    assert checkpointer.latest_step == 8
    checkpointer.close()


@pytest.mark.parametrize("kind", ["truncated", "missing", "manifest", "flipped"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(tmp_path, logs, kind):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path, 2, kind)
    checkpointer = training.Checkpointer(tmp_path)
    state = checkpointer.restore(abstract())
    assert int(state["step"]) == 1
    np.testing.assert_array_equal(state["params"]["net"]["kernel"], 1.0)
    assert "IS UNREADABLE" in logs.text
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
    training.check_config(config, tmp_path, resuming=False)
    training.check_config({**config, "num_steps": 9}, tmp_path, resuming=True)
    assert training.read_config(tmp_path)["model"] == {"width": 0.5, "sizes": [1, 2]}
    with pytest.raises(ValueError, match=r"config.model.width was 0.5 and is 1.0"):
        training.check_config({**config, "model": {"width": 1.0, "sizes": (1, 2)}}, tmp_path, resuming=True)
    # Without a checkpoint there is nothing to contradict.
    training.check_config({**config, "seed": 2}, tmp_path, resuming=False)
    with pytest.raises(FileNotFoundError, match="not the workdir of a run"):
        training.read_config(tmp_path / "nowhere")
