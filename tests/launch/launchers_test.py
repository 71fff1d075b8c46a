"""The launchers: their dry runs, and real runs with stand-ins for clouds' commands."""

import ast
import json
import os
import pwd
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml
from launch_stand_ins import FLAGS, LAUNCH, ROOT, launch, stand_in

SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
# Read by the others, not run.
SOURCED = ("common.sh", "restarts.sh")


def dry(*arguments, **env):
    result = launch(*arguments[:1], "--dry-run", *arguments[1:], *FLAGS, **env)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def training_flags(line):
    """The words of a shell line from the module's name on."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return words[words.index("facecycle_jax.main") + 1 :]


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed"
)
def test_shellcheck_has_nothing_to_say():
    result = subprocess.run(
        ["shellcheck", "--external-sources", *SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(LAUNCH)))
def test_every_script_can_be_parsed_and_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.name in SOURCED or os.access(script, os.X_OK)


@pytest.mark.parametrize(
    "place", ["local", "multiprocess", "gpu", "slurm", "tpu", "gke"]
)
def test_help_says_how_to_call_it(place):
    result = launch(place, "--help")
    assert result.returncode == 0
    assert "--config=FILE" in result.stdout
    assert "--workdir=" in result.stdout
    assert "#" not in result.stdout


def test_local_passes_the_flags_on_and_keeps_compiled_programs():
    (line,) = dry("local")
    assert training_flags(line) == FLAGS
    assert "JAX_COMPILATION_CACHE_DIR=/cache" in line


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
@pytest.mark.parametrize(
    ("env", "preloaded"),
    [
        ({"FACECYCLE_ALLOCATOR": "libm.so.6"}, "LD_PRELOAD=libm.so.6 "),
        ({"FACECYCLE_ALLOCATOR": ""}, ""),
        ({"FACECYCLE_ALLOCATOR": "libm.so.6", "LD_PRELOAD": "libdl.so.2"}, ""),
    ],
)
def test_local_changes_the_allocator_as_the_environment_says(env, preloaded):
    (line,) = dry("local", **{"LD_PRELOAD": "", **env})
    assert training_flags(line) == FLAGS
    assert line.count("LD_PRELOAD=") == bool(preloaded)
    assert preloaded in line


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_local_does_without_an_allocator_only_if_none_was_named():
    missing = launch(
        "local", "--dry-run", *FLAGS, LD_PRELOAD="", FACECYCLE_ALLOCATOR="libnone.so.1"
    )
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "FACECYCLE_ALLOCATOR=libnone.so.1 cannot be loaded" in missing.stderr
    assert dry("local", LD_PRELOAD="")


def test_gpus_are_chosen():
    (line,) = dry("gpu", "--gpus=0,2")
    assert training_flags(line) == FLAGS
    assert "CUDA_VISIBLE_DEVICES=0\\,2" in line


def test_processes_differ_in_their_number_and_log_only():
    _, *lines = dry(
        "multiprocess", "--processes=3", "--devices=2", "--port=1234", "--logs=/logs"
    )
    assert len(lines) == 3
    for i, line in enumerate(lines):
        assert f"JAX_PROCESS_ID={i} " in line
        assert line.endswith(f"> /logs/process-{i}.log 2>&1 &")
        same = line.replace(f"JAX_PROCESS_ID={i}", "").replace(f"process-{i}", "")
        assert same == lines[0].replace("JAX_PROCESS_ID=0", "").replace("process-0", "")


def test_slurm_starts_a_process_for_each_gpu():
    settings, line = dry(
        "slurm", "--nodes=2", "--gpus-per-node=4", "--sbatch=--constraint=a100"
    )
    assert r"JAX_PLATFORMS=cuda\,cpu" in settings
    for option in (
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--constraint=a100",
    ):
        assert f" {option} " in line
    assert line.endswith(
        "train.sbatch --config=configs/debug.py --workdir=gs://bucket/run "
        "--config.data.path=/data/my\\ faces"
    )


def test_slurm_s_platform_follows_from_the_gpus():
    settings, _ = dry("slurm", JAX_PLATFORMS="cpu")
    assert r"JAX_PLATFORMS=cuda\,cpu" in settings
    settings, _ = dry("slurm", "--gpus-per-node=0", JAX_PLATFORMS="cuda")
    assert "JAX_PLATFORMS=cpu" in settings


def flags_of_the_training():
    """Yields the names of main.py's flags, and whether they are boolean."""
    tree = ast.parse((ROOT / "facecycle_jax" / "main.py").read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        if ".DEFINE_" in function:
            yield node.args[0].value, "bool" in function


def test_every_flag_of_the_training_is_passed_on():
    flags = dict(flags_of_the_training())
    assert {"config", "workdir", "peer_timeout"} <= set(flags)
    more = []
    for name, is_boolean in flags.items():
        if is_boolean:
            more += [f"--{name}", f"--no{name}", f"--{name}=true"]
        elif name not in ("config", "workdir"):
            more.append(f"--{name}=1")
    more += ["--config.fsdp", "--noconfig.fsdp", "--config.num_steps=1"]
    (line,) = dry("local", *more)
    assert training_flags(line) == [*more, *FLAGS]


@pytest.mark.parametrize(
    ("place", "argument", "sentence"),
    [
        ("tpu", "--spot=true", "--spot takes no value, got '--spot=true'"),
        ("gke", "--dry-run=1", "--dry-run takes no value, got '--dry-run=1'"),
        ("tpu", "--zone", "--zone needs a value: --zone=VALUE"),
        ("slurm", "--sbatch", "--sbatch needs a value: --sbatch=VALUE"),
        ("local", "--config", "--config needs a value: --config=VALUE"),
        ("local", "--peer_timeout", "--peer_timeout needs a value"),
        ("gke", "--topolgy=v5e:4x4", "unknown argument '--topolgy=v5e:4x4'"),
        ("gpu", "--spot", "unknown argument '--spot'"),
        ("multiprocess", "configs/debug.py", "unknown argument 'configs/debug.py'"),
        ("slurm", "--wrokdir=a", "unknown argument '--wrokdir=a'"),
        ("local", "--config.", "unknown argument '--config.'"),
    ],
)
def test_a_mistyped_option_is_no_flag_of_the_training(place, argument, sentence):
    result = launch(place, argument, "--dry-run", *FLAGS)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "place", ["local", "multiprocess", "gpu", "slurm", "tpu", "gke"]
)
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--config=", "--workdir=w"], "--config= is empty"),
        (["--config=c", "--workdir="], "--workdir= is empty"),
        (["--config=c", "--workdir=gs://"], "--workdir must be gs://BUCKET/DIR"),
        (["--config=c", "--workdir=gs:///run"], "--workdir must be gs://BUCKET/DIR"),
        (["--config=c", "--config.x=a --workdir=w"], "--workdir=DIR is missing"),
    ],
)
def test_an_empty_value_is_a_mistake(place, flags, sentence):
    result = launch(place, "--dry-run", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["local", "gpu", "multiprocess"])
