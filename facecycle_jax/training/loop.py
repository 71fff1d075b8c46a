"""The training loop of every method, on one device or many, from a configuration.

A workdir holds config.json, fingerprint.json (of the data), parameters.txt,
checkpoints/, losses.json, metrics.jsonl, goodput.json, panels/<step>.png, truth.png
(synthetic faces only), unreadable.txt (only if images could not be read), profile/
(only if requested), finished.json (of a stage before the last) and, with TensorFlow
installed, tensorboard/.
"""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from facecycle_jax import training
from facecycle_jax.errors import UserError
from facecycle_jax.networks import Tree
from facecycle_jax.ops import denormalise
from facecycle_jax.training import Averages, TrainState
from facecycle_jax.training.checkpoint_reading import newest_step
from facecycle_jax.training.early_checks import check_stage
from facecycle_jax.training.finished import finished_step, is_finished, record_finished
from facecycle_jax.training.processes import agree, wait_for_all
from facecycle_jax.viz import save_png, training_panel

log = logging.getLogger(__name__)

# One program, where adding up term by term would start one for each.
_merge = jax.jit(Averages.merge)


def train_and_evaluate(
    config: Mapping[str, Any] | ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    probe: training.Probe | None = None,
    report: training.Report | None = None,
    on_metrics: training.OnMetrics | None = None,
    start_anew: bool = False,
    method: training.MakeMethod | None = None,
    loader: training.MakeLoader | None = None,
) -> TrainState:
    """Trains what a configuration describes, or continues the run in a workdir.

    Args:
      config: a config of configs/. With `stages`, names of configurations in it, these
        run in order in workdir/<name>. Each stage starts from the networks of its own
        `init_from`, then those of the stages before it; of a network that several
        have, the last one's are used.
      workdir: directory of the run, local or gs://; created if it is missing.
      probe: takes a stage's configuration and the networks by name at every evaluation
        and returns further figures to write, such as
        `facecycle_jax.evaluation.probe_while_training`.
      report: called once at the end, by process 0, with the last stage's configuration
        and workdir; returns further figures to write, such as
        `facecycle_jax.evaluation.report_on_synthetic_faces`.
      on_metrics: `on_metrics(step, metrics)`, called by process 0 with the figures of
        every row that metrics.jsonl gets. Figures may be NaN. Each of several stages
        counts its steps from 1. An error in it ends the run.
      start_anew: whether a run of which every checkpoint was set aside as damaged
        starts from scratch; without it such a run is refused.
      method: builds the method of a stage's configuration; None: `methods.make`.
      loader: builds the source of batches of a stage's configuration and split; None:
        `data.make_loader`.

    Returns:
      The last state.

    Raises:
      UserError: If the configuration is wrong or is not that of the run in `workdir`,
        or if another run uses the workdir. In a job of several processes also if one
        of them has other data, weights or settings.
      FileNotFoundError: If data, weights or `init_from` are missing.
      PreemptedError: After SIGTERM, with the state saved.
      DivergedError: After `max_nonfinite` skipped updates in a row.
      StorageError: If a checkpoint cannot be written; those before it are intact.
      OSError: If a file cannot be read or written.
    """
    workdir = epath.Path(workdir)
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    config = dict(config)

    # What is wrong with any stage is reported before the first one starts.
    training.check_same(training.shared_fields(config))
    training.check_ranges(config)
    stages = _stages(config)
    for name, stage in stages.items():
        check_stage(stage, workdir / name, own_method=method is not None)

    train_stage = functools.partial(
        _train,
        probe=probe,
        on_metrics=on_metrics,
        start_anew=start_anew,
        method=method,
        loader=loader,
    )
    if "stages" not in config:
        return train_stage(config, workdir, report=report)

    if config.get("about"):
        log.info("%s", config["about"])

    before: list[str] = []
    for number, (name, stage) in enumerate(stages.items(), start=1):
        stage_workdir = workdir / name
        own = training.init_paths(stage["init_from"])
        stage = {**stage, "init_from": [*own, *before]}

        # The last stage has the networks of all, so it alone is reported on.
        after = [workdir / later for later in list(stages)[number:]]
        if after and is_finished(stage, stage_workdir):
            log.info("Stage %d of %d, %s, is finished", number, len(stages), name)
        else:
            log.info(
                "Stage %d of %d, %s, in %s", number, len(stages), name, stage_workdir
            )
            state = train_stage(
                stage,
                stage_workdir,
                report=None if after else report,
                name=name,
                stages_before=before,
                stages_after=after,
            )
        before = [*before, str(stage_workdir)]

    return state


