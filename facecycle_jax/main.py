"""Trains: python -m facecycle_jax.main --config=configs/motion_cycle.py --workdir=DIR.

Exit codes: 0 done; 1 an error of the program, with its stack trace; 2 a mistake in the command,
configuration or data; 3 the loss stayed not finite; 69 another process of the job is lost or never came; 74 a
file cannot be read or written, e.g. because the disk is full; 75 stopped by SIGTERM with the state saved; 130
interrupted. After 69, 74 (with room made), 75 and 130 the same command continues.
"""

import logging
import os
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from facecycle_jax import compilation_cache, train, training
from facecycle_jax.evaluate import check_probe, probe_while_training
from facecycle_jax.training import processes
from facecycle_jax.training.metrics import hide_accelerators_from_tensorflow

_CONFIG = config_flags.DEFINE_config_file("config", None, "A page of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    os.environ.get("FACECYCLE_DISTRIBUTED", "") not in ("", "0"),
    "One of several processes: calls jax.distributed.initialize, which finds the others by the "
    "cluster's environment (TPU pod, SLURM, GKE) or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
    "JAX_PROCESS_ID. FACECYCLE_DISTRIBUTED=1 does the same.",
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout", 60, "Seconds without a sign of life after which a process counts as lost."
)
_START_TIMEOUT = flags.DEFINE_integer("start_timeout", 300, "Seconds to wait for the others to start.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    compilation_cache.default_directory(),
    "Directory in which compiled programs are kept, so that the next start need not compile; '' keeps none. "
    f"{compilation_cache.VARIABLE} does the same.",
)


def _set_up_logging() -> None:
    """Sends the log to stderr, each line with its process where there are several."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{_prefix()}%(asctime)s %(message)s", "%H:%M:%S"))
    # Orbax tells each of its steps at the level of information.
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter(f"{_prefix()}%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    )
    package = logging.getLogger("facecycle_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def _prefix() -> str:
    return f"[{jax.process_index()}] " if jax.process_count() > 1 else ""


def main(argv: list[str]) -> int:
    """Runs the training of the flags.

    Args:
      argv: the command line after flags are taken out.

    Returns:
      The exit code.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}.")
    try:
        if _DISTRIBUTED.value:
            processes.join(peer_timeout=_PEER_TIMEOUT.value, start_timeout=_START_TIMEOUT.value)
        else:
            # First of all: whatever asks JAX for a device, as the log does, settles how many there are.
            training.split_cpu(_CONFIG.value)
    except ValueError as error:
        print(f"facecycle_jax: {error}", file=sys.stderr)
        return 2
    _set_up_logging()
    code = _train()
    if _DISTRIBUTED.value:
        processes.leave(code)
    return code


def _train() -> int:
    """Trains; every foreseen end is one line on stderr and a code."""
    try:
        compilation_cache.enable(_CACHE.value)
        config = _CONFIG.value
        if config.get("tensorboard") or config.get("data", {}).get("backend") == "tf":
            hide_accelerators_from_tensorflow()
        check_probe(config)
        train.train_and_evaluate(config, _WORKDIR.value, probe=probe_while_training)
    except (ValueError, FileNotFoundError) as error:
        return _fail(2, error)
    except training.DivergedError as error:
        return _fail(training.DIVERGED_EXIT, error)
    except training.PreemptedError as error:
        return _fail(training.PREEMPTED_EXIT, error)
    except KeyboardInterrupt:
        print(
            "facecycle_jax: interrupted; the same command continues from the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    except training.StorageError as error:
        return _fail(training.STORAGE_EXIT, error)
    except OSError as error:
        told = f"a file cannot be read or written ({error}). Checkpoints are intact; make room or repair the "
        return _fail(training.STORAGE_EXIT, OSError(f"{told}storage, then the same command continues."))
    except Exception:
        if not _DISTRIBUTED.value:
            raise
        # A process that stayed in the job would keep the others waiting; but first: is it this one's fault?
        logging.getLogger("facecycle_jax").exception("an error of the program, or of a lost process:")
        processes.wait_for_abort(_PEER_TIMEOUT.value + 10)
        return 1
    return 0


def _fail(code: int, error: Exception) -> int:
    """Prints one line instead of a stack trace; FACECYCLE_TRACEBACK=1 brings that back."""
    if os.environ.get("FACECYCLE_TRACEBACK"):
        logging.getLogger("facecycle_jax").exception("exit code %d", code)
    print(f"{_prefix()}facecycle_jax: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
