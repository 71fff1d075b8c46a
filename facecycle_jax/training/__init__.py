"""State, update, placement, checkpoints and metrics of training.

The loop itself is `facecycle_jax.training.loop`.
"""

from facecycle_jax.devices.cpu import cpu_devices_for, split_cpu
from facecycle_jax.devices.mesh import batch_sharding, make_mesh, replicated
from facecycle_jax.training.checkpoint_reading import find_checkpoint
from facecycle_jax.training.checkpointing import Checkpointer
from facecycle_jax.training.goodput import Goodput
from facecycle_jax.training.init_from import copy_trees, init_paths, load_trees
from facecycle_jax.training.metrics import (
    Averages,
    MetricWriter,
    OnMetrics,
    hide_accelerators_from_tensorflow,
    read_metrics,
    training_seconds,
)
from facecycle_jax.training.optimiser import (
    average_weights,
    make_optimiser,
    make_schedule,
    schedule_epoch,
)
from facecycle_jax.training.processes import check_same
from facecycle_jax.training.profiling import Profiler
from facecycle_jax.training.program import Program, build_program
from facecycle_jax.training.progress import Progress
from facecycle_jax.training.ranges import check_ranges
from facecycle_jax.training.run_config import (
    check_config,
    flatten,
    keep_run,
    read_config,
    shared_fields,
)
from facecycle_jax.training.setup import (
    Loader,
    MakeLoader,
    MakeMethod,
    Probe,
    Report,
    Run,
    prepare,
)
from facecycle_jax.training.sharding import (
    check_batch,
    describe,
    put_batch,
    state_shardings,
)
from facecycle_jax.training.state import TrainState, init_state
from facecycle_jax.training.step import StepOptions, make_eval_step, make_train_step
from facecycle_jax.training.stopping import (
    DIVERGED_EXIT,
    PEER_LOST_EXIT,
    PREEMPTED_EXIT,
    STORAGE_EXIT,
    DivergedError,
    PreemptedError,
    StopSignal,
    StorageError,
)
from facecycle_jax.training.unreadable_report import report_unreadable
from facecycle_jax.training.workdir_lock import locked

__all__ = [
    "DIVERGED_EXIT",
    "PEER_LOST_EXIT",
    "PREEMPTED_EXIT",
    "STORAGE_EXIT",
    "Averages",
    "Checkpointer",
    "DivergedError",
    "Goodput",
    "Loader",
    "MakeLoader",
    "MakeMethod",
    "MetricWriter",
    "OnMetrics",
    "PreemptedError",
    "Probe",
    "Profiler",
    "Program",
    "Progress",
    "Report",
    "Run",
    "StepOptions",
    "StopSignal",
    "StorageError",
    "TrainState",
    "average_weights",
    "batch_sharding",
    "build_program",
    "check_batch",
    "check_config",
    "check_ranges",
    "check_same",
    "copy_trees",
    "cpu_devices_for",
    "describe",
    "find_checkpoint",
    "flatten",
    "hide_accelerators_from_tensorflow",
    "init_paths",
    "init_state",
    "keep_run",
    "load_trees",
    "locked",
    "make_eval_step",
    "make_mesh",
    "make_optimiser",
    "make_schedule",
    "make_train_step",
    "prepare",
    "put_batch",
    "read_config",
    "read_metrics",
    "replicated",
    "report_unreadable",
    "schedule_epoch",
    "shared_fields",
    "split_cpu",
    "state_shardings",
    "training_seconds",
]
