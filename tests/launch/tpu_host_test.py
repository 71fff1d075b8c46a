"""What runs on the hosts of a TPU, with a program that stands for the training."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from launch_stand_ins import LAUNCH, Cloud, stand_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TPU hosts run Linux")

# Notes that it was started, and trains until there is a file `finish` with its status.
TRAINING = """
echo "$$" >> {home}/started
echo "training with $*"
until [[ -e {home}/finish ]]; do sleep 0.1; done
exit "$(cat {home}/finish)"
"""


class Host:
    """A host with the launchers and a stand-in for the training."""

    def __init__(self, home, name="host"):
        self.home = home
        self.name = name
        (home / "facecycle_jax" / ".venv" / "bin").mkdir(parents=True)
        (home / "facecycle_jax" / "launch").symlink_to(LAUNCH)
        (home / "bin").mkdir()
        stand_in(home / "bin", "hostname", f"echo {name}")
        program = TRAINING.format(home=shlex.quote(str(home)))
        stand_in(home / "facecycle_jax" / ".venv" / "bin", "python", program)

        # The script finds the repository by its own place, which must not be the link's
        # end.
        script = home / "facecycle_jax" / "launch" / "tpu_host.sh"
        self.script = str(script)
        self.env = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}

    def session(self, *arguments):
        """Opens a session; its process group is what dies with a dropped one."""
        return subprocess.Popen(
            [self.script, *arguments],
            cwd=self.home,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def train(self, run="run-0", *flags):
        return self.session("train", run, "gs://bucket/cache", *(flags or ["--a=b c"]))

    def finish(self, status):
        (self.home / "finish").write_text(str(status))

    def starts(self):
        """Waits for a training to be started; returns the process of every start."""
        path = self.home / "started"
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return [int(line) for line in path.read_text().split()]


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    host.finish(0)


def output(session):
    text, _ = session.communicate(timeout=20)
    return text


def test_a_session_shows_the_log_and_says_how_the_training_ended(host):
    host.finish(3)
    text = output(host.train())
    assert "FACECYCLE_CONTACT of=host" in text
    assert "training with -m facecycle_jax.main --a=b c" in text
    assert text.endswith("FACECYCLE_EXIT of=host status=3\n")


def test_the_training_survives_a_dropped_session_and_is_found_again(host):
    dropped = host.train()
    (process,) = host.starts()
    os.killpg(dropped.pid, signal.SIGKILL)
    dropped.communicate(timeout=20)
    os.kill(process, 0)

    again = host.train()
    time.sleep(0.3)
    host.finish(75)
    assert output(again).endswith("FACECYCLE_EXIT of=host status=75\n")
    assert host.starts() == [process]


def test_a_training_that_ended_meanwhile_says_how(host):
    host.finish(0)
    output(host.train())
    assert output(host.train()).endswith("FACECYCLE_EXIT of=host status=0\n")
    assert len(host.starts()) == 1


def test_another_run_is_started_anew(host):
    host.finish(0)
    output(host.train("run-0"))
    host.finish(70)
    assert output(host.train("run-1")).endswith("FACECYCLE_EXIT of=host status=70\n")
    assert len(host.starts()) == 2
    assert (host.home / "facecycle_run.before" / "exit_status").read_text() == "0\n"


def test_two_trainings_at_once_are_a_mistake(host):
    first = host.train("run-0", "--a=1")
    host.starts()
    text = output(host.train("run-1", "--a=2"))
    assert "another training runs on this host already, with --a=1" in text
    assert text.endswith("FACECYCLE_EXIT of=host status=2\n")
    host.finish(0)
    assert output(first).endswith("status=0\n")


def test_another_call_of_the_launcher_finds_the_same_training(host):
    first = host.train("run-0")
    host.starts()
    second = host.train("run-1")
    time.sleep(0.3)
    host.finish(0)
    assert output(first).endswith("status=0\n")
    assert output(second).endswith("status=0\n")
    assert len(host.starts()) == 1


def test_a_training_without_a_status_was_killed(host):
    session = host.train()
    host.starts()
    attending = int((host.home / "facecycle_run" / "pid").read_text())
    os.kill(attending, signal.SIGKILL)
    assert output(session).endswith("FACECYCLE_EXIT of=host status=137\n")


def test_sigterm_waits_for_the_training_to_save(host):
    session = host.train()
    host.starts()
    os.kill(int((host.home / "facecycle_run" / "pid").read_text()), signal.SIGTERM)
    time.sleep(0.3)
    host.finish(75)
    assert output(session).endswith("FACECYCLE_EXIT of=host status=75\n")


def test_a_host_that_cannot_start_the_training_gives_no_answer(host):
    """The launcher then asks a limited number of times."""
    stand_in(host.home / "bin", "setsid", "echo no room; exit 1")
    stand_in(host.home / "bin", "sleep", "exec /bin/sleep 0.001")
    session = host.train()
    text = output(session)
    assert "could not be started: no room" in text
    assert "FACECYCLE" not in text
    assert session.returncode == 1


def test_a_bucket_is_mounted_for_reading_once(host):
    for name in ("sudo", "gcsfuse"):
        stand_in(host.home / "bin", name, f'echo "{name} $*"')
    stand_in(host.home / "bin", "mountpoint", "exit 1")
    text = output(host.session("mount", "faces", "frames/small", "/frames"))
    assert "sudo mkdir -p /frames" in text
    assert "gcsfuse --implicit-dirs -o ro --only-dir frames/small faces /frames" in text

    stand_in(host.home / "bin", "mountpoint", "exit 0")
    assert output(host.session("mount", "faces", "frames/small", "/frames")) == ""


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("mount", "faces", "frames/large", "/frames"), "gs://faces/frames/large"),
        (("mount", "weights", "", "/frames"), "gs://weights"),
        (None, "something else"),
    ],
)
def test_a_directory_that_is_in_use_is_refused(host, other, named):
    for name in ("sudo", "gcsfuse"):
        stand_in(host.home / "bin", name, f'echo "{name} $*"')
    if other:
        stand_in(host.home / "bin", "mountpoint", "exit 1")
        output(host.session(*other))

    stand_in(host.home / "bin", "mountpoint", "exit 0")
    refused = host.session("mount", "faces", "frames/small", "/frames")
    sentence = "gs://faces/frames/small cannot be mounted at /frames of host, where"
    assert f"{sentence} {named} is" in output(refused)
    assert refused.returncode == 1


def test_gcsfuse_is_installed_where_it_is_missing(host):
    stand_in(host.home / "bin", "mountpoint", "exit 1")
    stand_in(host.home / "bin", "curl", "echo key")
    stand_in(host.home / "bin", "lsb_release", "echo jammy")
    stand_in(host.home / "bin", "chown", "true")
    # `sudo tee` reads its input; `sudo apt-get install` brings the program.
    stand_in(host.home, "program", 'echo "mounted $*"')
    stand_in(
        host.home / "bin",
        "sudo",
        f"""
