"""A SLURM cluster of one machine, in a directory.

The programs slurmctld and slurmd come from the distribution's packages.
"""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time

from several import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "sinfo")

# Without cgroups, munge or accounting, which a machine for tests may not have.
CONFIG = """
ClusterName=facecycle
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={control}
SlurmdPort={daemon}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=120
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Says why there can be no cluster here, or ''."""
    lacking = [name for name in PROGRAMS if program(name) is None]
    if lacking:
        packages = "slurmctld slurmd slurm-client"
        return f"{', '.join(lacking)} not installed (Debian: {packages})"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


def program(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    def __init__(self, root, env):
        self.root, self.env = root, env

    def run(self, *command):
        result = subprocess.run(
            [program(command[0]) or command[0], *command[1:]],
            env=self.env, cwd=self.root, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def state(self, job):
        fields = dict(
            f.split("=", 1)
            for f in self.run("scontrol", "show", "job", job).split()
            if "=" in f
        )
        return fields["JobState"], int(fields["Restarts"]), fields["ExitCode"]


@contextlib.contextmanager
def cluster(root: pathlib.Path, *, cpus=4):
    """Starts the cluster; yields it; stops it and every job's processes."""
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    config = root / "slurm.conf"
    config.write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            control=free_port(),
            daemon=free_port(),
            root=root,
            cpus=cpus,
        )
    )
    env = {**os.environ, "SLURM_CONF": str(config)}
    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (root / f"{name}.out").open("w") as out:
                daemons.append(
                    subprocess.Popen(
                        [program(name), "-D"],
                        env=env,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )
        here = Cluster(root, env)
        wait_for(
            lambda: "idle" in here.run("sinfo", "--noheader", "--format=%T"),
            seconds=120,
        )
        yield here
        here.run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(60)


def wait_for(condition, *, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except AssertionError:
            # The controller may not answer yet.
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(1)
