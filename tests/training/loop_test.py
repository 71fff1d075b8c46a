"""Runs that are killed, stopped, damaged, misused, or without tensorflow."""

import dataclasses
import importlib.machinery
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import toy_training
from etils import epath
from PIL import Image

from facecycle_jax import training
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.methods.base import SCHEDULE
from facecycle_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]


def program(workdir, *fields, **environment):
    """Runs the toy as a process of its own, with one device."""
    helpers = ROOT / "tests" / "helpers"
    paths = os.pathsep.join([str(ROOT), str(helpers)])
    toy = str(helpers / "toy_training.py")
    return subprocess.run(
        [sys.executable, toy, str(workdir), *fields],
        env={**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **environment},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def networks(workdir):
    return jax.tree_util.tree_leaves_with_path(training.load_trees(workdir))


def assert_same_networks(a, b, *, rtol=0.0):
    a, b = networks(a), networks(b)
    assert [path for path, _ in a] == [path for path, _ in b]
    for (path, x), (_, y) in zip(a, b, strict=True):
        np.testing.assert_allclose(
            x, y, rtol=rtol, atol=0, err_msg=jax.tree_util.keystr(path)
        )


def steps_of(workdir, name):
    return [line["step"] for line in training.read_metrics(workdir) if name in line]


def held_out_losses(workdir):
    return {
        line["step"]: line["eval/total"]
        for line in training.read_metrics(workdir)
        if "eval/total" in line
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of nine steps that nothing disturbs, with a weight average."""
    workdir = tmp_path_factory.mktemp("unbroken")
    result = program(workdir, "num_steps=9", "optimiser__ema_decay=0.9")
    assert result.returncode == 0, result.stderr
    return workdir


def test_a_run_killed_and_started_again_ends_bit_identical(unbroken, tmp_path):
    fields = ("num_steps=9", "optimiser__ema_decay=0.9")
    result = program(tmp_path, *fields, TOY_KILL="6")
    assert result.returncode == -9
    assert max(steps_of(tmp_path, "train/total")) < 6
    result = program(tmp_path, *fields)
    assert result.returncode == 0, result.stderr
    assert "Continuing at step" in result.stderr
    assert_same_networks(unbroken, tmp_path)
    # Every step is logged once, and the numbers are those of the unbroken run.
    for name in ("train/total", "eval/total"):
        assert steps_of(tmp_path, name) == steps_of(unbroken, name)
    assert held_out_losses(unbroken) == held_out_losses(tmp_path)


def test_sigterm_saves_and_exits_with_its_code(unbroken, tmp_path):
    fields = ("num_steps=9", "optimiser__ema_decay=0.9")
    result = program(tmp_path, *fields, TOY_TERM="5")
    assert result.returncode == training.PREEMPTED_EXIT == 75, result.stderr
    assert "SIGTERM after step 5" in result.stderr
    assert training.find_checkpoint(tmp_path).name == "5"
    assert program(tmp_path, *fields).returncode == 0
    assert_same_networks(unbroken, tmp_path)


@pytest.fixture
def ctrl_c():
    """Lets Ctrl-C interrupt, which a process in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_the_step_and_a_second_one_interrupts_at_once(
    tmp_path, monkeypatch
):
    def step_with_signals(count, number=4):
        """Presses Ctrl-C while a step is drawn."""
        batches = toy_training.ToyLoader.batches

        def interrupted(self, start):
            for step, batch in enumerate(batches(self, start), start=start + 1):
                for _ in range(count if step == number and self._seed == 0 else 0):
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

        monkeypatch.setattr(toy_training.ToyLoader, "batches", interrupted)

    step_with_signals(1)
    with pytest.raises(KeyboardInterrupt, match="after step 4, which is saved"):
        toy_training.train(tmp_path, num_steps=6)
    assert training.find_checkpoint(tmp_path).name == "4"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.undo()
    step_with_signals(2, number=6)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        toy_training.train(tmp_path, num_steps=8)
    assert training.find_checkpoint(tmp_path).name == "4"


def test_a_diverging_run_stops_and_its_checkpoint_stays(tmp_path):
    result = program(tmp_path, "num_steps=20", TOY_NAN="3,4,9,10,11,12,13,14,15")
    assert result.returncode == training.DIVERGED_EXIT == 3, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert "the last 4 updates up to step 12" in last
    assert "between steps 11 and 12" in last
    assert "The last checkpoint, of step 10, is intact" in last
    assert "2 of the updates of steps 3 to 4" in result.stderr
    for _, leaf in networks(tmp_path):
        assert np.isfinite(leaf).all()
    skipped = [
        m["skipped_updates"]
        for m in training.read_metrics(tmp_path)
        if "train/total" in m
    ]
    assert skipped[-1] >= 2


def test_training_needs_no_tensorflow(tmp_path):
    result = program(
        tmp_path,
        "num_steps=2",
        "tensorboard=True",
        TOY_BLOCK="tensorflow,tensorboard,torch",
    )
    assert result.returncode == 0, result.stderr
    assert "No TensorBoard event files: No module named" in result.stderr
    assert steps_of(tmp_path, "train/total") == [2]


def test_tensorboard_files_are_written_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    result = program(tmp_path, "num_steps=2", "tensorboard=True")
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "tensorboard").glob("events*"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/total", "eval/total", "learning_rate", "held_out"} <= set(
        events.Tags()["tensors"]
    )
    # The panel is there as it is on disk: width, height and the image.
    (shown,) = events.Tensors("held_out")
    with Image.open(io.BytesIO(shown.tensor_proto.string_val[2])) as image:
        panel = np.asarray(image)
    with Image.open(tmp_path / "panels" / f"{shown.step:08}.png") as image:
        np.testing.assert_array_equal(panel, np.asarray(image))


def test_a_broken_tensorflow_costs_the_event_files_alone(tmp_path, monkeypatch, caplog):
    broken = types.ModuleType("tensorflow")
    broken.__spec__ = importlib.machinery.ModuleSpec("tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow", broken)
    with caplog.at_level("INFO", logger="facecycle_jax"):
        writer = training.MetricWriter(tmp_path, tensorboard=True)
    writer.scalars(1, {"train/total": 0.5})
    writer.close()
    assert "TensorFlow cannot be used (AttributeError: " in caplog.text
    assert training.read_metrics(tmp_path) == [{"step": 1, "train/total": 0.5}]


def test_a_changed_configuration_is_named(unbroken, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    result = program(
        workdir, "num_steps=12", "optimiser__ema_decay=0.9", "batch_size=4", "seed=1"
    )
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    assert "config.batch_size was 8 and is 4" in message
    assert "config.seed was 0 and is 1" in message
    assert "num_steps" not in message
    assert "Traceback" not in result.stderr


def test_a_finished_run_goes_on_with_more_steps(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    state = toy_training.train(
        tmp_path,
        num_steps=11,
        log_every=1,
        checkpoint_every=3,
        optimiser__ema_decay=0.9,
    )
    assert int(state.step) == 11
    assert steps_of(tmp_path, "train/total")[-2:] == [10, 11]
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 11


def test_a_run_beyond_the_steps_asked_for_is_not_reported_as_shorter(
    unbroken, tmp_path, caplog
):
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    with caplog.at_level("INFO", logger="facecycle_jax"):
        state = toy_training.train(tmp_path, num_steps=5, optimiser__ema_decay=0.9)
    assert int(state.step) == 9
    assert "9 steps are done and the configuration asks for 5" in caplog.text
    assert steps_of(tmp_path, "eval/total")[-1] == 9


def test_a_finished_run_is_left_as_it_is(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    state = toy_training.train(tmp_path, num_steps=9, optimiser__ema_decay=0.9)
    assert int(state.step) == 9
    assert_same_networks(unbroken, tmp_path)


def test_metrics_and_panels_are_written_and_a_torn_line_is_dropped(unbroken, tmp_path):
    assert sorted(p.name for p in (unbroken / "panels").iterdir()) == [
        f"{n:08}.png" for n in (4, 8, 9)
    ]
    lines = training.read_metrics(unbroken)
    train = [line for line in lines if "train/total" in line]
    assert [line["step"] for line in train] == [2, 4, 6, 8, 9]
    assert {"learning_rate", "steps_per_second", "images_per_second"} <= set(train[0])
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n{"step": 3, "a": 1}\n{"step": 4, "'
    )
    writer = training.MetricWriter(tmp_path, step=2, tensorboard=False)
    writer.scalars(3, {"a": float("nan")})
    writer.close()
    assert [line["step"] for line in training.read_metrics(tmp_path)] == [1, 2, 3]
    assert training.read_metrics(tmp_path)[-1]["a"] is None


def test_eight_devices_in_one_process_run_the_loop(tmp_path):
    state = toy_training.train(
        tmp_path, num_steps=3, fsdp=True, optimiser__accumulate=1
    )
    assert len(state.params["generator"]["kernel"].sharding.device_set) == 8
    # A run may go on with other devices and sharded otherwise.
    state = toy_training.train(tmp_path, num_steps=4, fsdp=False)
    assert int(state.step) == 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve people of three images of noise."""
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for person in range(12):
        (path / f"p{person:02}").mkdir()
        for frame in range(3):
            noise = rng.integers(
                0, 256, (toy_training.SIZE, toy_training.SIZE, 3), dtype=np.uint8
            )
            Image.fromarray(noise).save(path / f"p{person:02}" / f"{frame}.png")
    return path


def test_every_backend_trains_the_same_networks(images, tmp_path):
    pytest.importorskip("tensorflow")
    common = {
        "data__path": str(images),
        "data__decode_size": toy_training.SIZE,
        "data__min_frames": 1,
    }
    for backend in ("memory", "device", "tf"):
        toy_training.train(
            tmp_path / backend,
            toy_data=False,
            num_steps=6,
            data__backend=backend,
            **common,
        )
    # Continued in the middle: the first four steps again from a checkpoint.
    half = tmp_path / "half"
    for steps in (4, 6):
        toy_training.train(
            half, toy_data=False, num_steps=steps, data__backend="device", **common
        )
    for other in ("device", "tf", "half"):
        assert_same_networks(tmp_path / "memory", tmp_path / other)
    figures = [
        [
            (m["step"], m[k])
            for m in training.read_metrics(tmp_path / b)
            for k in ("eval/total",)
            if k in m
        ]
        for b in ("memory", "device", "tf")
    ]
    assert figures[0] == figures[1] == figures[2]


def test_a_probe_runs_at_every_evaluation(tmp_path):
    asked = []

    def probe(config, trees):
        asked.append((config["probe"]["task"], sorted(trees)))
        return {"accuracy": float(len(asked))}

    config = toy_training.toy_config(num_steps=4, eval_every=2)
    loop.train_and_evaluate(config, tmp_path, probe=probe, **toy_training.seams())
    assert asked[0] == ("", ["flow_decoder", "generator", "motion_encoder", "vgg"])
    found = {
        m["step"]: m["probe/accuracy"]
        for m in training.read_metrics(tmp_path)
        if "probe/accuracy" in m
    }
    assert list(found.values()) == [float(n + 1) for n in range(len(asked))]
    assert {2, 4} <= set(found)


def test_a_callback_gets_every_row_of_metrics(tmp_path):
    rows = []

    def on_metrics(step, metrics):
        rows.append({"step": step, **metrics})

    config = toy_training.toy_config(num_steps=4, eval_every=2)
    seams = toy_training.seams()
    loop.train_and_evaluate(config, tmp_path, on_metrics=on_metrics, **seams)
    assert rows == training.read_metrics(tmp_path)
    assert {type(value) for row in rows for value in row.values()} == {int, float}

    # A run that is continued does not repeat what it has reported.
    rows.clear()
    config.num_steps = 6
    loop.train_and_evaluate(config, tmp_path, on_metrics=on_metrics, **seams)
    assert rows == [row for row in training.read_metrics(tmp_path) if row["step"] > 4]


def test_an_error_in_the_callback_ends_the_run_with_its_own_trace(tmp_path):
    def on_metrics(step, metrics):
        raise ConnectionResetError("the tracker is gone")

    config = toy_training.toy_config(num_steps=4)
    with pytest.raises(ConnectionResetError, match="the tracker is gone") as raised:
        loop.train_and_evaluate(
            config, tmp_path, on_metrics=on_metrics, **toy_training.seams()
        )
    assert raised.traceback[-1].name == "on_metrics"

    # The row was written first, and the workdir is free again.
    assert training.read_metrics(tmp_path)
    loop.train_and_evaluate(config, tmp_path, **toy_training.seams())


def test_unreadable_images_are_listed_once(images, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(images, broken)
    (broken / "p01" / "0.png").write_bytes(b"no image")
    (broken / "p02" / "1.png").write_bytes((broken / "p02" / "1.png").read_bytes()[:50])
    options = {
        "data__path": str(broken),
        "data__decode_size": toy_training.SIZE,
        "data__min_frames": 1,
    }
    for steps in (2, 4):
        toy_training.train(tmp_path / "run", toy_data=False, num_steps=steps, **options)
    lines = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        str(broken / name) for name in ("p01/0.png", "p02/1.png")
    ]


def test_stages_run_one_after_the_other(tmp_path):
    config = ml_collections.ConfigDict()
    config.stages = ("first", "second")
    config.first = toy_training.toy_config(num_steps=2)
    config.second = toy_training.toy_config(
        num_steps=2, optimiser__schedule_rates=(0.0,) * 3, optimiser__ema_decay=0.9
    )
    loop.train_and_evaluate(config, tmp_path, **toy_training.seams())
    # The second starts from the first, and its learning rate is 0; the average of equal
    # weights rounds.
    assert_same_networks(tmp_path / "first", tmp_path / "second", rtol=1e-6)


def test_a_finished_stage_is_not_prepared_again(tmp_path, caplog):
    config = ml_collections.ConfigDict()
    config.stages = ("first", "second")
    config.first = toy_training.toy_config(num_steps=2)
    config.second = toy_training.toy_config(num_steps=2)
    opened = []

    def loader(config, *, split):
        opened.append((config["num_steps"], split))
        return toy_training.make_loader(config, split=split)

    seams = {**toy_training.seams(), "loader": loader}
    loop.train_and_evaluate(config, tmp_path, **seams)

    # More steps of the second stage leave the first one as it is.
    opened.clear()
    config.second.num_steps = 4
    with caplog.at_level("INFO", logger="facecycle_jax"):
        loop.train_and_evaluate(config, tmp_path, **seams)
    assert opened == [(4, "train"), (4, "eval")]
    assert "Stage 1 of 2, first, is finished" in caplog.text

    # More steps of the first stage are made.
    opened.clear()
    config.first.num_steps = 3
    caplog.clear()
    with caplog.at_level("WARNING", logger="facecycle_jax"):
        loop.train_and_evaluate(config, tmp_path, **seams)
    assert training.find_checkpoint(tmp_path / "first").name == "3"
    assert len(opened) == 4
    # The second stage began before.
    assert f"move {tmp_path}/second away before this stage ends" in caplog.text

    # A stage that has lost its checkpoint is trained again, no longer than before.
    shutil.rmtree(tmp_path / "first" / "checkpoints")
    caplog.clear()
    with caplog.at_level("WARNING", logger="facecycle_jax"):
        loop.train_and_evaluate(config, tmp_path, **seams)
    assert "away before this stage ends" not in caplog.text
    assert training.find_checkpoint(tmp_path / "first").name == "3"


def test_a_stage_starts_from_its_own_networks_then_from_those_of_the_stages_before(
    tmp_path,
):
    toy_training.train(tmp_path / "other", num_steps=1)
    config = ml_collections.ConfigDict()
    config.stages = ("first", "second")
    config.first = toy_training.toy_config(num_steps=1)
    config.second = toy_training.toy_config(
        num_steps=1, init_from=f"{tmp_path / 'other'}, {tmp_path / 'other'}"
    )
    seams = toy_training.seams()
    starts = []

    def method(stage):
        starts.append(stage["init_from"])
        return seams["method"](stage)

    loop.train_and_evaluate(config, tmp_path / "run", **{**seams, "method": method})
    other = str(tmp_path / "other")
    assert starts == [[], [other, other, str(tmp_path / "run" / "first")]]


def stop_at(monkeypatch, step):
    """Has SIGTERM arrive in a step, and returns the steps that are evaluated."""
    asked = itertools.count(1)
    monkeypatch.setattr(
        training.StopSignal, "reached", lambda self: next(asked) == step
    )
    evaluated = []
    evaluate = loop._evaluate

    def noted(run, state, number, writer):
        evaluated.append(number)
        return evaluate(run, state, number, writer)

    monkeypatch.setattr(loop, "_evaluate", noted)
    return evaluated


def test_a_stop_saves_before_it_evaluates_and_the_next_start_evaluates(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        # Step 4 is one to evaluate.
        evaluated = stop_at(patched, 4)
        with pytest.raises(
            training.PreemptedError, match="after step 4, which is saved"
        ):
            toy_training.train(tmp_path, num_steps=6)
        assert evaluated == []
    assert training.find_checkpoint(tmp_path).name == "4"
    assert not (tmp_path / "losses.json").exists()
    toy_training.train(tmp_path, num_steps=6)
    assert steps_of(tmp_path, "eval/total") == [4, 6]
    assert sorted(json.loads((tmp_path / "losses.json").read_text())) == ["4", "6"]


def counting(config):
    """The toy's method, with a state that counts the evaluations that move it."""
    toy = toy_training.toy_method()

    def init(key):
        params, frozen = toy.init(key)
        return params, {**frozen, SCHEDULE: {"moves": jnp.int32(0)}}

    def evaluated(frozen, total):
        return {**frozen, SCHEDULE: {"moves": frozen[SCHEDULE]["moves"] + 1}}

    return toy._replace(init=init, after_evaluation=evaluated)


def moves(workdir, **fields):
    seams = {**toy_training.seams(), "method": counting}
    config = toy_training.toy_config(
        **{"num_steps": 6, "eval_every": 2, "panel_every": 100, **fields}
    )
    state = loop.train_and_evaluate(config, workdir, **seams)
    return int(state.frozen[SCHEDULE]["moves"])


def test_panels_and_the_end_do_not_move_what_follows_evaluations(tmp_path):
    assert moves(tmp_path / "a") == 3
    assert moves(tmp_path / "b", panel_every=3) == 3
    assert moves(tmp_path / "c", num_steps=5) == 2
    # Continued with an evaluation elsewhere, it would move at another time.
    with pytest.raises(UserError, match=r"config\.eval_every was 2 and is 3"):
        moves(tmp_path / "c", eval_every=3)


def test_an_evaluation_after_a_stop_counts_though_the_next_start_dies_too(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        with pytest.raises(training.PreemptedError):
            moves(tmp_path, checkpoint_every=100)

    def die(self):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(training.StopSignal, "reached", die)
        with pytest.raises(RuntimeError, match="killed"):
            moves(tmp_path, checkpoint_every=100)

    assert moves(tmp_path, checkpoint_every=100) == 3


def test_the_reported_learning_rate_has_the_methods_own_factor(tmp_path):
    toy = toy_training.toy_method()

    def loss(params, frozen, images, key):
        total, aux = toy.loss(params, frozen, images, key)
        return total, dataclasses.replace(aux, rate=jnp.float32(0.25))

    reported = {}
    for name, of_config in {"plain": toy, "slowed": toy._replace(loss=loss)}.items():
        rows = []
        loop.train_and_evaluate(
            toy_training.toy_config(num_steps=4, log_every=2),
            tmp_path / name,
            on_metrics=lambda step, metrics, rows=rows: rows.append(metrics),
            **{**toy_training.seams(), "method": lambda config, m=of_config: m},
        )
        rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
        reported[name] = np.array(rates)

    assert len(reported["plain"]) == 2
    np.testing.assert_allclose(reported["slowed"], 0.25 * reported["plain"], rtol=1e-6)


def test_a_stop_in_a_stage_s_last_evaluation_starts_no_other_stage(
    tmp_path, monkeypatch
):
    config = ml_collections.ConfigDict()
    config.stages = ("first", "second")
    config.first = toy_training.toy_config(num_steps=2)
    config.second = toy_training.toy_config(num_steps=2)

    def evaluate(run, state, number, writer, evaluate=loop._evaluate):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run, state, number, writer)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_evaluate", evaluate)
        with pytest.raises(training.PreemptedError, match="continues with the next"):
            loop.train_and_evaluate(config, tmp_path, **toy_training.seams())
    assert not (tmp_path / "second").exists()

    loop.train_and_evaluate(config, tmp_path, **toy_training.seams())
    assert training.find_checkpoint(tmp_path / "second").name == "2"


def test_a_finished_run_is_reported_once(tmp_path):
    def report(config, workdir):
        return {"error": 0.5}

    for _ in range(2):
        config = toy_training.toy_config(num_steps=2)
        loop.train_and_evaluate(config, tmp_path, report=report, **toy_training.seams())
    assert steps_of(tmp_path, "truth/error") == [2]


def test_a_held_out_loss_that_is_not_a_number_counts_as_evaluated(
    tmp_path, monkeypatch
):
    def compute(self, compute=training.Averages.compute):
        return {**compute(self), "total": float("nan")}

    monkeypatch.setattr(training.Averages, "compute", compute)
    for _ in range(2):
        assert moves(tmp_path, num_steps=4) == 2
    assert json.loads((tmp_path / "losses.json").read_text())["4"] is None


def test_a_run_is_not_continued_on_other_data(tmp_path):
    class Loader(toy_training.ToyLoader):
        people = "40"

        def fingerprint(self):
            return {"people": self.people}

    def train(steps):
        loop.train_and_evaluate(
            toy_training.toy_config(num_steps=steps),
            tmp_path,
            method=lambda config: toy_training.toy_method(),
            loader=lambda config, *, split: Loader(config["batch_size"], 0),
        )

    train(2)
    train(4)
    Loader.people = "41"
    changed = r"people held out were 40 and are 41; people to train on were 40"
    with pytest.raises(UserError, match=changed):
        train(6)
    # What is refused leaves no trace.
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 4
    # Without a checkpoint there is nothing to continue.
    shutil.rmtree(tmp_path / "checkpoints")
    train(2)


def test_a_length_that_stretches_the_schedule_cannot_change(tmp_path):
    fields = {"optimiser__schedule_length_steps": 10}
    toy_training.train(tmp_path, num_steps=2, **fields)
    with pytest.raises(UserError, match=r"config\.num_steps was 2 and is 4"):
        toy_training.train(tmp_path, num_steps=4, **fields)


def test_nothing_that_fails_at_the_end_hides_why_a_run_ended(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("while closing")

    close = training.MetricWriter.close
    monkeypatch.setattr(training.MetricWriter, "close", lambda self: fail(close(self)))
    monkeypatch.setattr(training, "report_unreadable", fail)
    with monkeypatch.context() as patched:
        stop_at(patched, 1)
        with pytest.raises(training.PreemptedError):
            toy_training.train(tmp_path, num_steps=2)
    # Where there is no other reason, it is the reason.
    with pytest.raises(ValueError, match="while closing"):
        toy_training.train(tmp_path, num_steps=2)
    assert training.find_checkpoint(tmp_path).name == "2"


def test_unreadable_images_whose_names_are_no_utf8_are_listed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    for _ in range(2):
        training.report_unreadable(epath.Path(tmp_path), {name: f"{name}: broken"})
    assert (tmp_path / "unreadable.txt").read_text(
        "utf-8"
    ) == "caf\\udce9.png: broken\n"


def test_a_list_of_unreadable_images_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    training.report_unreadable(epath.Path(tmp_path / "file"), {"a": "a: broken"})


def test_tensorflow_that_is_missing_is_reported_before_the_data_are_looked_at(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        MissingExtraError, match=r"data\.backend='tf' needs tensorflow: .*threads"
    ):
        toy_training.train(
            tmp_path / "run",
            toy_data=False,
            data__backend="tf",
            data__path=str(tmp_path / "nowhere"),
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.dtype", "float3", r"model\.dtype must be"),
        ("batch_size", 12, "batch_size 12 must be a multiple of .* the 8 devices"),
        ("freeze", ("nose",), "freeze must name some, not all, of .*, got nose"),
        ("loss.vgg", "{}/no.npz", r"No VGG-19 weights at .*no\.npz"),
        ("init_from", "{}/no", r"no checkpoint under .*/no"),
    ],
)
def test_a_mistake_in_a_later_stage_is_reported_before_the_first_one_starts(
    tmp_path, monkeypatch, field, value, message
):
    def start(*arguments, **keywords):
        pytest.fail("a stage was started")

    monkeypatch.setattr(loop, "_train", start)
    config = importlib.import_module("configs.demo").get_config()
    place = value.format(tmp_path) if isinstance(value, str) else value
    # A perceptual loss, so that a VGG-19 is looked for.
    changed = {"loss.perceptual": "gram", "loss.restore_motion": True, field: place}
    with config.unlocked():
        # The other stages fit the tests' devices.
        for name in config.stages:
            config[name].batch_size = jax.device_count()
        config[config.stages[-1]].update_from_flattened_dict(changed)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["motion_cycle", "identity_cycle"])
def test_the_default_backend_needs_no_extra(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.data.backend == "threads"


def test_a_start_removes_what_a_killed_run_was_writing(tmp_path):
    left = tmp_path / ".0123456789ab.part"
    left.write_text("half")
    os.utime(left, (0, 0))
    toy_training.train(tmp_path, num_steps=1)
    assert not left.exists()


def test_a_workdir_that_is_a_file_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file, or lies below one"):
            toy_training.train(workdir, num_steps=2)
    assert (tmp_path / "file").read_text() == "mine"
