"""The only training loop: every method, one device or many, from a configuration.

A workdir holds config.json, checkpoints/, losses.json, metrics.jsonl, panels/<step>.png, truth.png (synthetic
faces only), unreadable.txt (where pictures could not be read) and, with TensorFlow installed, tensorboard/.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from facecycle_jax import training
from facecycle_jax.methods import METHODS, inference, make_forward
from facecycle_jax.methods.base import Tree
from facecycle_jax.ops import denormalise
from facecycle_jax.probes.ground_truth import compare_with_truth, describe_truth
from facecycle_jax.training import Averages, TrainState
from facecycle_jax.viz import grid, save_png, training_panel

log = logging.getLogger(__name__)


def train_and_evaluate(
    config: Mapping[str, Any] | ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    probe: training.Probe | None = None,
) -> TrainState:
    """Trains what a configuration describes, or continues where a workdir stands.

    Args:
      config: a page of configs/; with `stages`, names of configurations in it that are run in order
        in workdir/<name>, each with the networks of those before it, the last one's where several have one.
      workdir: directory of the run; created, local or gs://.
      probe: takes a stage's configuration and the networks by name at every evaluation and returns further
        figures to write, such as `facecycle_jax.evaluate.probe_while_training`.

    Returns:
      The last state.

    Raises:
      ValueError: if the configuration is wrong, or not that of the run in `workdir`.
      FileNotFoundError: if data, weights or `init_from` are not there.
      PreemptedError: after SIGTERM, with the state saved.
      DivergedError: after `max_nonfinite` skipped updates in a row.
      StorageError: if a checkpoint cannot be written; those before it are intact.
    """
    workdir = epath.Path(workdir)
    config = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    if "stages" not in config:
        return _train(config, workdir, probe)
    before: list[str] = []
    for name in config["stages"]:
        log.info("Stage %r in %s", name, workdir / name)
        stage = {**config[name], "init_from": before or config[name]["init_from"]}
        state = _train(stage, workdir / name, probe)
        before = [*before, str(workdir / name)]
    return state


def _train(config: Mapping[str, Any], workdir: epath.Path, probe: training.Probe | None) -> TrainState:
    """Runs one stage."""
    workdir.mkdir(parents=True, exist_ok=True)
    run, state = training.prepare(config, workdir)
    run.probe = probe
    start = int(state.step)
    writer = training.MetricWriter(workdir, step=start, tensorboard=config["tensorboard"])
    images = config["batch_size"] * (config["data"].get("item_frames", 0) or 2)
    progress = training.Progress(step=start, total=run.total_steps, pictures=images)
    alone = False
    try:
        with training.StopSignal() as stop, progress.showing():
            state = _loop(run, state, writer, progress, stop)
        if config["data"]["source"] == "synthetic" and config["method"] in METHODS:
            _report_truth(run, writer)
    except (training.PreemptedError, training.DivergedError):
        raise
    except Exception:
        # The error of one process of several: finishing a save would wait for processes stuck in a step.
        alone = jax.process_count() > 1
        raise
    finally:
        writer.close()
        # Whatever happened, a save in progress is finished: the last good checkpoint stays whole.
        if not alone:
            run.checkpointer.close()
        training.report_unreadable(workdir, run.unreadable())
    log.info("Done: %d steps. Checkpoints, metrics and panels are in %s", run.total_steps, workdir)
    return state


def _loop(
    run: training.Run,
    state: TrainState,
    writer: training.MetricWriter,
    progress: training.Progress,
    stop: training.StopSignal,
) -> TrainState:
    """Steps to the end; the order within a step is fixed, so that runs can be compared."""
    config, start = run.config, int(state.step)
    batches = run.train_batches(start)
    merge = jax.jit(Averages.merge)
    averages: Averages | None = None
    logged = start
    for step in range(start + 1, run.total_steps + 1):
        last = step == run.total_steps
        # 1. The update. Nothing may move between host and device unseen.
        batch = next(batches)
        with jax.transfer_guard("disallow"):
            state, new = run.train_step(state, batch)
            averages = new if averages is None else merge(averages, new)
        progress.tick()
        if step == start + 1:
            # The first step compiles; the speed is that of the others.
            jax.block_until_ready(state)
            progress.restart(step)
        # 2. Averages since the last log; the only place that waits for the device each time.
        if step % config["log_every"] == 0 or last:
            _log(run, state, averages, writer, progress, between=(logged, step))
            averages, logged = None, step
        # 3. Held-out losses and panels, before the checkpoint that carries the loss.
        if step % config["eval_every"] == 0 or step % config["panel_every"] == 0 or last:
            state = _evaluate(run, state, step, writer)
            progress.restart(step)
        # 4. Checkpoint, also when asked to stop.
        stopping = stop.reached()
        if step % config["checkpoint_every"] == 0 or last or stopping:
            _check_finite(run, state, between=(logged, step))
            run.checkpointer.save(step, state, loss=dict([run.evaluated]).get(step))
        if stopping and not last:
            run.checkpointer.wait()
            raise training.PreemptedError(
                f"stopped by SIGTERM after step {step}, which is saved in {run.workdir}; the same "
                "command continues it."
            )
    run.checkpointer.wait()
    return state


def _log(
    run: training.Run,
    state: TrainState,
    averages: Averages,
    writer: training.MetricWriter,
    progress: training.Progress,
    *,
    between: tuple[int, int],
) -> None:
    """Writes the averages of a range of steps, then stops a run that has diverged."""
    terms = averages.compute()
    skipped = terms.pop("skipped") * (between[1] - between[0])
    speed = progress.report(between[1], terms)
    values = {f"train/{name}": value for name, value in terms.items()}
    values |= speed | {
        "learning_rate": float(run.schedule(between[1] - 1)),
        "skipped_updates": int(state.nonfinite_total),
    }
    writer.scalars(between[1], values)
    if round(skipped):
        log.warning(
            "%d of the updates of steps %d to %d had a loss or gradient that was not finite and "
            "were skipped.", round(skipped), between[0] + 1, between[1],
        )  # fmt: skip
    _check_finite(run, state, between=between)


def _check_finite(run: training.Run, state: TrainState, *, between: tuple[int, int]) -> None:
    """Stops a run whose last updates were all skipped."""
    in_row = int(state.nonfinite_in_row)
    if in_row < run.config["max_nonfinite"]:
        return
    last_good = run.checkpointer.latest_step
    raise training.DivergedError(
        f"the last {in_row} updates up to step {between[1]} (seen between steps {between[0] + 1} "
        f"and {between[1]}) had a loss or gradient that was not finite, max_nonfinite is "
        f"{run.config['max_nonfinite']}. The last checkpoint, of step {last_good}, is intact in "
        f"{run.workdir}. Lower optimiser.schedule_rates, set optimiser.clip_norm, or look at "
        "the data."
    )


def _evaluate(run: training.Run, state: TrainState, step: int, writer: training.MetricWriter) -> TrainState:
    """Writes the losses of held-out people and, when due, a panel; returns the state that follows."""
    config = run.config
    averages: Averages | None = None
    first: dict[str, jax.Array] = {}
    # The same batches every time: those of the first steps.
    batches = run.eval_batches(0)
    for number in range(max(1, config["eval_batches"])):
        new, pictures = run.eval_step(state.eval_params, state.frozen, next(batches))
        averages = new if averages is None else averages.merge(new)
        first = first if number else pictures
    terms = averages.compute() if averages is not None else {}
    writer.scalars(step, {f"eval/{name}": value for name, value in terms.items()})
    run.evaluated = (step, terms.get("total", float("nan")))
    log.info("held out at step %d: total %.4g", *run.evaluated)
    if run.probe is not None and jax.process_index() == 0:
        figures = run.probe(config, {**state.frozen, **state.eval_params})
        if figures:
            writer.scalars(step, {f"probe/{name}": value for name, value in figures.items()})
    if step % config["panel_every"] == 0 or step == run.total_steps:
        panel = _panel(first, step)
        if jax.process_index() == 0:
            save_png(run.workdir / "panels" / f"{step:08}.png", panel)
        writer.picture(step, "held_out", panel)
    if run.after_evaluation is None:
        return state
    return run.after_evaluation(state, jnp.float32(run.evaluated[1]))


def _report_truth(run: training.Run, writer: training.MetricWriter) -> None:
    """Says how near the last checkpoint comes to the truth of synthetic faces, and draws it."""
    if jax.process_index() != 0:
        return
    config, trees = run.config, training.load_trees(run.workdir)
    width = trees["vgg"]["conv1_1"]["bias"].shape[0] / 64 if "vgg" in trees else None
    forward = make_forward(config["model"], vgg_width=width, vgg_for_loss=False)
    draw = jax.jit(
        functools.partial(inference.faces if "normaliser" in trees else inference.neutral, forward)
    )
    figures, pictures = compare_with_truth(
        functools.partial(draw, trees), seed=config["seed"], size=config["model"]["image_size"]
    )
    writer.scalars(run.total_steps, {f"truth/{name}": value for name, value in figures.items()})
    rows = [[picture[row] for picture in pictures.values()] for row in range(config["panel_rows"])]
    path = run.workdir / "truth.png"
    save_png(path, grid(rows, captions=list(pictures), title="people not trained on"))
    log.info(
        "Faces of people not trained on (mean absolute differences, parts of 1):\n%s\nDrawn in %s",
        describe_truth(figures), path,
    )  # fmt: skip


def _panel(pictures: Tree, step: int) -> np.ndarray:
    """Draws the first held-out faces and what the method makes of them."""
    rows = len(pictures["input"])
    drawn = {}
    for name, picture in pictures.items():
        if picture.ndim == 4 and len(picture) == rows:
            colours = picture.shape[-1] == 3
            drawn[name] = np.asarray(denormalise(picture) if colours else picture.astype(jnp.float32))
    return training_panel(drawn, step=step, max_rows=rows)
