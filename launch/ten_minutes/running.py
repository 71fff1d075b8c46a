"""Trains, exports and measures on one accelerator, within a number of minutes.

Nothing but the standard library is imported before the packages that the machine lacks
are installed.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Stages of facecycle_base:paper, each with its part of the minutes of training.
STAGES = {"motion": 0.5, "contrast": 0.1, "identity": 0.4}
# Parts of all minutes: those of training, those after which it is stopped, and those
# that are left for the report.
_TRAINING = 0.6
_TRAINING_ENDS = 0.78
_REPORT = 0.05
# Seconds between the request to stop and the end by force.
_GRACE = 15.0


class Plan(NamedTuple):
    """What to run.

    Attributes:
      upload: folder with frames.zip, perhaps vgg.npz and wheels/.
      out: folder for what comes back.
      work: folder for everything else.
      minutes: wall time of all together.
      part_bytes: size of a returned file at most.
      training: further flags of `python -m facecycle_jax.main`.
      measuring: further options of launch/measure_gpu.sh.
    """

    upload: pathlib.Path
    out: pathlib.Path
    work: pathlib.Path
    minutes: float
    part_bytes: int
    training: Sequence[str] = ()
    measuring: Sequence[str] = ()


class Clock:
    """The time since the start, and what is left of it."""

    def __init__(self, minutes: float) -> None:
        self._start = time.monotonic()
        self.whole = 60 * minutes

    def left(self, part: float = 1.0) -> float:
        """Returns the seconds until a part of the whole time is over."""
        return self._start + part * self.whole - time.monotonic()


def run(plan: Plan) -> int:
    """Trains, exports, measures and reports.

    Every step is tried, whatever became of those before it, so that something comes
    back of whatever can.

    Args:
      plan: what to run.

    Returns:
      The number of steps that failed.
    """
    clock = Clock(plan.minutes)
    plan.out.mkdir(parents=True, exist_ok=True)
    logs = plan.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = _environment(plan)
    outcomes = {"installing": _install(plan, logs)}
    frames = _unpacked(plan)

    # 1. Training, with a limit of minutes for each stage.
    command = training_command(plan, frames)
    outcomes["training"] = _call(
        command,
        logs / "training.log",
        environment=environment,
        seconds=clock.left(_TRAINING_ENDS),
    )

    # 2. The model as files small enough to come back. The accelerator stays free.
    on_cpu = {**environment, "JAX_PLATFORMS": "cpu"}
    outcomes["export"] = _export(plan, logs, environment=on_cpu)

    # 3. Operations of each step, counted by the CPU while the accelerator is measured.
    python = [sys.executable, "-m", "launch.ten_minutes"]
    counting = [*python, "count", "--work", str(plan.work)]
    with (logs / "counting.log").open("wb") as log:
        counted = subprocess.Popen(
            counting, stdout=log, stderr=log, cwd=ROOT, env=on_cpu
        )
        outcomes["measuring"] = _measure(
            plan, logs, environment=environment, seconds=clock.left(1 - _REPORT)
        )
        outcomes["counting"] = _finish(counted, seconds=clock.left(1 - _REPORT / 2))

    # 4. Tables, and everything that is worth a look later, as one file.
    report = [*python, "report", "--work", str(plan.work), "--out", str(plan.out)]
    outcomes["report"] = _call(
        report, logs / "report.log", environment=on_cpu, seconds=60
    )
    _gather(plan, outcomes)

    for name, outcome in outcomes.items():
        print(f"{name}: {outcome or 'done'}")
    return sum(bool(outcome) for outcome in outcomes.values())


def training_command(plan: Plan, frames: Sequence[str]) -> list[str]:
    """Builds the command that trains all stages.

    Args:
      plan: what to run.
      frames: the roots of the images.

    Returns:
      The command.
    """
    command = [
        sys.executable,
        "-m",
        "facecycle_jax.main",
        f"--config={ROOT / 'configs' / 'facecycle_base.py'}:paper",
        f"--workdir={plan.work / 'run'}",
    ]

    vgg = plan.upload / "vgg.npz"
    for name, part in STAGES.items():
        minutes = part * _TRAINING * plan.minutes
        fields = {"data.path": ",".join(frames), "max_minutes": f"{minutes:.4f}"}
        if name != "contrast":
            # Without the VGG-19 the loss has no perceptual term.
            if vgg.exists():
                fields["loss.vgg"] = str(vgg)
            else:
                fields["loss.perceptual"] = "none"
        command += [f"--config.{name}.{key}={value}" for key, value in fields.items()]

    return [*command, *plan.training]


def newest_stage(run: pathlib.Path) -> pathlib.Path | None:
    """Finds the stage to export: the last one, or else stage 1.

    Args:
      run: workdir of all stages.

    Returns:
      Its workdir; None if neither has a checkpoint.
    """
    for name in ("identity", "motion"):
        checkpoints = run / name / "checkpoints"
        if checkpoints.is_dir() and any(
            entry.name.isdecimal() for entry in checkpoints.iterdir()
        ):
            return run / name
    return None


def _environment(plan: Plan) -> dict[str, str]:
    """Returns the environment of all commands."""
    paths = [str(ROOT), str(plan.work / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "1",
        # Programs compiled by one start serve the next one.
        "FACECYCLE_COMPILATION_CACHE": str(plan.work / "programs"),
    }


def _install(plan: Plan, logs: pathlib.Path) -> str:
    """Installs the wheels of modules that the machine lacks.

    Returns what went wrong, or ''.
    """
    missing = []
    for wheel in sorted((plan.upload / "wheels").glob("*.whl")):
        module = wheel.name.split("-")[0]
        if importlib.util.find_spec(module) is None:
            missing.append(str(wheel))
    if not missing:
        return ""

    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    options = ["--upgrade", "--target", str(plan.work / "site")]
    return _call(
        [*command, *options, *missing],
        logs / "installing.log",
        environment=os.environ,
        seconds=60,
    )


def _unpacked(plan: Plan) -> list[str]:
    """Returns the roots of the images, unpacked unless an earlier start did it."""
    folder = plan.work / "frames"
    if not folder.exists():
        partial = plan.work / "frames.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with zipfile.ZipFile(plan.upload / "frames.zip") as packed:
                packed.extractall(partial)
        except zipfile.BadZipFile as error:
            # Imported here, because it needs what may have to be installed first.
            from facecycle_jax.errors import UserError

            raise UserError(
                f"{plan.upload / 'frames.zip'} is damaged ({error}); pack it again."
            ) from None
        partial.rename(folder)
    return sorted(str(root) for root in folder.iterdir())


def _call(
    command: Sequence[str],
    log: pathlib.Path,
    *,
    environment: Mapping[str, str],
    seconds: float,
) -> str:
    """Runs a command; returns what went wrong, or ''."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=ROOT, env=dict(environment)
        )
        return _finish(process, seconds=seconds)


