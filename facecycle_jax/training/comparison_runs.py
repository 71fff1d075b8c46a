"""The training runs of a comparison of methods, each in a process of its own.

Every (config, seed) is a run of `facecycle_jax.main` in WORKDIR/CONFIG/SEED.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from facecycle_jax.config_files import launcher_arguments
from facecycle_jax.errors import UserError
from facecycle_jax.training.checkpoint_reading import newest_step
from facecycle_jax.training.comparison_plan import Entry, of_stage
from facecycle_jax.training.metrics import training_seconds
from facecycle_jax.training.run_config import read_config
from facecycle_jax.training.stopping import DIVERGED_EXIT, PREEMPTED_EXIT

# Program that trains.
_PROGRAM = [sys.executable, "-m", "facecycle_jax.main"]
# Steps of each stage by which the speed of a method is measured.
_MEASURED_STEPS = 24

# Runs a command and returns its exit status.
Start = Callable[[Sequence[str]], int]


class EndedEarlyError(Exception):
    """A run ended in another way than by divergence.

    Args:
      what: the run, in words.
      status: its exit status.
    """

    def __init__(self, what: str, status: int) -> None:
        super().__init__(f"{what} ended with exit status {status}")
        self.status = status


def say(line: str) -> None:
    """Prints a line of progress on standard error."""
    print(f"facecycle compare: {line}", file=sys.stderr, flush=True)


def train_all(
    entries: Sequence[Entry],
    workdir: epath.Path,
    *,
    seeds: Sequence[int],
    plan: Mapping[str, Mapping[str, int]],
    checkpoints: int,
    start: Start,
) -> list[tuple[str, int]]:
    """Trains every method with every seed.

    Finished runs are left alone. If their data have another path now, they are started
    once more to compare the data.

    Args:
      entries: the methods.
      workdir: folder of all runs.
      seeds: of the runs.
      plan: steps by stage, by name of the method.
      checkpoints: of each stage that are kept.
      start: runs a command and returns its exit status.

    Returns:
      Name and seed of every run that diverged.

    Raises:
      EndedEarlyError: If a run ended in another way.
      UserError: If a run has gone beyond its last step.
    """
    diverged = []

    # All of the first seed first, so that a comparison can be made early.
    runs = [(entry, seed) for seed in seeds for entry in entries]
    for number, (entry, seed) in enumerate(runs, start=1):
        steps = plan[entry.name]
        run_workdir = workdir / entry.name / str(seed)
        if _finished(entry, run_workdir, steps):
            if not _data_moved(entry, run_workdir):
                continue
            # A run that has nothing left to do still compares its data.
            what = "its data have another path, comparing them"
        else:
            counts = " + ".join(f"{count:,}" for count in steps.values())
            what = f"{counts} steps"

        say(f"{number} of {len(runs)}: {entry.name}, seed {seed}, {what}")
        command = training_command(
            entry, run_workdir, seed=seed, steps=steps, checkpoints=checkpoints
        )
        status = start(command)
        if status == DIVERGED_EXIT:
            diverged.append((entry.name, seed))
        elif status:
            raise EndedEarlyError(f"training of {entry.name}, {seed},", status)

    return diverged


def measure_speed(
    entry: Entry, run_workdir: epath.Path, *, start: Start
) -> dict[str, float]:
    """Measures the speed of every stage by a short run.

    Args:
      entry: the method.
      run_workdir: workdir of the short run; one that is finished is read again.
      start: runs a command and returns its exit status.

    Returns:
      Steps a second, by stage.

    Raises:
      EndedEarlyError: If the run did not end well.
      UserError: If it has left no speed.
    """
    steps = {stage.name: _MEASURED_STEPS for stage in entry.stages}
    if not _finished(entry, run_workdir, steps):
        say(f"measuring the speed of {entry.name}")
        command = training_command(
            entry, run_workdir, seed=0, steps=steps, checkpoints=1
        )
        status = start(command)
        if status:
            raise EndedEarlyError(
                f"training of {entry.name}, the measurement of its speed,", status
            )

    speeds = {}
    for stage in entry.stages:
        seconds = training_seconds(run_workdir / stage.name)
        if not seconds > 0:
            raise UserError(
                f"the metrics in {run_workdir / stage.name} have no speed: remove that "
                "folder, and start again."
            )
        speeds[stage.name] = _MEASURED_STEPS / seconds
    return speeds


def training_command(
    entry: Entry,
    run_workdir: epath.Path,
    *,
    seed: int,
    steps: Mapping[str, int],
    checkpoints: int,
) -> list[str]:
    """Builds the command that trains one run.

    Args:
      entry: the method.
      run_workdir: workdir of the run.
      seed: of the run.
      steps: by stage.
      checkpoints: to keep of each stage, at even distances.

    Returns:
      The command line.
    """
    fields = []
    for stage in entry.stages:
        count = steps[stage.name]
        every = -(-count // checkpoints)
        own = {
            "seed": seed,
            "num_steps": count,
            "checkpoint_every": every,
            # The last one may follow at a shorter distance.
            "keep_last": checkpoints + 1,
            "log_every": max(1, min(stage.config["log_every"], count // 3)),
            "panel_every": count,
            "tensorboard": False,
            **_schedule_length(stage.config),
        }
        # The planned steps are made, however long they take.
        if stage.config.get("max_minutes"):
            own["max_minutes"] = 0.0
        fields += [of_stage(stage.name, f"{name}={own[name]}") for name in own]

    # Fields of the user come last, so that they win.
    arguments = launcher_arguments(
        entry.config, [*fields, *entry.fields], workdir=os.fspath(run_workdir)
    )
    return [*_PROGRAM, *arguments[1:]]


def _schedule_length(config: Mapping[str, Any]) -> dict[str, float]:
    """Returns the field by which a run stretches its schedule to its own length."""
    options = config["optimiser"]
    lengths = ("schedule_length_steps", "schedule_length_epochs")
    # A config that is not made from configs/base.py may lack the fields; one that
    # states a length keeps it.
    if any(name not in options or options[name] for name in lengths):
        return {}

    if config["num_steps"]:
        return {"optimiser.schedule_length_steps": config["num_steps"]}
    return {"optimiser.schedule_length_epochs": config["num_epochs"]}


def start_process(command: Sequence[str]) -> int:
    """Runs a command to its end.

    SIGTERM is passed on, so that the run saves its state before it ends.

    Args:
      command: the command line.

    Returns:
      The exit status, 128 + N after death by signal N. It is `PREEMPTED_EXIT` if
      SIGTERM was received and the next run would follow otherwise.
    """
    child: subprocess.Popen[bytes] | None = None
    received = False

    def pass_on(number: int, frame: Any) -> None:
        nonlocal received
        del number, frame
        received = True
        if child is not None:
            child.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        child = subprocess.Popen(list(command))
        # The signal may have come before there was a child to pass it on to.
        if received:
            child.terminate()
        status = child.wait()
    except BaseException:
        # An interrupt from the keyboard has reached the child too.
        if child is not None:
            child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)

    # A run that was at its end when the signal came ends as it would have anyway.
    if received and status in (0, DIVERGED_EXIT):
        return PREEMPTED_EXIT
    return status if status >= 0 else 128 - status


def _finished(entry: Entry, run_workdir: epath.Path, steps: Mapping[str, int]) -> bool:
    """Whether every stage of a run has reached its last step.

    Raises UserError if one has gone beyond.
    """
    done = True
    for stage in entry.stages:
        step = newest_step(run_workdir / stage.name)
        if step > steps[stage.name]:
            raise UserError(
                f"{run_workdir / stage.name} is at step {step}, beyond the "
                f"{steps[stage.name]} of this comparison: use another workdir."
            )
        done = done and step == steps[stage.name]
    return done


def _data_moved(entry: Entry, run_workdir: epath.Path) -> bool:
    """Whether a finished run has its data from another path than those of now."""
    for stage in entry.stages:
        trained = read_config(run_workdir / stage.name)
        if trained.get("data", {}).get("path") != stage.config["data"]["path"]:
            return True
    return False