def _stages(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Lists the configurations of a run's stages by name.

    A run without stages is one stage with the name ''.
    """
    if "stages" not in config:
        return {"": config}
    return {name: config[name] for name in config["stages"]}


def _make_workdir(workdir: epath.Path) -> None:
    """Creates the directory of a run."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"--workdir={workdir} is a file, or lies below one: name a folder, "
            "which will be made."
        ) from None


def _train(
    config: Mapping[str, Any],
    workdir: epath.Path,
    *,
    probe: training.Probe | None,
    report: training.Report | None,
    on_metrics: training.OnMetrics | None,
    start_anew: bool,
    method: training.MakeMethod | None,
    loader: training.MakeLoader | None,
    name: str = "",
    stages_before: Sequence[str] = (),
    stages_after: Sequence[epath.Path] = (),
) -> TrainState:
    """Runs one stage."""
    _make_workdir(workdir)

    with training.locked(workdir):
        goodput = training.Goodput(workdir)
        run, state = training.prepare(
            config,
            workdir,
            goodput=goodput,
            stages_before=stages_before,
            start_anew=start_anew,
            method=method,
            loader=loader,
            probe=probe,
        )

        start = int(state.step)
        if start > run.total_steps:
            log.info(
                "%d steps are done and the configuration asks for %d: nothing is left",
                start,
                run.total_steps,
            )
            run.total_steps = start

        goodput.continue_at(start)
        # A run that has used its time is not trained further.
        if 0 < start < run.total_steps and _is_out_of_time(run):
            run.total_steps = start
        _warn_of_later_stages(run, stages_after)

        writer = training.MetricWriter(
            workdir,
            step=start,
            tensorboard=config["tensorboard"],
            on_metrics=on_metrics,
        )
        progress = _progress(run, start, name=name)

        try:
            state = _step_to_the_end(
                run, state, writer, progress, is_last_stage=not stages_after
            )
            if report is not None:
                _report_once(run, writer, report)
        except BaseException as error:
            _finish(run, writer, error)
            raise
        _finish(run, writer, None)

        if stages_after:
            record_finished(workdir, run.total_steps)

    log.info(
        "Done: %d steps. Checkpoints, metrics and panels are in %s",
        run.total_steps,
        workdir,
    )
    return state


def _warn_of_later_stages(
    run: training.Run, stages_after: Sequence[epath.Path]
) -> None:
    """Warns if a finished stage trains on, which stages that have begun do not follow.

    Each keeps the networks that it began with.
    """
    if not 0 <= finished_step(run.workdir) < run.total_steps:
        return

    begun = [later for later in stages_after if newest_step(later) >= 0]
    if begun:
        names = ", ".join(map(str, begun))
        log.warning(
            "%s began from an earlier step of %s, whose networks it keeps. To have it "
            "begin from the longer training, move %s away before this stage ends.",
            names,
            run.workdir,
            names,
        )


def _progress(run: training.Run, start: int, *, name: str) -> training.Progress:
    """Builds what shows the progress of a stage."""
    config = run.config

    # An item of a batch is a pair of images unless its method needs more frames.
    images_per_item = config["data"].get("item_frames", 0) or 2
    return training.Progress(
        step=start,
        total=run.total_steps,
        images=config["batch_size"] * images_per_item,
        name=name or config["method"],
    )


