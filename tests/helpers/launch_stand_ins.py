"""Runs the launchers with stand-ins for the commands of clouds and clusters."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FLAGS = [
    "--config=configs/debug.py",
    "--workdir=gs://bucket/run",
    "--config.data.path=/data/my faces",
]

# What Google says when a zone is out of machines.
NO_CAPACITY = "ERROR: RESOURCE_EXHAUSTED: There is no more capacity in the zone"


def launch(*arguments, path="", cwd=ROOT, without=(), **env):
    """Runs launch/run.sh.

    Args:
      *arguments: of run.sh.
      path: a folder of stand-ins, which go before the real commands.
      cwd: the caller's folder.
      without: environment variables to remove.
      **env: environment variables to set.

    Returns:
      The completed process, its output as text.
    """
    environment = {
        **os.environ,
        "PYTHON": "python3",
        "JAX_COMPILATION_CACHE_DIR": "/cache",
        "PATH": f"{path}:{os.environ['PATH']}",
        **env,
    }
    for name in without:
        environment.pop(name, None)
    return subprocess.run(
        [LAUNCH / "run.sh", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def stand_in(folder, name, script):
    """Writes an executable bash script."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


class Cloud:
    """A Google Cloud with at most one machine, whose answers are planned.

    Args:
      folder: for the stand-ins of gcloud, git and sleep.
      hosts: how many the machine has.
      there: whether a machine of another person has the name already.
      **answers: lists of answers to `create` (an error or None), `scp` (an exit
        status) and `train` (see `session`), used one after the other. When a list
        is used up, everything goes well.
    """

    def __init__(self, folder, *, hosts=1, there=False, **answers):
        self.folder = folder
        self._state = folder / "cloud.json"
        plan = {
            "calls": [],
            "hosts": hosts,
            "state": "",
            "label": "",
            "checkpoints": [],
        }
        if there:
            plan.update(state="READY", label="somebody-else")
        self._state.write_text(json.dumps({**plan, **answers}))

        program = pathlib.Path(__file__).parent / "stand_in_gcloud.py"
        words = shlex.join([sys.executable, "-I", "-S", str(program), str(self._state)])
        stand_in(folder, "gcloud", f'exec {words} "$@"')
        stand_in(folder, "git", "true")
        stand_in(folder, "sleep", f'echo "$1" >> {shlex.quote(str(folder))}/pauses')

    def train(self, *options, **keywords):
        """Runs `launch/run.sh tpu`."""
        return launch("tpu", *options, *FLAGS, path=self.folder, **keywords)

    @property
    def calls(self):
        """The verbs gcloud was called with, e.g. 'create', but for `describe`."""
        calls = json.loads(self._state.read_text())["calls"]
        return [call for call in calls if call not in ("describe", "storage")]

    @property
    def commands(self):
        """The words of every call of gcloud."""
        return json.loads(self._state.read_text())["commands"]

    @property
    def is_there(self):
        """Whether there is a machine now, which costs money."""
        return bool(json.loads(self._state.read_text())["state"])

    @property
    def pauses(self):
        """The seconds of every pause of the launcher."""
        path = self.folder / "pauses"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def session(*statuses, contacts=None, checkpoint=None, state="READY"):
    """Plans a session in which the hosts are asked to train.

    Args:
      *statuses: exit statuses of the hosts that say how the training ended.
      contacts: how many hosts answer at all; else all.
      checkpoint: a step that is saved meanwhile.
      state: of the machine afterwards.

    Returns:
      An answer for `Cloud`.
    """
    return {
        "statuses": statuses,
        "contacts": contacts,
        "checkpoint": checkpoint,
        "state": state,
    }
