"""The training program.

  python -m facecycle_jax.main --config=configs/motion_cycle.py --workdir=DIR

docs/multi_process.md lists the exit statuses.
"""

import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from facecycle_jax import compilation_cache, config_files, training
from facecycle_jax.devices import check_platforms, split_cpu
from facecycle_jax.errors import DEFECT_EXIT, MISTAKE_EXIT, UserError
from facecycle_jax.evaluation import (
    check_probe,
    probe_while_training,
    report_on_synthetic_faces,
)
from facecycle_jax.files import is_of_storage
from facecycle_jax.training import loop, processes

INTERRUPTED_EXIT = 130
# Time for the writes of a failed checkpoint that are still in progress; nothing tells
# when they have ended.
_LAST_WRITES_S = 0.5

# How XLA's errors begin where a device has too little memory.
_NO_MEMORY = "RESOURCE_EXHAUSTED"

# Files that are missing, or that are in the place of a folder. The cause is a wrong
# path in the command.
_WRONG_PLACE = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config of configs/, by path or name.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    os.environ.get("FACECYCLE_DISTRIBUTED", "") not in ("", "0"),
    "One of several processes: calls jax.distributed.initialize, which finds the "
    "others by the cluster's environment (TPU pod, SLURM, GKE) or "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. "
    "FACECYCLE_DISTRIBUTED=1 does the same.",
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout",
    60,
    "Seconds without a sign of life after which a process counts as lost.",
)
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 300, "Seconds to wait for the others to start."
)
_START_ANEW = flags.DEFINE_bool(
    "start_anew",
    False,
    "Start from scratch in a workdir of which every checkpoint was set aside as "
    "damaged. A workdir with a sound checkpoint is continued nevertheless.",
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    compilation_cache.default_directory(),
    "Directory in which compiled programs are kept, so that the next start need not "
    f"compile; '' keeps none. {compilation_cache.VARIABLE} does the same.",
)