def _step_to_the_end(
    run: training.Run,
    state: TrainState,
    writer: training.MetricWriter,
    progress: training.Progress,
    *,
    is_last_stage: bool,
) -> TrainState:
    """Makes the steps of a stage that are left, unless it is asked to stop."""
    if int(state.step) < run.total_steps:
        log.info(
            "Compiling, which a machine does once for a configuration; the first step "
            "follows"
        )

    with (
        training.StopSignal() as stop,
        progress.showing(),
        run.profiler,
        run.goodput.spent("steps"),
    ):
        state = _loop(run, state, writer, progress, stop)

        # A request to stop that came during the last evaluation or save.
        if not is_last_stage and stop.reached():
            raise _stopped(
                stop,
                f"after the last step of {run.workdir}; the same command continues "
                "with the next stage.",
            )
    return state


def _report_once(
    run: training.Run, writer: training.MetricWriter, report: training.Report
) -> None:
    """Has process 0 write the figures of `report`, unless an earlier start has."""
    step = run.total_steps
    if jax.process_index() == 0 and not _has_report(run.workdir, step):
        with run.goodput.spent("evaluation"):
            figures = report(run.config, run.workdir)
        writer.scalars(step, _prefixed("truth", figures))

    # The others would leave the job, which waits for process 0 only minutes.
    wait_for_all("reported")


def _has_report(workdir: epath.Path, step: int) -> bool:
    """Whether the figures of `report` at a step are written already."""
    return any(
        row["step"] == step and any(name.startswith("truth/") for name in row)
        for row in training.read_metrics(workdir)
    )


def _finish(
    run: training.Run, writer: training.MetricWriter, reason: BaseException | None
) -> None:
    """Closes what a run has open.

    An error while closing never hides the reason why the run ended.
    """
    endings = [writer.close]

    # Whatever happened, a save in progress is finished, so that the last good
    # checkpoint stays whole. The exception is an error of one process of several,
    # because the save would wait for processes that are stuck in a step.
    together = isinstance(reason, training.PreemptedError | training.DivergedError)
    alone = jax.process_count() > 1 and isinstance(reason, Exception) and not together
    if not alone:
        endings.append(lambda: _close_checkpoints(run))
    endings.append(lambda: training.report_unreadable(run.workdir, run.unreadable()))
    endings.append(lambda: run.goodput.close(wait=not alone))

    first: Exception | None = None
    for ending in endings:
        try:
            ending()
        except Exception as error:
            if reason is None and first is None:
                first = error
                continue
            log.error("While ending, this went wrong too: %s", error, exc_info=error)

    if first is not None:
        raise first


def _close_checkpoints(run: training.Run) -> None:
    """Waits for the save in progress and frees the threads."""
    with run.goodput.spent("checkpoint"):
        run.checkpointer.close()


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

    state = _evaluate_if_left(run, state, start, writer)

    averages: Averages | None = None
    logged = start
    batches = run.train_batches(start)

    for step in range(start + 1, run.total_steps + 1):
        # 1. The update.
        state, averages = _update(
            run,
            state,
            averages,
            batches,
            progress,
            step=step,
            is_first=step == start + 1,
        )

        # Where the time is used, this step becomes the last one, so that it is
        # evaluated and saved as such. Several processes have to agree, so they ask only
        # where they log.
        may_ask = jax.process_count() == 1 or step % config["log_every"] == 0
        if may_ask and step < run.total_steps and _is_out_of_time(run):
            run.total_steps = step
        is_last_step = step == run.total_steps

        # 2. Averages since the last log. Only here does the host wait for the device
        # every time.
        if step % config["log_every"] == 0 or is_last_step:
            _log(run, state, averages, writer, progress, between=(logged, step))
            averages = None
            logged = step

        # 3. A request to stop. The state is saved at once because an evaluation may
        # take longer than the time that the platform grants.
        if stop.reached():
            _check_finite(run, state, between=(logged, step))
            _save(run, step, state)
            _wait_for_checkpoint(run)
            raise _stopped(
                stop,
                f"after step {step}, which is saved in {run.workdir}; the same command "
                "continues it.",
            )

        # 4. Held-out losses and panels, before the checkpoint that carries the loss.
        held_out_loss = None
        if _is_to_evaluate(run, step):
            with run.goodput.spent("evaluation"):
                state, held_out_loss = _evaluate(run, state, step, writer)
            progress.restart(step)

        # 5. The checkpoint, with the held-out loss if it is of this very step.
        if step % config["checkpoint_every"] == 0 or is_last_step:
            _check_finite(run, state, between=(logged, step))
            _save(run, step, state, loss=held_out_loss)

        if is_last_step:
            break

    _wait_for_checkpoint(run)
    return state


