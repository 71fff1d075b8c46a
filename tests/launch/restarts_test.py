"""When a launcher starts again: the rules that all launchers share."""

import shlex
import subprocess

import pytest
from launch_stand_ins import LAUNCH, stand_in


def bash(line, *, path="/usr/bin:/bin"):
    """Runs a line of bash that may use the functions of launch/restarts.sh."""
    script = f"set -euo pipefail; source {LAUNCH}/restarts.sh; {line}"
    result = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_only_lost_preempted_and_signalled_processes_are_started_again():
    again = bash("for i in {0..255}; do if can_restart $i; then echo $i; fi; done")
    expected = [69, 75, 129, *range(131, 193)]
    assert [int(status) for status in again] == expected
    (listed,) = ["".join(bash("restart_statuses"))]
    assert [int(status) for status in listed.split(",")] == expected


@pytest.mark.parametrize(
    ("processes", "statuses", "job"),
    [
        (2, "0 0", 0),
        (3, "69 2 69", 2),
        (3, "75 70 75", 70),
        (2, "134 74", 74),
        (2, "3 3", 3),
        (3, "69 2", 2),
        (2, "74 2", 2),
        (2, "69 75", 75),
        (2, "0 139", 139),
        (3, "69 130 75", 130),
        (2, "0", 69),
        (2, "", 69),
        (2, "75", 75),
    ],
)
def test_a_mistake_of_one_process_goes_before_all_others(processes, statuses, job):
    assert bash(f"worst_status {processes} {statuses}") == [str(job)]


def test_statuses_are_read_once_for_each_process(tmp_path):
    output = tmp_path / "output"
    output.write_text(
        "noise EXIT_STATUS=9\n"
        "2: FACECYCLE_EXIT of=task2 status=69\n"
        "FACECYCLE_EXIT of=task10 status=2\n"
        "2: FACECYCLE_EXIT of=task2 status=69\n"
        "0: FACECYCLE_EXIT of=task0 status=69\r\n"
    )
    assert sorted(bash(f"reported_statuses {output}")) == ["2", "69", "69"]


def progress(workdir, **keywords):
    line = f"checkpoint_progress {shlex.quote(str(workdir))}"
    return [int(number) for number in bash(line, **keywords)]


def test_progress_grows_with_every_checkpoint_of_every_stage(tmp_path):
    seen = progress(tmp_path / "none")
    for folder in (
        "checkpoints/0",
        "checkpoints/200",
        "two/checkpoints/0",
        "two/checkpoints/9",
    ):
        (tmp_path / "my run" / folder).mkdir(parents=True)
        seen += progress(tmp_path / "my run")
    assert len(set(seen)) == 5
    assert seen == sorted(seen)


def test_progress_is_seen_through_links(tmp_path):
    (tmp_path / "scratch/checkpoints/7").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "scratch")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "scratch/checkpoints")
    wanted = progress(tmp_path / "scratch")
    assert wanted
    assert progress(tmp_path / "linked") == wanted
    assert progress(tmp_path / "run") == wanted


def test_what_is_no_finished_checkpoint_is_no_progress(tmp_path):
    (tmp_path / "checkpoints" / "200").mkdir(parents=True)
    before = progress(tmp_path)
    for folder in (
        "checkpoints/100",
        "checkpoints/300.tmp-1",
        "checkpoints_unreadable/400",
    ):
        (tmp_path / folder).mkdir(parents=True)
    assert progress(tmp_path) == before


def gcloud(folder, listing, error):
    stand_in(folder, "gcloud", f'printf "{listing}"; echo "{error}" >&2; exit 1')
    return f"{folder}:/usr/bin:/bin"


def test_progress_in_a_bucket(tmp_path):
    none = "ERROR: One or more URLs matched no objects."
    path = gcloud(tmp_path, "", none)
    empty = progress("gs://bucket/run", path=path)
    path = gcloud(tmp_path, "gs://bucket/run/checkpoints/7/\\n", none)
    assert progress("gs://bucket/run/", path=path) > empty


def test_a_bucket_that_cannot_be_listed_does_not_count_against_a_training(tmp_path):
    path = gcloud(tmp_path, "", "ERROR: HTTPError 403")
    assert progress("gs://bucket/run", path=path) == []
    assert bash("if reached_checkpoint '' 5; then echo yes; fi") == ["yes"]
    assert bash("if ! reached_checkpoint 5 5; then echo no; fi") == ["no"]