def _set_up_logging() -> None:
    """Sends the log to stderr, each line with its process if there are several."""
    # First: at the level of information Orbax logs each of its steps, and JAX each
    # missing platform.
    absl_logging.set_verbosity(absl_logging.WARNING)

    prefix = _prefix()
    time_format = "%H:%M:%S"

    # Orbax logs each of its steps at the level INFO.
    of_others = f"{prefix}%(asctime)s %(levelname)s %(name)s: %(message)s"
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter(of_others, time_format)
    )

    # The package's own lines need neither level nor logger.
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter(f"{prefix}%(asctime)s %(message)s", time_format)
    )
    package = logging.getLogger("facecycle_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def _prefix() -> str:
    """Names this process if there are several, else returns ''."""
    # Before the processes have met, JAX must not be asked for their number.
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return ""
    return f"[{jax.process_index()}] "


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags and the config, or ends the process with a sentence.

    Args:
      argv: the command line, with the program's name.

    Returns:
      The arguments that are not flags, with the program's name.

    Raises:
      SystemExit: With status 2 for a mistake in the command or the config, with status
        0 after help was printed.
    """
    return config_files.parse_flags(
        argv,
        _CONFIG,
        example="--config=configs/debug.py --workdir=DIR",
        # An empty workdir would be the current folder.
        missing=lambda: "" if _WORKDIR.value else "workdir",
        fail=lambda mistake: _fail(MISTAKE_EXIT, mistake),
    )


def resolved_config() -> str:
    """Returns the config after the command line, one `field = value` a line."""
    fields = training.flatten(_CONFIG.value.to_dict())
    return "\n".join(f"{name} = {value!r}" for name, value in fields.items())


def main(argv: list[str]) -> int:
    """Runs the training of the flags.

    Args:
      argv: the command line after flags are taken out.

    Returns:
      The exit status.
    """
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: flags begin with --.")
        if _DISTRIBUTED.value:
            processes.join(
                peer_timeout=_PEER_TIMEOUT.value, start_timeout=_START_TIMEOUT.value
            )
        else:
            # Before anything else, because the first use of a device, as by the log,
            # fixes the number of devices.
            split_cpu(_CONFIG.value)
        _set_up_logging()
    except Exception as error:
        return _status(error)

    code = _train()
    if _DISTRIBUTED.value:
        processes.leave(code)
    return code


def _train() -> int:
    """Trains and returns the exit status."""
    try:
        check_platforms()
        compilation_cache.enable(_CACHE.value)
        check_probe(_CONFIG.value)
        loop.train_and_evaluate(
            _CONFIG.value,
            _WORKDIR.value,
            probe=probe_while_training,
            report=report_on_synthetic_faces,
            start_anew=_START_ANEW.value,
        )
    except (Exception, KeyboardInterrupt) as error:
        code = _status(error)
        if code == DEFECT_EXIT and _DISTRIBUTED.value:
            # A lost process may have caused the error. Give the runtime time to find
            # that out before this process leaves the job.
            processes.wait_for_abort(_PEER_TIMEOUT.value + 10)
        return code

    return 0


def _status(error: BaseException) -> int:
    """Reports the error that ends a run, and returns its exit status.

    An error that the user can correct is one sentence. A defect of the program keeps
    its stack trace.
    """
    if isinstance(error, UserError):
        return _fail(MISTAKE_EXIT, error)
    if isinstance(error, training.DivergedError):
        return _fail(training.DIVERGED_EXIT, error)
    if isinstance(error, training.PreemptedError):
        return _fail(training.PREEMPTED_EXIT, error)
    if isinstance(error, training.StorageError):
        return _fail(training.STORAGE_EXIT, _without_cause(error))

    if isinstance(error, KeyboardInterrupt):
        # The training loop says which step it has saved.
        sentence = str(error) or (
            "interrupted; the same command continues from the last checkpoint."
        )
        return _fail(INTERRUPTED_EXIT, KeyboardInterrupt(sentence))
    if isinstance(error, _WRONG_PLACE):
        return _fail(MISTAKE_EXIT, error)
    if is_of_storage(error):
        # A save in progress may have failed for the same reason.
        error = _without_cause(error)
        sentence = (
            f"a file cannot be read or written ({' '.join(str(error).split())}). "
            "Checkpoints are intact; make room or repair the storage, then the same "
            "command continues."
        )
        return _fail(training.STORAGE_EXIT, OSError(sentence))

    if isinstance(error, jax.errors.JaxRuntimeError) and _NO_MEMORY in str(error):
        # The first line names the bytes; a table of buffers may follow.
        reason = str(error).partition("\n")[0]
        sentence = (
            f"the memory of a device is too small ({reason}). Lower batch_size, raise "
            "optimiser.accumulate, or set remat=True; `python -m launch.compile_check` "
            "computes what fits (docs/compile_check.md)."
        )
        return _fail(MISTAKE_EXIT, UserError(sentence))

    several = " or of a lost process" if _DISTRIBUTED.value else ""
    print(
        f"{_prefix()}facecycle_jax: a defect of the program{several}:", file=sys.stderr
    )
    traceback.print_exception(error)
    return DEFECT_EXIT


def _without_cause(error: BaseException) -> BaseException:
    """Frees what led to an error, so that its sentence comes last.

    Orbax leaves its other failed writes unawaited. Those in progress print a stack
    trace each when they end, and asyncio logs the others when they are freed: now
    instead of at some time after the sentence.
    """
    if os.environ.get("FACECYCLE_TRACEBACK"):
        return error

    error.__cause__ = None
    error.__context__ = None
    error.__traceback__ = None
    gc.collect()
    time.sleep(_LAST_WRITES_S)
    return error


def _fail(code: int, error: BaseException) -> int:
    """Prints one line; FACECYCLE_TRACEBACK=1 adds the stack trace."""
    if os.environ.get("FACECYCLE_TRACEBACK"):
        traceback.print_exc()
    print(f"{_prefix()}facecycle_jax: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