def test_paths_are_those_of_the_caller_s_folder(place, tmp_path):
    """A program that stands for Python says where it is and what it is to do."""
    stand_in(tmp_path, "nvidia-smi", "true")
    stand_in(
        tmp_path,
        "seeing",
        '[[ "$1" != -c ]] || { echo 1234; exit; }; echo "$PWD|$PYTHONPATH|$*" >> seen',
    )
    (tmp_path / "my.py").touch()
    env = {"PYTHON": "./seeing", "PYTHONPATH": "mine"}
    flags = ["--config=my.py", "--workdir=out"]
    result = launch(place, *flags, path=tmp_path, cwd=tmp_path, **env)
    assert result.returncode == 0, result.stderr
    command = "-P -m facecycle_jax.main --config=my.py --workdir=out"
    expected = f"{tmp_path}|{ROOT}:mine|{command}"
    assert set((tmp_path / "seen").read_text().splitlines()) == {expected}
    assert (tmp_path / "out").exists() == (place == "multiprocess")


def pasted(line, cwd):
    """Runs a line of a dry run; returns its output."""
    command = ["bash", "-c", line]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_sigterm_to_the_launcher_reaches_the_training(tmp_path):
    python = tmp_path / "training"
    stand_in(
        tmp_path,
        "training",
        "trap 'exit 75' TERM; echo started; while true; do sleep 0.1; done",
    )
    process = subprocess.Popen(
        [LAUNCH / "run.sh", "local", *FLAGS],
        env={**os.environ, "PYTHON": str(python)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 75


def test_a_dry_run_prints_a_line_that_does_the_same(tmp_path):
    stand_in(
        tmp_path, "seeing", 'echo "$PWD|$PYTHONPATH|$JAX_COMPILATION_CACHE_DIR|$*"'
    )
    (tmp_path / "my.py").touch()
    arguments = ["--config=my.py:a b", "--workdir=my out", "--config.x=$HOME;'"]
    python = str(tmp_path / "seeing")
    line = launch("local", "--dry-run", *arguments, cwd=tmp_path, PYTHON=python).stdout
    real = launch("local", *arguments, cwd=tmp_path, PYTHON=python).stdout
    assert pasted(line, tmp_path) == real != ""


def test_a_configuration_of_the_repository_is_imported_from_anywhere(tmp_path):
    """What lies in the caller's folder under the package's name is not."""
    (tmp_path / "facecycle_jax").mkdir()
    (tmp_path / "facecycle_jax" / "__init__.py").write_text("raise SystemExit(1)")
    python = sys.executable
    flags = [f"--config={ROOT}/configs/debug.py", "--workdir=out"]
    line = launch("local", "--dry-run", *flags, cwd=tmp_path, PYTHON=python).stdout
    start = line.split(" -m facecycle_jax.main ")[0]
    where = "-c 'import configs, facecycle_jax; print(facecycle_jax.__file__)'"
    found = pasted(f"{start} {where}", tmp_path)
    assert found.strip() == str(ROOT / "facecycle_jax" / "__init__.py")


def test_a_mistake_of_one_process_is_the_end_of_all(tmp_path):
    stand_in(
        tmp_path,
        "ending",
        'case "$JAX_PROCESS_ID" in 1) exit 2 ;; 2) exit 75 ;; *) exit 69 ;; esac',
    )
    options = ["--processes=3", "--port=1234"]
    flags = ["--config=configs/debug.py", f"--workdir={tmp_path}/run"]
    result = launch("multiprocess", *options, *flags, PYTHON=str(tmp_path / "ending"))
    assert result.returncode == 2


def test_no_home_is_needed():
    names = ("HOME", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    result = launch("local", "--dry-run", *FLAGS, without=names)
    assert result.returncode == 0, result.stderr
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert f"JAX_COMPILATION_CACHE_DIR={home}/.cache/" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "unknown place 'nowhere'"),
        (["local", "--workdir=w"], "--config=FILE is missing"),
        (["local", "--config=no.py", "--workdir=w"], "there is no file 'no.py' in"),
        (["slurm", "--config=no.py:a", "--workdir=w"], "there is no file 'no.py' in"),
        (
            ["multiprocess", "--processes=0", *FLAGS],
            "--processes must be a whole number above 0, got '0'",
        ),
        (["multiprocess", *FLAGS], "--logs=DIR is needed"),
        (["gpu", "--gpus=all", *FLAGS], "--gpus must be numbers"),
        (
            ["slurm", "--nodes=two", *FLAGS],
            "--nodes must be a whole number above 0, got 'two'",
        ),
        (["tpu", "--type=h100", *FLAGS], "unknown --type 'h100'"),
        (["tpu", "--config=c", "--workdir=here"], "--workdir must be gs://"),
        (["tpu", "--slices=0", *FLAGS], "--slices must be a whole number above 0"),
        (
            ["gke", "--image=i", "--slices=two", *FLAGS],
            "--slices must be a whole number above 0, got 'two'",
        ),
        (
            ["tpu", "--mount=gs://data", *FLAGS],
            "--mount must be gs://BUCKET[/PREFIX]:/DIR",
        ),
        (
            ["tpu", "--mount=gs://data:frames", *FLAGS],
            "--mount must be gs://BUCKET[/PREFIX]:/DIR",
        ),
        (["gke", *FLAGS], "--image=IMAGE is missing"),
        (
            ["gke", "--image=i", "--topology=v5e:4", *FLAGS],
            "--topology must be e.g. v4:2x2x2",
        ),
        (
            ["gke", "--image=i", "--topology=v5e:2x8", *FLAGS],
            "--topology must be e.g. v4:2x2x2",
        ),
        (["gke", "--image=i", "--topology=v4:1x1x2", *FLAGS], "not whole hosts of 4"),
        (
            [
                "gke",
                "--image=i",
                "--topology=v6e:4x4",
                "--machine=ct6e-standard-8t",
                *FLAGS,
            ],
            "--machine for v6e:4x4 must be one of: ct6e-standard-4t",
        ),
        (["gke", "--image=i", "--mount=/data:/data", *FLAGS], "--mount must be gs://"),
        (
            ["gke", "--image=i", "--mount=gs://one:/d", "--mount=gs://two:/d/", *FLAGS],
            "two --mount have the directory /d",
        ),
        (
            ["tpu", "--mount=gs://one:/d", "--mount=gs://one/frames:/d", *FLAGS],
            "two --mount have the directory /d",
        ),
        (["gke", "--image=i", "--name=7", *FLAGS], "begin with a letter, got '7'"),
        (
            ["multiprocess", "--port=65536", "--logs=l", *FLAGS],
            "from 1 to 65535, got '65536'",
        ),
        (["gpu", "--memory=0.0", *FLAGS], "--memory must be above 0 and below 1"),
        (["gpu", "--gpus=0,1,0", *FLAGS], "--gpus must name each GPU once"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    result = launch(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def manifest(*options):
    result = launch(
        "gke",
        "--dry-run",
        "--image=repo/image:1",
        *options,
        *FLAGS,
        '--config.x="a\\b"',
    )
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def test_the_manifest_is_a_jobset():
    schema = json.loads((ROOT / "tests/golden/jobset_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    document = manifest("--topology=v5e:16x16")
    jsonschema.validate(document, schema)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 64
    container = job["template"]["spec"]["containers"][0]
    assert container["args"] == [*FLAGS, '--config.x="a\\b"']
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # What a schema cannot say: the rule names a container that is there.
    assert (
        job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
        == container["name"]
    )


def test_the_jobset_starts_again_after_the_same_statuses_as_the_other_launchers():
    job = manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert codes["operator"] == "NotIn"
    values = " ".join(str(value) for value in codes["values"])
    script = (
        f"source launch/restarts.sh; for i in {values}; do can_restart $i || exit; done"
    )
    subprocess.run(["bash", "-c", script], cwd=ROOT, check=True)
    assert {69, 75, 134, 137, 139, 143} <= set(codes["values"])
    assert not {0, 1, 2, 3, 70, 74, 130} & set(codes["values"])


def test_buckets_are_volumes_of_the_pods():
    mounts = ["--mount=gs://faces/frames/small/:/frames", "--mount=gs://weights:/vgg"]
    document = manifest(*mounts, "--service-account=trainer")
    schema = json.loads((ROOT / "tests/golden/jobset_schema.json").read_text())
    jsonschema.validate(document, schema)
    template = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pod = template["spec"]
    assert pod["serviceAccountName"] == "trainer"

    volumes = {volume["name"]: volume["csi"] for volume in pod["volumes"]}
    mounted = {
        mount["mountPath"]: volumes[mount["name"]]["volumeAttributes"]
        for mount in pod["containers"][0]["volumeMounts"]
    }
    assert mounted == {
        "/frames": {
            "bucketName": "faces",
            "mountOptions": "implicit-dirs,only-dir=frames/small",
        },
        "/vgg": {"bucketName": "weights", "mountOptions": "implicit-dirs"},
    }
    assert {csi["driver"] for csi in volumes.values()} == {"gcsfuse.csi.storage.gke.io"}


def test_names_that_yaml_reads_as_something_else_stay_names():
    document = manifest("--name=on", "--queue=123", "--service-account=true")
    assert document["metadata"]["name"] == "on"
    assert document["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "123"}
    template = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["spec"]["serviceAccountName"] == "true"


def test_a_jobset_that_is_there_already_is_a_mistake(tmp_path):
    error = (
        "Error from server (AlreadyExists): error when creating "
        '"STDIN": jobsets "mine" already exists'
    )
    stand_in(tmp_path, "kubectl", f"echo '{error}' >&2; exit 1")
    result = launch("gke", "--image=i", "--name=mine", *FLAGS, path=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "choose another --name" in result.stderr
    assert result.stderr.endswith("kubectl delete jobset mine\n")
    assert result.stderr.count("\n") == 1


def test_other_errors_of_kubectl_are_shown(tmp_path):
    stand_in(tmp_path, "kubectl", "echo 'error: no configuration' >&2; exit 1")
    result = launch("gke", "--image=i", *FLAGS, path=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: no configuration\n"


def test_kubectl_gets_the_manifest_of_the_dry_run(tmp_path):
    stand_in(
        tmp_path, "kubectl", f'[[ "$*" == "create -f -" ]] && cat > {tmp_path}/applied'
    )
    options = ["--image=i", "--mount=gs://faces:/frames", *FLAGS]
    result = launch("gke", *options, path=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = yaml.safe_load(launch("gke", "--dry-run", *options).stdout)
    assert yaml.safe_load((tmp_path / "applied").read_text()) == expected


@pytest.mark.parametrize(
    ("options", "hosts", "chips", "accelerator", "machine"),
    [
        (["--topology=v4:2x2x4"], 4, 4, "tpu-v4-podslice", None),
        (["--topology=v5p:2x2x1"], 1, 4, "tpu-v5p-slice", None),
        (["--topology=v6e:1x1"], 1, 1, "tpu-v6e-slice", None),
        (["--topology=v5e:2x2"], 1, 4, "tpu-v5-lite-podslice", None),
        (["--topology=v5e:8x16"], 32, 4, "tpu-v5-lite-podslice", None),
        # Hosts of 8 and of 4 chips carry the same labels but for the machine type.
        (["--topology=v5e:2x4"], 1, 8, "tpu-v5-lite-podslice", "ct5lp-hightpu-8t"),
        (["--topology=v6e:2x4"], 1, 8, "tpu-v6e-slice", "ct6e-standard-8t"),
        (
            ["--topology=v6e:2x4", "--machine=ct6e-standard-4t"],
            2,
            4,
            "tpu-v6e-slice",
            "ct6e-standard-4t",
        ),
    ],
)
def test_hosts_follow_from_the_topology(options, hosts, chips, accelerator, machine):
    job = manifest(*options)["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == hosts
    assert pod["containers"][0]["resources"]["requests"] == {"google.com/tpu": chips}
    labels = {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": options[0].split(":")[1],
    }
    if machine:
        labels["node.kubernetes.io/instance-type"] = machine
    assert pod["nodeSelector"] == labels
    assert pod["containers"][0]["env"][0]["value"] == ("1" if hosts > 1 else "0")


def test_each_slice_is_a_job_of_its_own():
    document = manifest("--topology=v5e:4x4", "--slices=3")
    schema = json.loads((ROOT / "tests/golden/jobset_schema.json").read_text())
    jsonschema.validate(document, schema)
    (replicated,) = document["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 3
    job = replicated["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4

    # One host of each of two slices is a job of two processes.
    pod = manifest("--topology=v5e:2x2", "--slices=2")["spec"]["replicatedJobs"][0][
        "template"
    ]["spec"]["template"]["spec"]
    assert pod["containers"][0]["env"][0] == {
        "name": "FACECYCLE_DISTRIBUTED",
        "value": "1",
    }


def test_a_schema_violation_would_be_seen():
    schema = json.loads((ROOT / "tests/golden/jobset_schema.json").read_text())
    document = manifest()
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicies"] = {}
    with pytest.raises(jsonschema.ValidationError, match="podFailurePolicies"):
        jsonschema.validate(document, schema)
