"""Several processes as one job: how they meet, agree, and end when one is lost.

JAX's runtime sends heartbeats between the processes. When one of them hangs, dies or
cannot be reached, the runtime aborts the others. This module turns that abort into one
sentence and an exit code.
"""

import collections
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from facecycle_jax.errors import UserError
from facecycle_jax.training.stopping import (
    DIVERGED_EXIT,
    PEER_LOST_EXIT,
    PREEMPTED_EXIT,
)

log = logging.getLogger(__name__)

# Exit codes that all processes reach at the same step.
_TOGETHER = (0, DIVERGED_EXIT, PREEMPTED_EXIT)
# Differences that one sentence lists.
_MAX_DIFFERENCES = 4
# Process 0 runs the service that the others talk to, so it leaves last.
_LINGER_SECONDS = 5.0

# The sentence and exit code of this process if the runtime aborts it.
_sentence = ""
_abort_code = PEER_LOST_EXIT
# A reference to the handler, without which the C function behind it would be freed.
_handler: object = None


def join(*, peer_timeout: int = 60, start_timeout: int = 300) -> None:
    """Makes this process one of a job, and bounds how long it outlives the others.

    It finds the others by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
    or, without these, by the cluster's environment (TPU pod, SLURM, GKE).

    Args:
      peer_timeout: seconds without a sign of life after which a process counts as lost.
      start_timeout: seconds to wait for the others to start.

    Raises:
      UserError: If a time is too short, or the environment does not name the processes
        correctly.
    """
    if peer_timeout < 2 or start_timeout < 2:
        raise UserError(
            f"--peer_timeout is {peer_timeout} and --start_timeout {start_timeout}: "
            "both must be at least 2."
        )

    address, count, index = _job_of_environment()
    at = f" at {address}" if address else ""
    _exit_on_abort(
        f"the processes of the job did not meet within {start_timeout} s{at}. Look at "
        "the logs of those that did not start, then start all of them again."
    )
    try:
        jax.distributed.initialize(
            address if count is not None else None,
            count,
            index,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=peer_timeout,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(
            f"cannot join the other processes ({reason}): set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start "
            "under a cluster that JAX knows (TPU pod, SLURM, GKE)."
        ) from error

    _exit_on_abort(
        f"{name()} stops: another process of the job has died or has not answered for "
        f"{peer_timeout} s, see the runtime's message above and the logs of the "
        "others. The checkpoints are intact; start all processes again to continue "
        "from the last one."
    )


def _job_of_environment() -> tuple[str | None, int | None, int | None]:
    """Reads address, number of processes and index from JAX's variables.

    The numbers are None unless all three variables are set.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = os.environ.get("JAX_NUM_PROCESSES")
    index = os.environ.get("JAX_PROCESS_ID")
    if not (address and count and index):
        return address, None, None

    if not (count.isdecimal() and index.isdecimal()):
        raise UserError(
            f"JAX_NUM_PROCESSES {count!r} and JAX_PROCESS_ID {index!r} must be whole "
            "numbers."
        )
    return address, int(count), int(index)


def leave(code: int) -> None:
    """Ends this process's part in the job.

    If all processes end at the same step, this waits for the others. Otherwise the
    process ends at once, because an orderly shutdown would wait for processes that are
    stuck in the middle of a step. They notice the missing heartbeats.

    Args:
      code: the exit code.

    Returns:
      Only if all processes have ended together.
    """
    if code in _TOGETHER:
        jax.distributed.shutdown()
        return

    # This process has reported why it ends. If the runtime aborts it meanwhile, it
    # reports nothing more.
    global _abort_code, _sentence
    _abort_code = code
    _sentence = ""
    if jax.process_index() == 0:
        time.sleep(_LINGER_SECONDS)
    exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Ends the process without telling the others and without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def name() -> str:
    """Names this process, e.g. 'process 0 of 2 (host-a)'."""
    host = socket.gethostname()
    return f"process {jax.process_index()} of {jax.process_count()} ({host})"


def host_names() -> list[str]:
    """Collects the host name of every process, in the order of processes."""
    if jax.process_count() == 1:
        return [socket.gethostname()]
    return _gather(socket.gethostname())


def agree(value: int) -> int:
    """Returns process 0's value in all processes, which all have to call this.

    Args:
      value: int32; process 0's is used.

    Returns:
      The value of process 0.
    """
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_same(facts: Mapping[str, str]) -> None:
    """Compares what must be equal in all processes, which all have to call this.

    Processes that differ would train different weights, or wait for each other forever.

    Args:
      facts: values, or digests of them, by readable names.

    Raises:
      UserError: In all processes if any two differ, naming one process and in what it
        differs.
    """
    if jax.process_count() == 1:
        return

    own = {"host": socket.gethostname(), "facts": dict(facts)}
    everyone = [json.loads(text) for text in _gather(json.dumps(own))]

    hosts = [one["host"] for one in everyone]
    difference = first_difference([one["facts"] for one in everyone])
    if difference is None:
        return
    odd, reference, names = difference

    there = everyone[odd]["facts"]
    here = everyone[reference]["facts"]
    listed = [
        f"{name} ({there.get(name, 'nothing')}, not {here.get(name, 'nothing')})"
        for name in names[:_MAX_DIFFERENCES]
    ]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    raise UserError(
        f"process {odd} ({hosts[odd]}) differs from process {reference} "
        f"({hosts[reference]}) in {', '.join(listed)}{more}. Give all processes the "
        "same command, data and weights, then start all of them again."
    )


def first_difference(
    facts: Sequence[Mapping[str, str]],
) -> tuple[int, int, list[str]] | None:
    """Finds the first process that differs from most of the others.

    Args:
      facts: values by name, of each process.

    Returns:
      The index of the process that differs, the index of one that is as most are, and
      the names of what differs; None if all are equal.
    """
    texts = [json.dumps(dict(one), sort_keys=True) for one in facts]

    # Of two that are equally common, the one of the lower process counts.
    common = collections.Counter(texts).most_common(1)[0][0]
    reference = texts.index(common)
    here = facts[reference]

    for process, text in enumerate(texts):
        if text == common:
            continue
        there = facts[process]
        names = [
            name for name in {**here, **there} if here.get(name) != there.get(name)
        ]
        return process, reference, names

    return None


def _gather(text: str) -> list[str]:
    """Collects a text of every process, in the order of processes."""
    content = np.frombuffer(text.encode(), np.uint8)
    gathered = multihost_utils.process_allgather(np.int32(content.size))
    sizes = np.asarray(gathered).reshape(-1)

    # Arrays of one size are gathered: [processes, longest].
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)

    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def wait_for_all(point: str) -> None:
    """Waits until all processes have reached a point of the program.

    Args:
      point: name of the point, for error messages.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def _exit_on_abort(sentence: str) -> None:
    """Turns an abort of JAX's runtime into a sentence and an exit code.

    The runtime aborts on a thread of its own. Python's signal handlers never run there,
    because they wait for the main thread. A C function that C's `signal` has registered
    does.
    """
    global _handler, _sentence
    _sentence = sentence
    if _handler is not None or os.name != "posix":
        return

    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    c_signal = ctypes.CDLL(None).signal
    c_signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    c_signal.restype = ctypes.c_void_p
    c_signal(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))


def _on_abort(number: int) -> None:
    """Ends the process with the sentence and the code recorded for an abort."""
    del number
    if _sentence:
        os.write(2, f"facecycle_jax: {_sentence}\n".encode())
    os._exit(_abort_code)


def wait_for_abort(seconds: float) -> None:
    """Gives the runtime time to find out whether a lost process caused an error.

    If a process is lost, the runtime aborts this one, and the wait does not return.

    Args:
      seconds: time to wait.
    """
    time.sleep(seconds)
