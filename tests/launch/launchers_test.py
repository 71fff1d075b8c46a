"""The launchers: what they would do, in words; what they do, with stand-ins for the clouds' commands."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
FLAGS = ["--config=configs/debug.py", "--workdir=gs://bucket/run", "--config.data.path=/data/my faces"]


def launch(*arguments, path="", cwd=ROOT, **env):
    environment = {
        **os.environ, "PYTHON": "python3", "JAX_COMPILATION_CACHE_DIR": "/cache",
        "PATH": f"{path}:{os.environ['PATH']}", **env,
    }  # fmt: skip
    return subprocess.run(
        [LAUNCH / "run.sh", *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )


def dry(*arguments, **env):
    result = launch(*arguments[:1], "--dry-run", *arguments[1:], *FLAGS, **env)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def training_flags(line):
    """The words of a shell line from the module's name on."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return words[words.index("facecycle_jax.main") + 1 :]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    result = subprocess.run(
        ["shellcheck", "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(LAUNCH)))
def test_every_script_can_be_parsed_and_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.name == "common.sh" or os.access(script, os.X_OK)


@pytest.mark.parametrize("place", ["local", "multiprocess", "gpu", "slurm", "tpu", "gke"])
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
def test_local_changes_the_allocator_unless_told_otherwise(env, preloaded):
    (line,) = dry("local", **{"LD_PRELOAD": "", **env})
    assert training_flags(line) == FLAGS
    assert line.count("LD_PRELOAD=") == bool(preloaded)
    assert preloaded in line


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_local_does_without_an_allocator_only_if_none_was_named():
    missing = launch("local", "--dry-run", *FLAGS, LD_PRELOAD="", FACECYCLE_ALLOCATOR="libnone.so.1")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "FACECYCLE_ALLOCATOR=libnone.so.1 cannot be loaded" in missing.stderr
    assert dry("local", LD_PRELOAD="")


def test_gpus_are_chosen():
    (line,) = dry("gpu", "--gpus=0,2")
    assert training_flags(line) == FLAGS
    assert "CUDA_VISIBLE_DEVICES=0\\,2" in line


def test_processes_differ_in_their_number_and_log_only():
    _, *lines = dry("multiprocess", "--processes=3", "--devices=2", "--port=1234", "--logs=/logs")
    assert len(lines) == 3
    for i, line in enumerate(lines):
        assert f"JAX_PROCESS_ID={i} " in line
        assert line.endswith(f"> /logs/process-{i}.log 2>&1 &")
        same = line.replace(f"JAX_PROCESS_ID={i}", "").replace(f"process-{i}", "")
        assert same == lines[0].replace("JAX_PROCESS_ID=0", "").replace("process-0", "")


def test_slurm_starts_a_process_for_each_gpu():
    settings, line = dry("slurm", "--nodes=2", "--gpus-per-node=4", "--sbatch=--constraint=a100")
    assert "JAX_PLATFORMS=cuda" in settings
    for option in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--constraint=a100"):
        assert f" {option} " in line
    assert line.endswith("train.sbatch --config=configs/debug.py --workdir=gs://bucket/run "
                         "--config.data.path=/data/my\\ faces")  # fmt: skip


def test_tpu_makes_installs_trains_and_deletes():
    lines = dry("tpu", "--type=v6e-16", "--spot")
    verbs = [line.split()[4] for line in lines if line.startswith("gcloud")]
    assert verbs == ["create", "scp", "ssh", "ssh", "delete"]
    assert "--version=v2-alpha-tpuv6e --spot" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "unknown place 'nowhere'"),
        (["local", "--workdir=w"], "--config=FILE is missing"),
        (["multiprocess", "--processes=0", *FLAGS], "--processes must be a whole number above 0, got '0'"),
        (["multiprocess", *FLAGS], "--logs=DIR is needed"),
        (["gpu", "--gpus=all", *FLAGS], "--gpus must be numbers"),
        (["slurm", "--nodes=two", *FLAGS], "--nodes must be a whole number above 0, got 'two'"),
        (["tpu", "--type=h100", *FLAGS], "unknown --type 'h100'"),
        (["tpu", "--config=c", "--workdir=here"], "--workdir must be gs://"),
        (["gke", *FLAGS], "--image=IMAGE is missing"),
        (["gke", "--image=i", "--topology=v5e:4", *FLAGS], "--topology must be e.g. v5e:4x4"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    result = launch(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def stand_in(folder, name, script):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("ends", "machines", "code"),
    [(["75", "", "0"], 3, 0), (["2"], 1, 2), (["3"], 1, 3), (["75", "75", "75"], 3, 75)],
)
def test_a_tpu_that_is_taken_away_is_made_again(tmp_path, ends, machines, code):
    """gcloud stands for hosts that end as listed; '' is a host lost before it can tell."""
    (tmp_path / "ends").write_text("\n".join(ends) + "\n")
    stand_in(tmp_path, "git", "true")
    stand_in(
        tmp_path, "gcloud",
        f'cd {tmp_path}; echo "$4" >> calls\n'
        'if [[ "$*" == *facecycle_jax.main* ]]; then\n'
        "  end=$(head -n 1 ends); sed -i 1d ends\n"
        '  [[ -n "$end" ]] || exit 1\n'
        '  echo "EXIT_STATUS=0"; echo "EXIT_STATUS=$end"\n'
        "fi",
    )  # fmt: skip
    result = launch("tpu", "--restarts=2", *FLAGS, path=tmp_path)
    assert result.returncode == code, result.stderr
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("create") == machines
    assert calls[-1] == "delete"


def manifest(*options):
    result = launch("gke", "--dry-run", "--image=repo/image:1", *options, *FLAGS, '--config.x="a\\b"')
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def test_the_manifest_is_a_jobset():
    schema = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    document = manifest("--topology=v5e:16x16")
    jsonschema.validate(document, schema)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 64
    container = job["template"]["spec"]["containers"][0]
    assert container["args"] == [*FLAGS, '--config.x="a\\b"']
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # What a schema cannot say: the rule names a container that is there.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]


@pytest.mark.parametrize(
    ("topology", "hosts", "chips", "accelerator"),
    [
        ("v4:2x2x4", 4, 4, "tpu-v4-podslice"),
        ("v5p:2x2x1", 1, 4, "tpu-v5p-slice"),
        ("v6e:1x1", 1, 1, "tpu-v6e-slice"),
    ],
)
def test_hosts_follow_from_the_topology(topology, hosts, chips, accelerator):
    job = manifest(f"--topology={topology}")["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == hosts
    assert pod["containers"][0]["resources"]["requests"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.split(":")[1],
    }
    assert pod["containers"][0]["env"][0]["value"] == ("1" if hosts > 1 else "0")


def test_a_schema_violation_would_be_seen():
    schema = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())
    document = manifest()
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicies"] = {}
    with pytest.raises(jsonschema.ValidationError, match="podFailurePolicies"):
        jsonschema.validate(document, schema)