def _finish(process: "subprocess.Popen[Any]", *, seconds: float) -> str:
    """Waits for a process and stops it after some seconds, first by SIGTERM."""
    try:
        status = process.wait(max(1.0, seconds))
        return "" if status == 0 else f"ended with status {status}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(_GRACE)
        return f"stopped by the clock, status {status}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "killed by the clock"


def _export(plan: Plan, logs: pathlib.Path, *, environment: Mapping[str, str]) -> str:
    """Exports the newest model and cuts it into parts; returns what went wrong."""
    from launch.ten_minutes import parts

    stage = newest_stage(plan.work / "run")
    if stage is None:
        return "there is no checkpoint"

    model = plan.work / "model"
    shutil.rmtree(model, ignore_errors=True)
    command = [sys.executable, "-m", "facecycle_jax.cli", "export", str(stage)]
    options = ["--out", str(model), "--dtype", "float16"]
    failed = _call(
        [*command, *options],
        logs / "export.log",
        environment=environment,
        seconds=90,
    )
    if failed:
        return failed

    for old in plan.out.glob("model.*.xz"):
        old.unlink()
    files = parts.cut(model, plan.out, limit=plan.part_bytes)
    print(f"model of {stage.name} in {len(files)} files")
    return ""


def _measure(
    plan: Plan, logs: pathlib.Path, *, environment: Mapping[str, str], seconds: float
) -> str:
    """Runs launch/measure_gpu.sh in the time that is left; returns what went wrong."""
    figures = plan.out / "gpu.json"
    figures.unlink(missing_ok=True)
    # A measurement that has begun is finished, which the budget does not know.
    budget = max(0.0, seconds - 30)
    command = ["sh", str(ROOT / "launch" / "measure_gpu.sh"), str(figures)]
    return _call(
        [*command, "--budget", f"{budget:.0f}", *plan.measuring],
        logs / "measuring.log",
        environment=environment,
        seconds=seconds,
    )


def _gather(plan: Plan, outcomes: Mapping[str, str]) -> None:
    """Writes logs, metrics and panels of the run as OUT/run.tar.gz."""
    (plan.work / "logs" / "outcomes.txt").write_text(
        "".join(f"{name}: {text or 'done'}\n" for name, text in outcomes.items())
    )
    wanted = [*(plan.work / "logs").iterdir()]
    for stage in STAGES:
        folder = plan.work / "run" / stage
        for name in ("config.json", "metrics.jsonl", "goodput.json", "parameters.txt"):
            wanted.append(folder / name)
        wanted += sorted(folder.glob("panels/*.png"))[-2:]

    with tarfile.open(plan.out / "run.tar.gz", "w:gz") as file:
        for path in wanted:
            with contextlib.suppress(FileNotFoundError):
                file.add(path, arcname=str(path.relative_to(plan.work)))
