"""Starts several processes of one job on this machine, meeting on a loopback port."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
TOY = str(ROOT / "tests" / "helpers" / "toy_training.py")


class Ended(NamedTuple):
    returncode: int
    stderr: str


def environment(**given):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    return {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **given}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(count, *command, present=None, **given):
    """Runs `python *command` count times as one job.

    `present` lists those that are started at all.
    """
    address = f"127.0.0.1:{free_port()}"
    running = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count) if present is None else present:
            job = {
                "FACECYCLE_DISTRIBUTED": "1", "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index),
            }  # fmt: skip
            # A file: a full pipe would stop a process that nobody reads from yet.
            log = open(pathlib.Path(folder) / f"{index}", "w+")  # noqa: SIM115
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment(**job, **given),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
            running.append((process, log))
        ended = []
        try:
            for process, log in running:
                process.wait(timeout=400)
                log.seek(0)
                ended.append(Ended(process.returncode, log.read()))
        finally:
            for process, log in running:
                process.kill()
                process.wait()
                log.close()
    return ended


def codes(ended):
    return [process.returncode for process in ended]
