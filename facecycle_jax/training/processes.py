"""Several processes as one job.

How they meet, and how all of them end when one is lost.

JAX's runtime sends heartbeats between the processes. When one falls silent, dies or
cannot be reached, it aborts the others; that abort is turned into one sentence and an
exit code here.
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

# Ends that all processes come to at the same step.
_TOGETHER = (0, DIVERGED_EXIT, PREEMPTED_EXIT)
# A sentence stays readable.
_MAX_DIFFERENCES = 4
# Process 0 carries the service the others talk to: it leaves last.
_LINGER_SECONDS = 5.0
_HOST_BYTES = 64
_sentence = ""
# What an abort of the runtime ends this process with.
_abort_code = PEER_LOST_EXIT
# A reference, or the C function behind it would be freed.
_handler: object = None


def join(*, peer_timeout: int = 60, start_timeout: int = 300) -> None:
    """Makes this process one of a job, and bounds how long it outlives the others.

    The others are found by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID or, without these, by the cluster's environment (TPU pod, SLURM,
    GKE).

    Args:
      peer_timeout: seconds without a sign of life after which a process counts as lost.
      start_timeout: seconds to wait for the others to start.

    Raises:
      ValueError: if a time is too short, or the environment does not name the processes
        rightly.
    """
    if peer_timeout < 2 or start_timeout < 2:
        raise UserError(
            f"--peer_timeout is {peer_timeout} and --start_timeout {start_timeout}: both must be at least 2."
        )
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    named: tuple[str | None, int | None, int | None] = (None, None, None)
    if address and count and index:
        if not (count.isdecimal() and index.isdecimal()):
            raise UserError(
                f"JAX_NUM_PROCESSES {count!r} and JAX_PROCESS_ID {index!r} must be whole numbers."
            )
        named = (address, int(count), int(index))
    _exit_on_abort(
        f"the processes of the job did not meet within {start_timeout} s"
        + (f" at {address}" if address else "")
        + ". Look at the logs of those that did not start, then start all of them again."
    )
    try:
        jax.distributed.initialize(
            *named,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=peer_timeout,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(
            f"cannot join the other processes ({reason}): set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID, or start under a cluster that JAX knows (TPU pod, SLURM, GKE)."
        ) from error
    _exit_on_abort(
        f"{name()} stops: another process of the job has died or has not answered for {peer_timeout} s, "
        "see the runtime's message above and the logs of the others. The checkpoints are intact; start "
        "all processes again to continue from the last one."
    )


def leave(code: int) -> None:
    """Ends this process's part in the job.

    An end that all processes come to together waits for them. Any other ends the
    process at once: a goodbye would wait for processes that are stuck in the middle of
    a step. They notice its silence.

    Args:
      code: the exit code.

    Returns:
      Only if all processes have ended together.
    """
    if code in _TOGETHER:
        jax.distributed.shutdown()
        return
    # This process has said why it ends: the others' silence, found meanwhile, is no
    # news.
    global _abort_code, _sentence
    _abort_code = code
    _sentence = ""
    if jax.process_index() == 0:
        time.sleep(_LINGER_SECONDS)
    exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Ends the process without a word to the others and without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def name() -> str:
    """Names this process, e.g. 'process 0 of 2 (host-a)'."""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def host_names() -> list[str]:
    """Collects the host name of every process, in the order of processes."""
    if jax.process_count() == 1:
        return [socket.gethostname()]
    mine = np.zeros(_HOST_BYTES, np.uint8)
    encoded = socket.gethostname().encode()[:_HOST_BYTES]
    mine[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine)).astype(np.uint8)
    return [bytes(row[row > 0]).decode(errors="replace") for row in everyone]


def agree(value: int) -> int:
    """Returns process 0's value to all processes, which all have to call this.

    Args:
      value: at least -2^31 and below 2^31; that of other processes does not matter.

    Returns:
      Process 0's.
    """
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_same(facts: Mapping[str, str]) -> None:
    """Compares what must be equal in all processes, which all have to call this.

    Processes that differ would train different weights, or wait for each other forever.

    Args:
      facts: values, or digests of them, by names for people to read.

    Raises:
      ValueError: in all processes, naming one that differs and in what.
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
    told = [
        f"{name} ({there.get(name, 'nothing')}, not {here.get(name, 'nothing')})"
        for name in names[:_MAX_DIFFERENCES]
    ]
    more = f" and {len(names) - len(told)} more" if len(names) > len(told) else ""
    raise UserError(
        f"process {odd} ({hosts[odd]}) differs from process {reference} ({hosts[reference]}) in "
        f"{', '.join(told)}{more}. Give all processes the same command, data and weights, then start all of "
        "them again."
    )


def first_difference(
    facts: Sequence[Mapping[str, str]],
) -> tuple[int, int, list[str]] | None:
    """Finds the first process that differs from most of the others.

    Args:
      facts: of each process.

    Returns:
      The process that differs, one that is as most are, and the names of what differs;
      None if all are equal.
    """
    texts = [json.dumps(dict(one), sort_keys=True) for one in facts]
    # Of two equally common ones, the one seen first: that of the lower process.
    common = collections.Counter(texts).most_common(1)[0][0]
    reference = texts.index(common)

    for process, text in enumerate(texts):
        if text != common:
            here, there = facts[reference], facts[process]
            names = [
                name for name in {**here, **there} if here.get(name) != there.get(name)
            ]
            return process, reference, names
    return None


def _gather(text: str) -> list[str]:
    """Collects a text of every process, in the order of processes."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(
        multihost_utils.process_allgather(np.int32(content.size))
    ).reshape(-1)

    # Arrays of one size are gathered: [processes, longest].
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)

    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def wait_for_all(point: str) -> None:
    """Waits until all processes have come to a point of the program, named for error messages."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def _exit_on_abort(sentence: str) -> None:
    """Answers an abort of JAX's runtime by a sentence and an exit code.

    The runtime aborts on a thread of its own, where Python's own signal handlers, which
    wait for the main thread, never run; the C function below runs on that thread.
    """
    global _handler, _sentence
    _sentence = sentence
    if _handler is not None or os.name != "posix":
        return
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    function = ctypes.CDLL(None).signal
    function.argtypes, function.restype = (
        [ctypes.c_int, ctypes.c_void_p],
        ctypes.c_void_p,
    )
    function(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))


def _on_abort(number: int) -> None:
    del number
    if _sentence:
        os.write(2, f"facecycle_jax: {_sentence}\n".encode())
    os._exit(_abort_code)


def wait_for_abort(seconds: float) -> None:
    """Waits, after an error that a lost process may have caused, for the runtime to find that out.

    Args:
      seconds: how long; it returns only if no process is lost.
    """
    time.sleep(seconds)
