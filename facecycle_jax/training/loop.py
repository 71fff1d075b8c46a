"""The only training loop: every method, one device or many, from a configuration.

A workdir holds config.json, checkpoints/, losses.json, metrics.jsonl,
panels/<step>.png, truth.png (synthetic faces only), unreadable.txt (where pictures
could not be read) and, with TensorFlow installed, tensorboard/.
"""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from facecycle_jax import training
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.networks import Tree
from facecycle_jax.ops import denormalise
from facecycle_jax.training import Averages, TrainState
from facecycle_jax.training.processes import agree
from facecycle_jax.viz import save_png, training_panel

log = logging.getLogger(__name__)


def train_and_evaluate(
    config: Mapping[str, Any] | ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    probe: training.Probe | None = None,
    report: training.Report | None = None,
    start_anew: bool = False,
) -> TrainState:
    """Trains what a configuration describes, or continues where a workdir stands.

    Args:
      config: a page of configs/; with `stages`, names of configurations in it that are
        run in order in workdir/<name>, each with the networks of those before it, the
        last one's where several have one.
      workdir: directory of the run; created, local or gs://.
      probe: takes a stage's configuration and the networks by name at every evaluation
        and returns further figures to write, such as
        `facecycle_jax.evaluation.probe_while_training`.
      report: called once at the end, by process 0, with the last stage's configuration
        and workdir; returns further figures to write, such as
        `facecycle_jax.evaluation.report_on_synthetic_faces`.
      start_anew: whether a run of which every checkpoint was set aside as damaged
        starts from scratch; without it such a run is refused.

    Returns:
      The last state.

    Raises:
      ValueError: if the configuration is wrong, or not that of the run in `workdir`, or
        another run is going on there; in a job of several processes also if one of them
        has other data, weights or settings.
      FileNotFoundError: if data, weights or `init_from` are not there.
      PreemptedError: after SIGTERM, with the state saved.
      DivergedError: after `max_nonfinite` skipped updates in a row.
      StorageError: if a checkpoint cannot be written; those before it are intact.
      OSError: if a file cannot be read or written.
    """
    workdir = epath.Path(workdir)
    config = (
        config.to_dict()
        if isinstance(config, ml_collections.ConfigDict)
        else dict(config)
    )

    # What is wrong with any stage is reported before the first one starts.
    training.check_same(training.shared_fields(config))
    training.check_ranges(config)
    for stage in _stages(config).values():
        _check_backend(stage)

    if "stages" not in config:
        return _train(
            config, workdir, probe=probe, report=report, start_anew=start_anew
        )

    if config.get("about"):
        log.info("%s", config["about"])
    before: list[str] = []
    stages = _stages(config)
    for number, (name, stage) in enumerate(stages.items(), start=1):
        log.info("Stage %d of %d, %s, in %s", number, len(stages), name, workdir / name)
        stage = {**stage, "init_from": before or stage["init_from"]}
        state = _train(
            stage,
            workdir / name,
            probe=probe,
            start_anew=start_anew,
            name=name,
            # The last stage has the networks of all.
            report=report if number == len(stages) else None,
        )
        before = [*before, str(workdir / name)]
    return state


def _stages(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Lists the configurations of a run's stages by name.

    '' is that of a run without stages.
    """
    if "stages" not in config:
        return {"": config}
    return {name: config[name] for name in config["stages"]}


def _check_backend(config: Mapping[str, Any]) -> None:
    """Raises MissingExtraError if the data are to be read by TensorFlow and it is not installed."""
    if config["data"]["backend"] != "tf":
        return
    reason = training.hide_accelerators_from_tensorflow()
    if reason:
        raise MissingExtraError(
            f"data.backend='tf' needs tensorflow: {reason}, or set data.backend='threads', "
            "which needs nothing."
        )


def _make_workdir(workdir: epath.Path) -> None:
    """Makes the directory of a run."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"--workdir={workdir} is a file, or lies below one: name a folder, which will be made."
        ) from None


def _train(
    config: Mapping[str, Any],
    workdir: epath.Path,
    *,
    probe: training.Probe | None,
    report: training.Report | None,
    start_anew: bool,
    name: str = "",
) -> TrainState:
    """Runs one stage."""
    _make_workdir(workdir)

    with training.locked(workdir):
        run, state = training.prepare(config, workdir, start_anew=start_anew)
        run.probe = probe
        start = int(state.step)
        writer = training.MetricWriter(
            workdir, step=start, tensorboard=config["tensorboard"]
        )
        progress = training.Progress(
            step=start,
            total=run.total_steps,
            pictures=config["batch_size"] * (config["data"].get("item_frames", 0) or 2),
            name=name or config["method"],
        )

        reason: BaseException | None = None
        try:
            with training.StopSignal() as stop, progress.showing():
                state = _loop(run, state, writer, progress, stop)
            if report is not None and jax.process_index() == 0:
                figures = report(config, workdir)
                writer.scalars(
                    run.total_steps, {f"truth/{name}": x for name, x in figures.items()}
                )
        except BaseException as error:
            reason = error
            raise
        finally:
            _finish(run, writer, reason)

    log.info(
        "Done: %d steps. Checkpoints, metrics and panels are in %s",
        run.total_steps,
        workdir,
    )
    return state


