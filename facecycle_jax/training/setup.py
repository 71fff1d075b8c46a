"""The way from a configuration to everything the loop works with, in a fixed order."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from facecycle_jax import data, methods
from facecycle_jax.devices import make_mesh
from facecycle_jax.files import write_text
from facecycle_jax.methods import Method
from facecycle_jax.networks import read_resnet18_npz
from facecycle_jax.training.checkpointing import Checkpointer
from facecycle_jax.training.digests import tree_digest
from facecycle_jax.training.first_state import first_state
from facecycle_jax.training.goodput import Goodput
from facecycle_jax.training.metrics import Averages
from facecycle_jax.training.optimiser import schedule_epoch
from facecycle_jax.training.processes import check_same
from facecycle_jax.training.profiling import Profiler
from facecycle_jax.training.program import build_program
from facecycle_jax.training.run_config import check_config, check_data, keep_run
from facecycle_jax.training.sharding import describe, put_batch
from facecycle_jax.training.state import TrainState

log = logging.getLogger(__name__)

TABLES = "parameters.txt"


class Loader(Protocol):
    """What the loop needs of a source of batches.

    Attributes:
      num_tracks: number of tracks, over all processes, that batches are drawn from.
      unreadable: reasons, by file name, why images met so far were left out.
    """

    @property
    def num_tracks(self) -> int:
        """Number of tracks over all processes."""

    @property
    def unreadable(self) -> dict[str, str]:
        """Reasons by file name."""

    def fingerprint(self) -> Mapping[str, str]:
        """Describes what batches are drawn from, by names, equal in all processes."""

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of the batches of steps start, start + 1, ...

        The iterator never ends.
        """
        ...

    def on_devices(self, mesh: jax.sharding.Mesh) -> "Feed | None":
        """Returns what yields batches made on the devices, or None to use `batches`."""


# From `start` to the endless global batches, split over the devices, of steps start,
# start + 1, ...
Feed = Callable[[int], Iterator[dict[str, jax.Array]]]

# From a configuration to its method.
MakeMethod = Callable[[Mapping[str, Any]], Method]


class MakeLoader(Protocol):
    """What builds a source of batches."""

    def __call__(self, config: Mapping[str, Any], *, split: str) -> Loader:
        """Builds the source of a configuration's 'train' or 'eval' batches."""


# Configuration and networks by name to figures.
Probe = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, float]]
# Configuration and workdir to figures.
Report = Callable[[Mapping[str, Any], epath.Path], Mapping[str, float]]


@dataclasses.dataclass
class Run:
    """What the loop works with; it changes `total_steps` and `has_evaluated`.

    Attributes:
      config: the configuration of the run.
      workdir: directory of the run.
      mesh: the devices.
      train_batches: yields batches to train on.
      eval_batches: yields batches of held-out people.
      unreadable: returns the reasons, by file name, why images were left out.
      train_step: the compiled update, see `Program`.
      eval_step: the compiled evaluation, see `Program`.
      schedule: learning rate by update.
      checkpointer: saves and restores states.
      total_steps: step at which the run ends; `max_minutes` makes it an earlier one.
      goodput: measures what wall time is spent on.
      profiler: writes the trace of `profile_steps`.
      has_evaluated: whether an evaluation was made, so that it is compiled.
      probe: further figures to compute at every evaluation, or None.
      after_evaluation: what follows from an evaluation, see `Program`, or None.
    """

    config: Mapping[str, Any]
    workdir: epath.Path
    mesh: jax.sharding.Mesh
    train_batches: Feed
    eval_batches: Feed
    unreadable: Callable[[], dict[str, str]]
    train_step: Callable[..., tuple[TrainState, Averages]]
    eval_step: Callable[..., tuple[Averages, dict[str, jax.Array]]]
    schedule: Callable[[int], Any]
    checkpointer: Checkpointer
    total_steps: int
    goodput: Goodput
    profiler: Profiler
    has_evaluated: bool = False
    probe: Probe | None = None
    after_evaluation: Callable[[TrainState, jax.Array], TrainState] | None = None