def _evaluate_if_left(
    run: training.Run, state: TrainState, step: int, writer: training.MetricWriter
) -> TrainState:
    """Makes the evaluation that an earlier start has left, and returns the state.

    A run that was stopped at a step to evaluate has saved that step first.
    """
    due = 0 < step <= run.total_steps and _is_to_evaluate(run, step)
    if not due or agree(int(run.checkpointer.has_loss(step))):
        return state

    with run.goodput.spent("evaluation"):
        state, loss = _evaluate(run, state, step, writer)
    # Where the evaluation changes the state, which is not saved again, the next start
    # has to repeat it.
    if run.after_evaluation is None:
        run.checkpointer.record_loss(step, loss)
    return state


def _update(
    run: training.Run,
    state: TrainState,
    averages: Averages | None,
    batches: Iterator[dict[str, jax.Array]],
    progress: training.Progress,
    *,
    step: int,
    is_first: bool,
) -> tuple[TrainState, Averages]:
    """Makes one update; returns the state and the averages with those of this step."""
    run.profiler.before(step)
    with run.goodput.spent("data"):
        batch = next(batches)

    with run.goodput.spent("compilation" if is_first else "steps"):
        # Nothing may move between host and device unseen.
        with jax.transfer_guard("disallow"):
            state, new = run.train_step(state, batch)
            averages = new if averages is None else _merge(averages, new)

        # The first step compiles, so speed is measured from the second one on.
        if is_first:
            jax.block_until_ready(state)

    progress.tick()
    run.profiler.after(step, state)
    if is_first:
        progress.restart(step)
    else:
        run.goodput.stepped(step, new)
    return state, averages


def _stopped(stop: training.StopSignal, when: str) -> BaseException:
    """Returns what a run ends with once it was asked to stop."""
    if stop.interrupted:
        return KeyboardInterrupt(f"interrupted {when}")
    return training.PreemptedError(f"stopped by SIGTERM {when}")


def _is_out_of_time(run: training.Run) -> bool:
    """Whether `max_minutes` are over; all processes ask at the same steps."""
    # Configs of earlier versions have no such field.
    minutes = run.config.get("max_minutes", 0.0)
    if not minutes:
        return False

    # Process 0 alone knows the time of earlier starts.
    is_over = run.goodput.seconds() >= 60 * minutes
    if not agree(int(is_over)):
        return False

    log.info("max_minutes=%g of this run are over: it ends here", minutes)
    return True


def _save(
    run: training.Run, step: int, state: TrainState, *, loss: float | None = None
) -> None:
    """Starts to save a state."""
    with run.goodput.spent("checkpoint"):
        run.checkpointer.save(step, state, loss=loss)
    run.goodput.saved(step)


def _wait_for_checkpoint(run: training.Run) -> None:
    """Waits for the save in progress."""
    with run.goodput.spent("checkpoint"):
        run.checkpointer.wait()


