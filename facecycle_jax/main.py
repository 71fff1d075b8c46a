"""Trains: python -m facecycle_jax.main --config=configs/motion_cycle.py --workdir=DIR.

Exit codes: 0 done; 2 a mistake in the command, configuration or data; 3 the loss stayed not finite;
75 stopped by SIGTERM with the state saved: start the same command again; 130 interrupted.
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
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    compilation_cache.default_directory(),
    "Directory in which compiled programs are kept, so that the next start need not compile; '' keeps none. "
    f"{compilation_cache.VARIABLE} does the same.",
)


def _initialize_distributed() -> None:
    """Joins the other processes."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    if address and count and index:
        jax.distributed.initialize(address, int(count), int(index))
    else:
        jax.distributed.initialize()


def _set_up_logging() -> None:
    """Sends the package's log to stderr, each line with its process."""
    handler = logging.StreamHandler()
    process = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"{process}%(asctime)s %(message)s", "%H:%M:%S"))
    # Orbax tells each of its steps at the level of information.
    absl_logging.set_verbosity(absl_logging.WARNING)
    package = logging.getLogger("facecycle_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


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
            _initialize_distributed()
        _set_up_logging()
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
    return 0


def _fail(code: int, error: Exception) -> int:
    """Prints one line instead of a stack trace; FACECYCLE_TRACEBACK=1 brings that back."""
    if os.environ.get("FACECYCLE_TRACEBACK"):
        logging.getLogger("facecycle_jax").exception("exit code %d", code)
    print(f"facecycle_jax: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
