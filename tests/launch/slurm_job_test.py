"""The SLURM job with stand-ins for srun, scontrol and squeue."""

import os
import subprocess

import pytest
from launch_stand_ins import LAUNCH, ROOT, stand_in

# Starts a task for each line of `ends`; as the real one, it tells the highest status
# only.
SRUN = """
while [[ "$1" == --* ]]; do shift; done
highest=0
task=0
while read -r end; do
  SLURM_PROCID=$task END="$end" "$@" 2>&1 | sed "s/^/$task: /"
  status=${PIPESTATUS[0]}
  ((status <= highest)) || highest=$status
  task=$((task + 1))
done < ends
exit "$highest"
"""

# Saves a checkpoint, if it is to, and ends as it is to.
TRAINING = """
echo "$*" >> trained
[[ -z "$SAVES" ]] || mkdir -p "run/checkpoints/$SAVES"
[[ "$END" != killed ]] || kill -KILL $$
exit "$END"
"""


class Job:
    """A job in a folder of its own, which is started as often as SLURM would."""

    def __init__(self, folder):
        self.folder = folder
        stand_in(folder, "srun", SRUN)
        stand_in(folder, "scontrol", 'echo "$*" >> requeues')
        self.show("RUNNING")
        stand_in(folder, "sleep", "true")
        stand_in(folder, "training", TRAINING)

    def show(self, state):
        """Sets the state that SLURM shows for the job."""
        stand_in(self.folder, "squeue", f'[[ "$*" == *--jobs=7* ]] && echo {state}')

    def start(self, *ends, count=0, saves=""):
        """Starts the job once; returns its exit status and whether it was requeued."""
        (self.folder / "ends").write_text("".join(f"{end}\n" for end in ends))
        before = self.requeues()
        self.result = subprocess.run(
            [LAUNCH / "slurm" / "train.sbatch", "--config=c.py", "--workdir=run"],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "FACECYCLE_ROOT": str(ROOT),
                "FACECYCLE_PYTHON": str(self.folder / "training"),
                "SLURM_JOB_ID": "7",
                "SLURM_NTASKS": str(len(ends)),
                "SLURM_JOB_NODELIST": "node[0-1]",
                "SLURM_RESTART_COUNT": str(count),
                "SAVES": str(saves),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        return self.result.returncode, self.requeues() > before

    def requeues(self):
        path = self.folder / "requeues"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_a_job_that_is_done_ends(job):
    assert job.start(0, 0) == (0, False)
    expected = "-P -m facecycle_jax.main --config=c.py --workdir=run\n"
    assert (job.folder / "trained").read_text() == expected * 2


@pytest.mark.parametrize("ends", [(69, 2, 69), (70, 69), (74, 75), (3, 3), (1,)])
def test_a_mistake_of_one_task_is_final(job, ends):
    mistake = min(end for end in ends if end not in (69, 75))
    assert job.start(*ends) == (mistake, False)


@pytest.mark.parametrize("ends", [(69, 134), (75, 75), ("killed", 69), ("killed",)])
def test_a_lost_or_stopped_task_queues_the_job_again(job, ends):
    status, requeued = job.start(*ends)
    assert requeued
    assert status in (69, 75, 137)


def test_a_task_that_cannot_say_how_it_ended_is_lost(job):
    stand_in(job.folder, "srun", "exit 1")
    assert job.start(0, 0) == (69, True)


def test_three_restarts_without_a_new_checkpoint_are_the_last(job):
    assert [job.start(69, 134, count=n)[1] for n in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    assert job.result.returncode == 69
    assert "3 restarts in a row reached no new checkpoint" in job.result.stdout
    assert not (job.folder / "facecycle-7.restarts").exists()


def test_a_new_checkpoint_allows_three_more_restarts(job):
    saves = ["", "", "", 100, "", "", ""]
    requeued = [job.start(69, count=n, saves=saved)[1] for n, saved in enumerate(saves)]
    assert requeued == [True, True, True, True, True, True, False][: len(saves)]


def test_a_job_at_its_time_limit_goes_on_as_long_as_it_saves(job):
    for number in range(8):
        assert job.start(75, 75, count=number, saves=number) == (75, True)


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_cancelled_job_is_not_queued_again(job, state):
    job.show(state)
    assert job.start(75, 75) == (75, False)
    assert "SLURM is ending the job" in job.result.stdout


def test_a_job_of_which_slurm_says_nothing_is_queued_again(job):
    stand_in(job.folder, "squeue", "echo slurm_load_jobs error >&2; exit 1")
    assert job.start(75, 75) == (75, True)


def test_every_line_of_a_task_is_in_the_log_as_srun_labels_it(job):
    job.start(0, 2)
    assert "1: FACECYCLE_EXIT of=task1 status=2" in job.result.stdout
    assert "the processes ended with 0 2, the job with 2" in job.result.stdout