def _is_to_evaluate(run: training.Run, step: int) -> bool:
    """Whether held-out people are evaluated at a step.

    A panel needs an evaluation too.
    """
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
    before, step = between
    terms = averages.compute()

    # 'skipped' is the mean of 0 and 1 over the steps of the range.
    skipped = round(terms.pop("skipped") * (step - before))
    # The schedule counts the updates that were made, from 0. Some methods have a
    # factor of their own.
    skipped_in_all = int(state.nonfinite_total)
    last_made = max(0, step - skipped_in_all - 1)
    learning_rate = float(run.schedule(last_made)) * terms.pop("rate", 1.0)
    speed = progress.report(step, terms)

    run.goodput.reached(step)
    figures = {
        **_prefixed("train", terms),
        **speed,
        **run.goodput.fractions(),
        "learning_rate": learning_rate,
        "skipped_updates": skipped_in_all,
    }
    writer.scalars(step, figures)

    if skipped:
        log.warning(
            "%d of the updates of steps %d to %d had a loss or gradient that was not "
            "finite and were skipped.",
            skipped,
            before + 1,
            step,
        )
    _check_finite(run, state, between=between)


def _check_finite(
    run: training.Run, state: TrainState, *, between: tuple[int, int]
) -> None:
    """Stops a run whose last updates were all skipped."""
    in_row = int(state.nonfinite_in_row)
    allowed = run.config["max_nonfinite"]
    if in_row < allowed:
        return

    before, step = between
    last_good = run.checkpointer.latest_step
    raise training.DivergedError(
        f"the last {in_row} updates up to step {step} (seen between steps "
        f"{before + 1} and {step}) had a loss or gradient that was not finite, "
        f"max_nonfinite is {allowed}. The last checkpoint, of step {last_good}, is "
        f"intact in {run.workdir}. Lower optimiser.schedule_rates, set "
        "optimiser.clip_norm, or look at the data."
    )


def _evaluate(
    run: training.Run, state: TrainState, step: int, writer: training.MetricWriter
) -> tuple[TrainState, float]:
    """Writes the losses of held-out people and, when due, a panel.

    Returns the state that follows, and the mean loss.
    """
    config = run.config
    averages: Averages | None = None
    first: dict[str, jax.Array] = {}

    # The same batches every time, those of the first steps. The panel shows the first.
    batches = run.eval_batches(0)
    for number in range(max(1, config["eval_batches"])):
        batch = next(batches)
        with run.goodput.spent("evaluation" if run.has_evaluated else "compilation"):
            new, images = run.eval_step(state.eval_params, state.frozen, batch)
        run.has_evaluated = True
        averages = new if averages is None else averages.merge(new)
        if number == 0:
            first = images

    terms = averages.compute() if averages is not None else {}
    loss = terms.get("total", float("nan"))
    writer.scalars(step, _prefixed("eval", terms))
    log.info("held-out people at step %d: loss %.4g", step, loss)

    if run.probe is not None and jax.process_index() == 0:
        figures = run.probe(config, {**state.frozen, **state.eval_params})
        if figures:
            writer.scalars(step, _prefixed("probe", figures))

    if step % config["panel_every"] == 0 or step == run.total_steps:
        panel = _panel(first, step)
        if jax.process_index() == 0:
            save_png(run.workdir / "panels" / f"{step:08}.png", panel)
        writer.image(step, "held_out", panel)

    # Panels and the end of a run do not count for schedules that follow evaluations.
    if run.after_evaluation is None or step % config["eval_every"]:
        return state, loss
    return run.after_evaluation(state, jnp.float32(loss)), loss


def _prefixed(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Puts a prefix and a slash before the names of figures."""
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def _panel(images: Tree, step: int) -> np.ndarray:
    """Draws the first held-out faces and what the method makes of them."""
    rows = len(images["input"])
    shown = {}
    for name, image in images.items():
        # Codes, and what is not one image per face, have no place in a panel.
        if image.ndim != 4 or len(image) != rows:
            continue
        if image.shape[-1] == 3:
            shown[name] = np.asarray(denormalise(image))
        else:
            # A flow, perhaps of half precision.
            shown[name] = np.asarray(image.astype(jnp.float32))

    return training_panel(shown, step=step, max_rows=rows)