def prepare(
    config: Mapping[str, Any],
    workdir: epath.Path,
    *,
    goodput: Goodput,
    stages_before: Collection[str] = (),
    start_anew: bool = False,
    method: MakeMethod | None = None,
    loader: MakeLoader | None = None,
    probe: Probe | None = None,
) -> tuple[Run, TrainState]:
    """Builds mesh, data, program (shapes, shardings, steps) and state, in this order.

    The workdir gets config.json, fingerprint.json and parameters.txt. Checkpoints in it
    that are damaged are set aside.

    Args:
      config: configuration of the run.
      workdir: directory of the run.
      goodput: measures what wall time is spent on.
      stages_before: paths of `init_from` that need not have a network of the method.
      start_anew: whether to start from scratch where all checkpoints were set aside as
        damaged.
      method: builds the method of a configuration; None: `methods.make`.
      loader: builds the source of batches; None: `data.make_loader`.
      probe: further figures to compute at every evaluation.

    Returns:
      What the loop works with, and the state to begin with.

    Raises:
      UserError: If the configuration, the data or the checkpoints cannot be used.
      FileNotFoundError: If data, weights or `init_from` are missing.
    """
    # 1. Where. Whether the batch fits the devices is checked before any stage starts.
    mesh = make_mesh()
    devices = describe(
        mesh,
        batch_size=config["batch_size"],
        accumulate=config["optimiser"]["accumulate"],
    )
    if jax.process_count() > 1:
        log.info("%s\n%s", config["method"], devices)

    # 2. Data, which determine the length of an epoch.
    train_data, eval_data = _make_loaders(config, loader)
    described = _describe_data(train_data, eval_data)

    steps_per_epoch, total_steps = _lengths(config, tracks=train_data.num_tracks)
    log.info(
        "%d tracks to train on, %d held out; %d steps in an epoch, %d in all",
        train_data.num_tracks,
        eval_data.num_tracks,
        steps_per_epoch,
        total_steps,
    )
    _warn_of_random_vgg(config)

    # Processes that see different data would train different weights without an error.
    if jax.process_count() > 1:
        lengths = f"{steps_per_epoch} in an epoch, {total_steps} in all"
        check_same({**described, "steps": lengths, **_digests_of_weights(config)})

    # 3. What is computed: method, optimiser, shapes, shardings, steps; nothing is
    # compiled yet.
    program = build_program(
        config,
        mesh,
        steps_per_epoch=schedule_epoch(
            config["optimiser"],
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        ),
        method=None if method is None else method(config),
    )

    # 4. Whether the workdir holds a run of this configuration and these data.
    checkpointer = Checkpointer(
        workdir, keep_last=config["keep_last"], start_anew=start_anew
    )
    resuming = checkpointer.has_history
    follows = program.after_evaluation is not None
    check_config(config, workdir, resuming=resuming, follows_evaluations=follows)
    check_data(described, workdir, resuming=resuming)
    keep_run(config, described, workdir)

    # 5. The state: the workdir's, else init_from's, else a fresh one.
    state = checkpointer.restore(program.abstract)
    if state is None:
        state = first_state(config, program, stages_before=stages_before)
    else:
        log.info("Continuing at step %d of %d", int(state.step), total_steps)
    _write_tables(config, workdir, state, devices=devices)

    run = Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        train_batches=_feed(train_data, mesh),
        eval_batches=_feed(eval_data, mesh),
        unreadable=lambda: {**eval_data.unreadable, **train_data.unreadable},
        train_step=program.train_step,
        eval_step=program.eval_step,
        schedule=program.schedule,
        checkpointer=checkpointer,
        total_steps=total_steps,
        goodput=goodput,
        # Models of earlier versions have no such field.
        profiler=Profiler(workdir, config.get("profile_steps", ())),
        probe=probe,
        after_evaluation=program.after_evaluation,
    )
    return run, state


def _make_loaders(
    config: Mapping[str, Any], loader: MakeLoader | None
) -> tuple[Loader, Loader]:
    """Builds the sources of batches to train on and of held-out people."""
    if loader is None:
        return data.make_loaders(config)
    return loader(config, split="train"), loader(config, split="eval")


def _lengths(config: Mapping[str, Any], *, tracks: int) -> tuple[int, int]:
    """Computes the steps in an epoch, which shows every track once, and in all."""
    in_epoch = max(1, tracks // config["batch_size"])
    of_epochs = max(1, round(config["num_epochs"] * in_epoch))
    return in_epoch, config["num_steps"] or of_epochs


def _warn_of_random_vgg(config: Mapping[str, Any]) -> None:
    """Warns of a default that is for tests."""
    # Other methods than FaceCycle have no such field.
    if config["loss"].get("vgg") == "random" and methods.uses_vgg(config):
        log.warning(
            "loss.vgg is 'random', which is for tests: a VGG-19 with random weights "
            "knows nothing of faces. Name the file that `facecycle import-vgg` makes."
        )


def _write_tables(
    config: Mapping[str, Any], workdir: epath.Path, state: TrainState, *, devices: str
) -> None:
    """Writes the tables of devices and parameters into the workdir.

    The log reports only the number of parameters.
    """
    if jax.process_index():
        return

    # Imported here because clu serves this table alone.
    from clu import parameter_overview

    overview = parameter_overview.get_parameter_overview(
        state.params, include_stats=False
    )
    path = workdir / TABLES
    text = f"{config['method']}\n{devices}\n\nTrained parameters\n{overview}\n"
    write_text(path, text)

    count = parameter_overview.count_parameters(state.params)
    log.info("%s trained parameters, listed in %s", f"{count:,}", path)


def _describe_data(train_data: Loader, eval_data: Loader) -> dict[str, str]:
    """Describes both splits, by names such as 'people held out'."""
    trained_on = train_data.fingerprint()
    held_out = eval_data.fingerprint()
    return {
        **{f"{name} to train on": value for name, value in trained_on.items()},
        **{f"{name} held out": value for name, value in held_out.items()},
    }


def _digests_of_weights(config: Mapping[str, Any]) -> dict[str, str]:
    """Computes digests of the weights that files of the loss hold, by their fields."""
    loss = config["loss"]
    weights: dict[str, Any] = {"loss.vgg": None, "loss.resnet": None}

    # A method has one of these fields or none; 'random' is not a file.
    if loss.get("vgg", "random") != "random":
        weights["loss.vgg"], _ = methods.vgg_parameters(config)
    if loss.get("resnet", "random") != "random":
        weights["loss.resnet"] = read_resnet18_npz(loss["resnet"])

    return {
        f"weights in {field}": "none" if tree is None else tree_digest(tree)
        for field, tree in weights.items()
    }


def _feed(loader: Loader, mesh: jax.sharding.Mesh) -> Feed:
    """Brings a loader's batches onto the devices.

    Transfers and steps are only started here; the devices do them in order. While one
    step computes, the next batch is read and moved.
    """
    feed = loader.on_devices(mesh)
    if feed is not None:
        return feed
    return lambda start: (put_batch(batch, mesh) for batch in loader.batches(start))