def _finish(
    run: training.Run, writer: training.MetricWriter, reason: BaseException | None
) -> None:
    """Closes what a run has open.

    An error of that never takes the place of the reason of the end.
    """
    endings = [writer.close]

    # Whatever happened, a save in progress is finished: the last good checkpoint stays
    # whole. But after the error of one process of several it would wait for processes
    # that are stuck in a step.
    together = isinstance(reason, training.PreemptedError | training.DivergedError)
    alone = jax.process_count() > 1 and isinstance(reason, Exception) and not together
    if not alone:
        endings.append(run.checkpointer.close)
    endings.append(lambda: training.report_unreadable(run.workdir, run.unreadable()))

    first: Exception | None = None
    for ending in endings:
        try:
            ending()
        except Exception as error:
            if reason is not None or first is not None:
                log.error(
                    "While ending, this went wrong too: %s", error, exc_info=error
                )
            else:
                first = error
    if first is not None:
        raise first


def _loop(
    run: training.Run,
    state: TrainState,
    writer: training.MetricWriter,
    progress: training.Progress,
    stop: training.StopSignal,
) -> TrainState:
    """Steps to the end.

    The order within a step is fixed, so that runs can be compared.
    """
    config = run.config
    start = int(state.step)
    merge = jax.jit(Averages.merge)
    averages: Averages | None = None
    logged = start

    # A run that was stopped at a step to evaluate has saved that step first, and
    # evaluates it now.
    due = 0 < start <= run.total_steps and _evaluates(run, start)
    if due and not agree(int(run.checkpointer.has_loss(start))):
        state = _evaluate(run, state, start, writer)
        run.checkpointer.record_loss(start, run.evaluated[1])

    batches = run.train_batches(start)
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

        # 2. Averages since the last log; the only place that waits for the device each
        # time.
        if step % config["log_every"] == 0 or last:
            _log(run, state, averages, writer, progress, between=(logged, step))
            averages = None
            logged = step

        # 3. Asked to stop, the state is saved at once: an evaluation may take longer
        # than the grace.
        if stop.reached():
            _check_finite(run, state, between=(logged, step))
            run.checkpointer.save(step, state)
            run.checkpointer.wait()
            raise training.PreemptedError(
                f"stopped by SIGTERM after step {step}, which is saved in {run.workdir}; the same "
                "command continues it."
            )

        # 4. Held-out losses and panels, before the checkpoint that carries the loss.
        if _evaluates(run, step):
            state = _evaluate(run, state, step, writer)
            progress.restart(step)

        # 5. Checkpoint.
        if step % config["checkpoint_every"] == 0 or last:
            _check_finite(run, state, between=(logged, step))
            evaluated, loss = run.evaluated
            run.checkpointer.save(step, state, loss=loss if evaluated == step else None)

    run.checkpointer.wait()
    return state


def _evaluates(run: training.Run, step: int) -> bool:
    """Whether held-out people are evaluated at a step; a panel needs that too."""
    due = [step % run.config[name] == 0 for name in ("eval_every", "panel_every")]
    return any(due) or step == run.total_steps


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


def _check_finite(
    run: training.Run, state: TrainState, *, between: tuple[int, int]
) -> None:
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


def _evaluate(
    run: training.Run, state: TrainState, step: int, writer: training.MetricWriter
) -> TrainState:
    """Writes the losses of held-out people and, when due, a panel.

    Returns the state that follows.
    """
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
    log.info("held-out people at step %d: loss %.4g", *run.evaluated)
    if run.probe is not None and jax.process_index() == 0:
        figures = run.probe(config, {**state.frozen, **state.eval_params})
        if figures:
            writer.scalars(
                step, {f"probe/{name}": value for name, value in figures.items()}
            )
    if step % config["panel_every"] == 0 or step == run.total_steps:
        panel = _panel(first, step)
        if jax.process_index() == 0:
            save_png(run.workdir / "panels" / f"{step:08}.png", panel)
        writer.picture(step, "held_out", panel)
    if run.after_evaluation is None:
        return state
    return run.after_evaluation(state, jnp.float32(run.evaluated[1]))


def _panel(pictures: Tree, step: int) -> np.ndarray:
    """Draws the first held-out faces and what the method makes of them."""
    rows = len(pictures["input"])
    drawn = {}
    for name, picture in pictures.items():
        if picture.ndim == 4 and len(picture) == rows:
            colours = picture.shape[-1] == 3
            drawn[name] = np.asarray(
                denormalise(picture) if colours else picture.astype(jnp.float32)
            )
    return training_panel(drawn, step=step, max_rows=rows)
