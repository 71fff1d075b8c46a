"""The TPU launcher against a stand-in for gcloud."""

import json
import os
import re
import shlex
import signal
import subprocess
import time

import pytest
from launch_stand_ins import (
    FLAGS,
    LAUNCH,
    NO_CAPACITY,
    Cloud,
    launch,
    session,
    stand_in,
)


def intercept(cloud, script):
    """Puts a script before the stand-in for gcloud, which is `$answers` in it."""
    answers = cloud.folder / "answers"
    (cloud.folder / "gcloud").rename(answers)
    folder = shlex.quote(str(cloud.folder))
    stand_in(
        cloud.folder,
        "gcloud",
        f'answers={folder}/answers\nfolder={folder}\n{script}\nexec "$answers" "$@"',
    )


def start(cloud, *options):
    """Starts the launcher in a session of its own, as a terminal does."""
    with open(cloud.folder / "stderr", "w") as stderr:
        return subprocess.Popen(
            [LAUNCH / "run.sh", "tpu", *options, *FLAGS],
            cwd=LAUNCH.parent,
            env={"PATH": f"{cloud.folder}:/usr/bin:/bin", "HOME": str(cloud.folder)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_machine_is_made_set_up_used_and_deleted(tmp_path):
    cloud = Cloud(tmp_path, hosts=2)
    result = cloud.train()
    assert result.returncode == 0, result.stderr
    assert cloud.calls == ["create", "scp", "ssh", "scp", "train", "delete"]
    assert cloud.pauses == []


def test_a_machine_that_was_there_before_is_never_deleted(tmp_path):
    cloud = Cloud(tmp_path, there=True)
    result = cloud.train()
    assert result.returncode == 2
    assert "there is a machine 'facecycle' in us-central1-a already" in result.stderr
    assert cloud.calls == []
    assert cloud.is_there


def test_a_machine_that_appears_before_ours_is_made_is_not_deleted(tmp_path):
    cloud = Cloud(tmp_path)
    # `describe` knows no machine yet, and `create` finds that of somebody else.
    plan = json.loads((tmp_path / "cloud.json").read_text())
    (tmp_path / "cloud.json").write_text(json.dumps({**plan, "appears": True}))
    result = cloud.train()
    assert result.returncode == 2
    assert "ALREADY_EXISTS" in result.stdout + result.stderr
    assert cloud.calls == ["create"]
    assert cloud.is_there


def test_a_machine_that_gcloud_did_not_wait_for_is_deleted(tmp_path):
    cloud = Cloud(tmp_path, create=["TIMEOUT: DEADLINE_EXCEEDED"])
    assert cloud.train().returncode == 0
    assert cloud.calls[:3] == ["create", "delete", "create"]
    assert not cloud.is_there


def test_the_machine_is_deleted_when_the_launcher_is_stopped(tmp_path):
    cloud = Cloud(tmp_path, train=[session(contacts=0)] * 1000)
    (tmp_path / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.5\n")
    process = start(cloud)
    wait_for(lambda: "train" in cloud.calls)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert cloud.calls[-1] == "delete"
    assert not cloud.is_there


def test_nothing_interrupts_the_deletion(tmp_path):
    """Signals to all programs of the terminal, as Ctrl-C sends them."""
    cloud = Cloud(tmp_path)
    intercept(
        cloud,
        """
case "$*" in
  *"tpu_host.sh train"*) touch "$folder/training"; exec /bin/sleep 30 ;;
  *" delete "*)
    # As gcloud, which handles the signal even if the launcher ignores it.
    python3 - "$folder/deleting" << 'END' || exit 130
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
pathlib.Path(sys.argv[1]).touch()
time.sleep(1)
END
    ;;
esac""",
    )
    process = start(cloud)
    wait_for((tmp_path / "training").exists)
    os.killpg(process.pid, signal.SIGTERM)
    wait_for((tmp_path / "deleting").exists)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(process.pid, number)
    assert process.wait(30) != 0
    assert cloud.calls[-1] == "delete"
    assert not cloud.is_there
    assert "deleting the machine 'facecycle'" in (tmp_path / "stderr").read_text()


# A `create` during which the launcher is stopped. gcloud is a script that starts a
# program, so to stop the script alone stops nothing.
INTERRUPTED_CREATE = {
    "before it was asked for": """
      (touch "$folder/creating"; /bin/sleep 1; "$answers" "$@"); exit""",
    "while it is made": """
      "$answers" "$@"; touch "$folder/creating"; /bin/sleep 30; exit""",
    "although gcloud goes on": """
      trap '' TERM; touch "$folder/creating"; /bin/sleep 1; "$answers" "$@"; exit""",
}


@pytest.mark.parametrize("create", INTERRUPTED_CREATE.values(), ids=INTERRUPTED_CREATE)
def test_no_machine_is_left_when_the_launcher_is_stopped_during_create(
    tmp_path, create
):
    cloud = Cloud(tmp_path)
    intercept(cloud, f'if [[ "$4" == create ]]; then {create}; fi')
    process = start(cloud)
    wait_for((tmp_path / "creating").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    # Time for a `create` that was left behind.
    time.sleep(1.5)
    assert not cloud.is_there
    assert cloud.calls in ([], ["create", "delete"])


def test_a_machine_that_google_shows_late_is_deleted(tmp_path):
    cloud = Cloud(tmp_path)
    intercept(
        cloud,
        """
case "$4" in
  create) "$answers" "$@"; touch "$folder/creating"; /bin/sleep 30; exit ;;
  describe)
    if [[ -e "$folder/creating" && ! -e "$folder/looked" ]]; then
      touch "$folder/looked"
      echo "ERROR: NOT_FOUND" >&2
      exit 1
    fi ;;
esac""",
    )
    process = start(cloud)
    wait_for((tmp_path / "creating").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert (tmp_path / "looked").exists()
    assert not cloud.is_there


@pytest.mark.parametrize("answers", [False, True])
def test_a_machine_of_which_nothing_is_known_is_not_forgotten(tmp_path, answers):
    """gcloud makes it, reports an error, and then does not answer for some time."""
    cloud = Cloud(tmp_path, create=["TIMEOUT: something else"])
    intercept(
        cloud,
        f"""
if [[ "$4" == describe && -e "$folder/created" ]]; then
  echo >> "$folder/looks"
  if [[ {int(answers)} == 0 || "$(wc -l < "$folder/looks")" -lt 4 ]]; then
    echo "ERROR: (gcloud) There was a problem refreshing your tokens." >&2
    exit 1
  fi
fi
[[ "$4" != create ]] || touch "$folder/created"
""",
    )
    result = cloud.train("--project=my project", "--zone=z")
    assert result.returncode == 2
    assert "There was a problem refreshing your tokens." in result.stderr
    command = (
        "gcloud compute tpus tpu-vm delete facecycle --zone=z "
        "--project=my\\ project --quiet"
    )
    assert f"until you run: {command}\n" in result.stderr
    assert cloud.is_there != answers
    assert cloud.calls.count("delete") == answers


def test_the_command_that_deletes_several_slices_is_complete(tmp_path):
    cloud = Cloud(tmp_path, train=[session(2)])
    intercept(cloud, '[[ "$4" != delete ]] || exit 1')
    result = cloud.train("--slices=2", "--name=mine")
    assert result.returncode == 2
    command = (
        "gcloud compute tpus queued-resources delete mine --zone=us-central1-a "
        "--quiet --force"
    )
    assert result.stderr.count(f"IT MAY COST MONEY until you run: {command}\n") == 6


def test_a_machine_that_is_gone_already_is_not_deleted(tmp_path):
    cloud = Cloud(tmp_path, train=[session(2, state="")])
    result = cloud.train()
    assert result.returncode == 2
    assert "delete" not in cloud.calls
    assert "COST MONEY" not in result.stderr


AGENT = """
[[ "$1" == -l ]] || exit 99
echo "{keys}"
exit {status}"""


@pytest.mark.parametrize(
    ("keys", "status", "warned"),
    [
        ("The agent has no identities.", 1, True),
        ("256 SHA256:other me (ED25519)", 0, True),
        ("256 SHA256:mine me (RSA)", 0, False),
        ("Could not open a connection to your authentication agent.", 2, False),
    ],
)
def test_an_ssh_agent_without_the_key_is_warned_of(tmp_path, keys, status, warned):
    cloud = Cloud(tmp_path)
    stand_in(tmp_path, "ssh-add", AGENT.format(keys=keys, status=status))
    stand_in(tmp_path, "ssh-keygen", 'echo "3072 SHA256:mine me (RSA)"')
    result = cloud.train()
    assert result.returncode == 0
    sentence = "add it with: ssh-add"
    assert result.stderr.count(sentence) == warned


@pytest.mark.parametrize("status", [1, 2, 74])
def test_what_would_come_again_is_final(tmp_path, status):
    cloud = Cloud(tmp_path, train=[session(status)])
    assert cloud.train().returncode == status
    assert cloud.calls.count("create") == 1
    assert not cloud.is_there


@pytest.mark.parametrize("status", [69, 134])
def test_what_may_go_well_next_time_is_started_again(tmp_path, status):
    cloud = Cloud(tmp_path, train=[session(status)])
    assert cloud.train().returncode == 0
    assert cloud.calls.count("create") == 2
    assert not cloud.is_there


def test_one_host_s_mistake_wins_over_the_others_69(tmp_path):
    cloud = Cloud(tmp_path, hosts=3, train=[session(69, 2, 69)])
    assert cloud.train().returncode == 2
    assert cloud.calls.count("create") == 1


def test_one_host_s_mistake_is_enough_while_the_others_are_silent(tmp_path):
    cloud = Cloud(tmp_path, hosts=3, train=[session(2)])
    assert cloud.train().returncode == 2
    assert cloud.calls.count("create") == 1


def test_a_machine_that_is_taken_away_is_made_again(tmp_path):
    lost = session(contacts=0, state="PREEMPTED")
    cloud = Cloud(tmp_path, hosts=2, train=[session(75, 75, checkpoint=100), lost])
    assert cloud.train().returncode == 0
    assert cloud.calls.count("create") == 3
    assert cloud.calls.count("delete") == 3


def test_restarts_are_counted(tmp_path):
    cloud = Cloud(tmp_path, train=[session(75, checkpoint=step) for step in range(9)])
    assert cloud.train("--restarts=2").returncode == 75
    assert cloud.calls.count("create") == 3
    assert not cloud.is_there


def test_three_restarts_without_a_new_checkpoint_are_the_last(tmp_path):
    cloud = Cloud(tmp_path, train=[session(69)] * 30)
    result = cloud.train()
    assert result.returncode == 69
    assert "3 restarts in a row reached no new checkpoint" in result.stderr
    assert cloud.calls.count("create") == 4


def test_a_new_checkpoint_allows_three_more_restarts(tmp_path):
    fruitless = session(69)
    progress = session(69, checkpoint=100)
    sessions = [fruitless, fruitless, progress, fruitless, fruitless, fruitless]
    cloud = Cloud(tmp_path, train=[*sessions, session(0)])
    assert cloud.train().returncode == 69
    assert cloud.calls.count("create") == 6


def test_a_dropped_session_is_not_a_lost_machine(tmp_path):
    cloud = Cloud(tmp_path, hosts=2, train=[session(), session(0)])
    result = cloud.train()
    assert result.returncode == 0, result.stderr
    assert "connecting again" in result.stderr
    assert cloud.calls.count("create") == 1
    assert cloud.calls.count("train") == 3


def test_hosts_that_stay_silent_are_lost_in_the_end(tmp_path):
    cloud = Cloud(tmp_path, hosts=2, train=[session(69, contacts=1)] * 5)
    assert cloud.train().returncode == 0
    assert cloud.calls.count("train") == 6
    assert cloud.calls.count("create") == 2


def test_lack_of_capacity_is_waited_out_with_growing_pauses(tmp_path):
    cloud = Cloud(tmp_path, create=[NO_CAPACITY] * 7)
    assert cloud.train().returncode == 0
    assert cloud.pauses == [30, 60, 120, 240, 480, 600, 600]
    assert not cloud.is_there


def test_attempts_without_capacity_count_as_starts(tmp_path):
    cloud = Cloud(tmp_path, create=[NO_CAPACITY] * 30)
    assert cloud.train("--restarts=3").returncode == 69
    assert cloud.calls == ["create"] * 4


def test_a_create_that_is_mistaken_is_not_repeated(tmp_path):
    cloud = Cloud(tmp_path, create=["ERROR: PERMISSION_DENIED: no such zone"])
    assert cloud.train().returncode == 2
    assert cloud.calls == ["create"]


def test_any_error_of_create_is_waited_out_once_the_command_has_proved_right(tmp_path):
    cloud = Cloud(tmp_path, create=[None, "ERROR: something else"], train=[session(75)])
    assert cloud.train().returncode == 0
    assert cloud.calls.count("create") == 3


def test_hosts_that_do_not_take_ssh_yet_are_waited_for(tmp_path):
    cloud = Cloud(tmp_path, scp=[255, 255])
    assert cloud.train().returncode == 0
    assert cloud.calls.count("create") == 1
    assert cloud.pauses == [30, 60]


def test_hosts_that_never_take_ssh_are_given_up(tmp_path):
    cloud = Cloud(tmp_path, scp=[255] * 30)
    assert cloud.train().returncode == 69
    assert cloud.calls.count("scp") == 5
    assert not cloud.is_there


def test_the_configuration_is_that_of_the_caller_s_folder(tmp_path):
    cloud = Cloud(tmp_path)
    (tmp_path / "my.py").write_text("mine")
    flags = ["--config=my.py:big", "--workdir=gs://bucket/run"]
    result = launch("tpu", "--dry-run", *flags, path=tmp_path, cwd=tmp_path)
    copied = [line for line in result.stdout.splitlines() if line.startswith("cp ")]
    assert len(copied) == 1
    assert copied[0].startswith("cp my.py ")
    (name,) = set(re.findall(r"--config=\.\./(\S+):big", result.stdout))
    assert re.fullmatch(r"facecycle_config_\d+\.py", name)

    # A file that was edited has another name, so hosts see that it is not the same.
    (tmp_path / "my.py").write_text("edited")
    edited = launch("tpu", "--dry-run", *flags, path=tmp_path, cwd=tmp_path)
    assert edited.returncode == 0
    assert name not in edited.stdout

    missing = launch("tpu", "--config=none.py", flags[1], path=tmp_path, cwd=tmp_path)
    assert missing.returncode == 2
    assert "there is no file 'none.py'" in missing.stderr
    assert cloud.calls == []


def test_the_name_of_a_config_is_passed_on(tmp_path):
    Cloud(tmp_path)
    flags = ["--config=motion_cycle", "--workdir=gs://bucket/run"]
    result = launch("tpu", "--dry-run", *flags, path=tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--config=motion_cycle" in result.stdout
    assert "facecycle_config" not in result.stdout


def test_a_dry_run_shows_every_command_and_runs_none(tmp_path):
    cloud = Cloud(tmp_path)
    mounts = ["--mount=gs://faces/frames/small:/frames", "--mount=gs://weights:/vgg"]
    result = cloud.train("--type=v6e-16", "--spot", *mounts, "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("gcloud")]
    verbs = [line.split()[4] for line in lines]
    steps = ["describe", "create", "scp", "ssh", "ssh", "ssh", "scp", "ssh", "delete"]
    assert verbs == steps
    assert "--version=v2-alpha-tpuv6e" in lines[1]
    assert "--spot" in lines[1]
    assert "mount\\ faces\\ frames/small\\ /frames" in lines[4]
    assert "mount\\ weights\\ \\'\\'\\ /vgg" in lines[5]
    assert cloud.calls == []


def test_files_for_the_hosts_lie_in_a_new_private_folder(tmp_path):
    first, second = (Cloud(tmp_path).train("--dry-run").stdout for _ in range(2))
    folder = first.splitlines()[0].split()[-1]
    assert first.startswith("mkdir -m 700 ")
    assert f"--output={folder}/facecycle_jax.tar.gz" in first
    assert folder not in second


def test_buckets_are_mounted_again_after_a_preemption(tmp_path):
    cloud = Cloud(tmp_path, train=[session(75, checkpoint=1)])
    assert cloud.train("--mount=gs://faces:/frames").returncode == 0
    once = ["create", "scp", "ssh", "ssh", "scp", "train", "delete"]
    assert cloud.calls == once * 2


def test_several_slices_are_a_queued_resource_that_is_waited_for(tmp_path):
    queue = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    # Two slices of two hosts each, of which only two answer at first. Each slice has a
    # session of its own, but here one of them has the answers of both.
    nothing = session(contacts=0)
    sessions = [session(0, 0), nothing, session(0, 0, 0, 0, contacts=4), nothing]
    cloud = Cloud(tmp_path, hosts=2, queue=queue, train=sessions)
    result = cloud.train("--slices=2", "--spot")
    assert result.returncode == 0, result.stderr
    assert cloud.pauses[:2] == [30, 30]
    assert not cloud.is_there

    commands = [command for command in cloud.commands if command[0] == "compute"]
    (create,) = (command for command in commands if command[3] == "create")
    assert {
        "queued-resources",
        "--node-count=2",
        "--node-prefix=facecycle",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    } <= set(create)
    for command in commands:
        if "tpu_host.sh train" in command[-1]:
            assert command[2:4] == ["tpu-vm", "ssh"]
            assert "--worker=all" in command
        elif command[3] in ("ssh", "scp"):
            assert {"queued-resources", "--node=all", "--worker=all"} <= set(command)
    trained = [c[4] for c in commands if "tpu_host.sh train" in c[-1]]
    assert sorted(trained) == ["facecycle-0"] * 2 + ["facecycle-1"] * 2
    (delete,) = (command for command in commands if command[3] == "delete")
    assert "--force" in delete


def test_all_slices_train_at_the_same_time(tmp_path):
    """Although a session lasts as long as the training."""
    cloud = Cloud(tmp_path)
    intercept(
        cloud,
        """
if [[ "$*" == *"tpu_host.sh train"* ]]; then
  touch "$folder/$5"
  for ((i = 0; i < 200; i++)); do
    [[ ! -e "$folder/facecycle-0" || ! -e "$folder/facecycle-2" ]] || break
    /bin/sleep 0.1
  done
  echo "FACECYCLE_CONTACT of=$5"
  echo "FACECYCLE_EXIT of=$5 status=$((i < 200 ? 0 : 1))"
  exit
fi""",
    )
    assert cloud.train("--slices=3").returncode == 0


def test_a_login_that_expires_while_waiting_is_reported(tmp_path):
    cloud = Cloud(tmp_path, queue=["ACTIVE"])
    intercept(
        cloud,
        """
if [[ "$*" == *"value(state.state)"* && -e "$folder/created" ]]; then
  if [[ ! -e "$folder/asked" ]]; then
    touch "$folder/asked"
    printf "WARNING: old\\nERROR: Reauthentication failed.\\nPlease run: x\\n" >&2
    exit 1
  fi
fi
[[ "$4" != create ]] || touch "$folder/created"
""",
    )
    result = cloud.train("--slices=2", "--restarts=1")
    assert "Google does not answer: ERROR: Reauthentication failed.\n" in result.stderr
    assert "gcloud auth login" in result.stderr


def test_hosts_are_counted_again_if_google_did_not_answer(tmp_path):
    """One host of two must not be taken for all."""
    sessions = [session(0, contacts=1), session(0, 0)]
    cloud = Cloud(tmp_path, hosts=2, train=sessions)
    intercept(
        cloud,
        """
if [[ "$*" == *networkEndpoints* && ! -e "$folder/counted" ]]; then
  touch "$folder/counted"
  exit 1
fi""",
    )
    result = cloud.train()
    assert result.returncode == 0, result.stderr
    assert cloud.calls.count("train") == 2


def test_a_queued_resource_that_fails_is_deleted_and_queued_again(tmp_path):
    cloud = Cloud(tmp_path, queue=["FAILED", "ACTIVE"], train=[session(0, 0)])
    intercept(
        cloud,
        'if [[ "$*" == *"yaml(state)" ]]; then echo "message: no quota left"; exit; fi',
    )
    result = cloud.train("--slices=2")
    assert result.returncode == 0, result.stderr
    assert "is FAILED" in result.stderr
    assert "message: no quota left" in result.stderr
    assert cloud.calls[:3] == ["create", "delete", "create"]
    assert not cloud.is_there