case "$*" in
  tee*) cat > /dev/null ;;
  *"install gcsfuse") cp {host.home}/program {host.home}/bin/gcsfuse ;;
esac""",
    )
    text = output(host.session("mount", "faces", "", str(host.home / "frames")))
    assert "mounted" in text


def test_the_launcher_comes_back_after_a_dropped_session(tmp_path):
    """The launcher, a real session that is cut, and the training on two hosts."""
    hosts = []
    for number in range(2):
        home = tmp_path / f"host{number}"
        home.mkdir()
        hosts.append(Host(home, f"host{number}"))
    cloud = Cloud(tmp_path, hosts=2)

    # `ssh` runs on the hosts; the first session of the training is cut after a second,
    # and the training ends while nobody is connected.
    answers = tmp_path / "answers"
    (tmp_path / "gcloud").rename(answers)
    homes = " ".join(shlex.quote(str(host.home)) for host in hosts)
    stand_in(
        tmp_path,
        "gcloud",
        f"""
line="${{*: -1}}"
[[ "$line" == --command=*"tpu_host.sh train"* ]] || exec {answers} "$@"
{answers} "$@" > /dev/null
limit=60
[[ -e {tmp_path}/cut ]] || limit=2
for home in {homes}; do
  (
    cd "$home"
    HOME="$home" PATH="$home/bin:$PATH" timeout "$limit" bash -c "${{line#--command=}}"
  ) &
done
wait
if [[ ! -e {tmp_path}/cut ]]; then
  touch {tmp_path}/cut
  for home in {homes}; do echo 0 > "$home/finish"; done
  exit 255
fi
""",
    )
    stand_in(tmp_path, "sleep", "exec /bin/sleep 0.2")
    result = cloud.train()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "connecting again" in result.stderr
    flags = "-m facecycle_jax.main --config=../facecycle_config_"
    assert f"training with {flags}" in result.stdout
    assert cloud.calls.count("create") == 1
    assert cloud.calls.count("train") == 2
    assert [len(host.starts()) for host in hosts] == [1, 1]
