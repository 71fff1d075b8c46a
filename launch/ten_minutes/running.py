"""Trains, exports and measures on one accelerator, within a number of minutes.

Only the standard library is imported until the packages that the machine lacks are
installed.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The stages of facecycle_base:paper, and the fraction of the training time of each.
STAGES = {"motion": 0.5, "contrast": 0.1, "identity": 0.4}

# Fractions of all minutes. The stages of training share the first one, as their
# `max_minutes`. Training that has not ended by the second one is stopped. The third one
# is kept for gathering and the report.
_TRAINING = 0.6
_TRAINING_ENDS = 0.78
_REPORT = 0.05

# Seconds from SIGTERM to SIGKILL. Training saves a checkpoint in this time.
_GRACE = 15.0
_SHORT_GRACE = 2.0
# The most seconds for the installation, the export and the report.
_INSTALL_SECONDS = 60.0
_EXPORT_SECONDS = 90.0
_REPORT_SECONDS = 60.0
# Seconds that measuring may take beyond the benchmark's budget, because a measurement
# that has begun is finished.
_LAST_MEASUREMENT = 30.0
# Seconds after which a process, and the signals of this one, are looked at again.
_POLL = 0.2

# Bytes at the end of a log that come back.
_LOG_BYTES = 2**20
# Panels of a stage that come back, the last ones.
_PANELS = 2


class UploadError(ValueError):
    """The upload cannot be used; the message is one sentence.

    It is not a UserError. That can only be imported once the packages that the machine
    lacks are installed.
    """


class Plan(NamedTuple):
    """What to run.

    Attributes:
      upload: folder with frames.zip, perhaps vgg.npz and wheels/.
      out: folder for the files that come back.
      work: folder for everything else. What an earlier start has left there is used.
      minutes: wall time of all steps together.
      part_bytes: the most bytes of a file that comes back.
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
    """The time that is left, and whether to stop at once.

    Args:
      minutes: wall time of all steps together, which begins now.

    Attributes:
      whole: the same in seconds.
      signal: name of the signal that has requested this process to stop, else ''.
    """

    def __init__(self, minutes: float) -> None:
        self._start = time.monotonic()
        self.whole = 60 * minutes
        self.signal = ""

    def left(self, fraction: float = 1.0) -> float:
        """Returns the seconds until a fraction of the whole time is over."""
        return self._start + fraction * self.whole - time.monotonic()

    def refusal(self, seconds: float) -> str:
        """Returns why a step must not start, or ''.

        Args:
          seconds: the time that the step would have; there is none if it is not
            above 0.
        """
        if self.signal:
            return f"not started because of {self.signal}"
        return "" if seconds > 0 else "not started, no time was left"


def check_upload(upload: pathlib.Path, work: pathlib.Path | None) -> None:
    """Checks the images before anything takes time.

    Args:
      upload: folder with frames.zip.
      work: folder of the run; None for a new one. If an earlier start has unpacked the
        images there, nothing is checked.

    Raises:
      UploadError: If there are no images, or they are damaged.
    """
    if work and (work / "frames").exists():
        return

    path = upload / "frames.zip"
    if not path.is_file():
        raise UploadError(
            f"{path} is missing; name the folder that `python -m launch.ten_minutes "
            "pack` made."
        )

    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            reason = packed.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason = str(error)

    if reason:
        raise UploadError(f"{path} is damaged ({reason}); pack it again.")
    if not names:
        raise UploadError(f"{path} has no image; pack it again.")


def run(plan: Plan) -> int:
    """Trains, exports, measures and reports.

    Every step is tried even if earlier ones have failed, so that as much as possible
    comes back. After SIGTERM, SIGINT or SIGHUP the step in progress is stopped, and
    only what exists by then is gathered.

    Args:
      plan: what to run.

    Returns:
      The number of steps that failed.

    Raises:
      UploadError: If there are no images, or they are damaged.
      OSError: If a folder cannot be made.
    """
    check_upload(plan.upload, plan.work)
    clock = Clock(plan.minutes)
    plan.out.mkdir(parents=True, exist_ok=True)
    logs = plan.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    with _recorded_signals(clock):
        outcomes = _steps(plan, logs, clock)

    for name, outcome in outcomes.items():
        print(f"{name}: {outcome or 'done'}")
    return sum(bool(outcome) for outcome in outcomes.values())


def _steps(plan: Plan, logs: pathlib.Path, clock: Clock) -> dict[str, str]:
    """Runs all steps.

    Args:
      plan: what to run.
      logs: folder for the logs.
      clock: the time that is left.

    Returns:
      What went wrong, or '', by step.
    """
    environment = _environment(plan)
    # For programs that must leave the accelerator free.
    on_cpu = {**environment, "JAX_PLATFORMS": "cpu"}

    outcomes = {
        "installing": _tried(lambda: _install(plan, logs, clock)),
        "unpacking": _tried(lambda: _unpack(plan)),
        "training": _tried(lambda: _train(plan, logs, clock, environment=environment)),
        "export": _tried(lambda: _export(plan, logs, clock, environment=on_cpu)),
    }
    outcomes |= _count_and_measure(
        plan, logs, clock, environment=environment, on_cpu=on_cpu
    )

    # The report comes last: if time runs out, it is the least loss.
    outcomes["gathering"] = _tried(lambda: _gather(plan, outcomes))
    outcomes["report"] = _tried(lambda: _report(plan, logs, clock, environment=on_cpu))

    # If the report has failed, gather again, with its log.
    if outcomes["report"] and not clock.refusal(clock.left()):
        outcomes["gathering"] = _tried(lambda: _gather(plan, outcomes))
    return outcomes


def _count_and_measure(
    plan: Plan,
    logs: pathlib.Path,
    clock: Clock,
    *,
    environment: Mapping[str, str],
    on_cpu: Mapping[str, str],
) -> dict[str, str]:
    """Measures the accelerator while the CPU counts the operations of each stage.

    Args:
      plan: what to run.
      logs: folder for the logs.
      clock: the time that is left.
      environment: that of programs on the accelerator.
      on_cpu: that of programs on the CPU.

    Returns:
      What went wrong, or '', by step.
    """
    command = _this_program("count", "--work", str(plan.work))
    counting: list[subprocess.Popen[Any]] = []

    def start_counting() -> str:
        refusal = clock.refusal(clock.left(1 - _REPORT))
        if not refusal:
            log = logs / "counting.log"
            counting.append(_start(command, log, environment=on_cpu))
        return refusal

    outcomes = {
        "counting": _tried(start_counting),
        "measuring": _tried(
            lambda: _measure(plan, logs, clock, environment=environment)
        ),
    }
    if counting:
        seconds = clock.left(1 - _REPORT / 2)
        outcomes["counting"] = _finish(counting[0], clock, seconds=seconds)
    return outcomes


@contextlib.contextmanager
def _recorded_signals(clock: Clock) -> Iterator[None]:
    """Records a signal to stop on the clock instead of exiting.

    The function that waits for a program passes the signal on to it, so no program is
    left behind.

    Args:
      clock: gets the name of the signal.
    """

    def record(number: int, frame: object) -> None:
        clock.signal = signal.Signals(number).name

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A signal that is ignored, e.g. by nohup, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, record)

    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tried(step: Callable[[], str]) -> str:
    """Runs a step; returns what went wrong, also if it raised an error, or ''."""
    try:
        return step()
    except OSError as error:
        # For example a full disk.
        return str(error)
    except Exception as error:
        # A defect prints its stack trace, but the other steps still run.
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"


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
    for stage, fraction in STAGES.items():
        minutes = fraction * _TRAINING * plan.minutes
        fields = {"data.path": ",".join(frames), "max_minutes": f"{minutes:.4f}"}

        # The stage 'contrast' has no perceptual loss. The others do without it if there
        # is not a VGG-19.
        if stage != "contrast" and vgg.exists():
            fields["loss.vgg"] = str(vgg)
        elif stage != "contrast":
            fields["loss.perceptual"] = "none"

        command += [
            f"--config.{stage}.{name}={value}" for name, value in fields.items()
        ]

    return [*command, *plan.training]


def newest_stage(run: pathlib.Path) -> pathlib.Path | None:
    """Finds the stage to export: the last one, or else stage 1.

    Args:
      run: workdir of all stages.

    Returns:
      Its workdir; None if neither has a checkpoint.
    """
    for stage in ("identity", "motion"):
        checkpoints = run / stage / "checkpoints"
        if not checkpoints.is_dir():
            continue
        # A checkpoint is named by its step. Other names are unfinished ones.
        if any(entry.name.isdecimal() for entry in checkpoints.iterdir()):
            return run / stage
    return None


def _environment(plan: Plan) -> dict[str, str]:
    """Returns the environment of the programs that are started."""
    paths = [str(ROOT), str(plan.work / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "1",
        # A later start with the same folder uses the programs compiled by this one.
        "FACECYCLE_COMPILATION_CACHE": str(plan.work / "programs"),
    }


def _this_program(*words: str) -> list[str]:
    """Builds a command line of `python -m launch.ten_minutes`."""
    return [sys.executable, "-m", "launch.ten_minutes", *words]


def _install(plan: Plan, logs: pathlib.Path, clock: Clock) -> str:
    """Installs the wheels of modules that the machine lacks.

    Args:
      plan: what to run.
      logs: folder for the log.
      clock: the time that is left.

    Returns:
      What went wrong, or ''.
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
        clock,
        environment=os.environ,
        seconds=min(_INSTALL_SECONDS, clock.left(_TRAINING_ENDS)),
    )


def _unpack(plan: Plan) -> str:
    """Unpacks the images unless an earlier start did it; always returns ''."""
    folder = plan.work / "frames"
    if folder.exists():
        return ""

    # Under another name first, so that a folder of this name is always whole.
    partial = plan.work / "frames.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(plan.upload / "frames.zip") as packed:
        packed.extractall(partial)
    partial.rename(folder)
    return ""


def _train(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Trains all stages; returns what went wrong, or ''."""
    folder = plan.work / "frames"
    if not folder.exists():
        return "not started, there are no images"

    frames = sorted(str(root) for root in folder.iterdir())
    return _call(
        training_command(plan, frames),
        logs / "training.log",
        clock,
        environment=environment,
        seconds=clock.left(_TRAINING_ENDS),
        grace=_GRACE,
    )


def _call(
    command: Sequence[str],
    log: pathlib.Path,
    clock: Clock,
    *,
    environment: Mapping[str, str],
    seconds: float,
    grace: float = _SHORT_GRACE,
) -> str:
    """Runs a command until it ends or is stopped.

    Args:
      command: the command.
      log: file that its output is appended to.
      clock: the time that is left.
      environment: its environment.
      seconds: time for it, after which it is stopped.
      grace: seconds between SIGTERM and SIGKILL.

    Returns:
      What went wrong, or ''.
    """
    if refusal := clock.refusal(seconds):
        return refusal

    process = _start(command, log, environment=environment)
    return _finish(process, clock, seconds=seconds, grace=grace)


def _start(
    command: Sequence[str], log: pathlib.Path, *, environment: Mapping[str, str]
) -> "subprocess.Popen[Any]":
    """Starts a command in its own process group, which can be killed as a whole."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env=dict(environment),
            start_new_session=True,
        )


def _finish(
    process: "subprocess.Popen[Any]",
    clock: Clock,
    *,
    seconds: float,
    grace: float = _SHORT_GRACE,
) -> str:
    """Waits for a process. Stops it if it takes too long, or after a signal.

    It first sends SIGTERM, which leaves the process time to save its state.

    Args:
      process: the process, the first of its group.
      clock: records the signal.
      seconds: time for it from now on.
      grace: seconds between SIGTERM and SIGKILL.

    Returns:
      What went wrong, or ''.
    """
    end = time.monotonic() + seconds
    status = process.poll()
    while status is None and time.monotonic() < end and not clock.signal:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
        status = process.poll()

    if status is not None:
        return "" if status == 0 else f"ended with status {status}"

    by = clock.signal or "the clock"
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(grace)
        return f"stopped by {by}, status {status}"
    except subprocess.TimeoutExpired:
        # Also what it has started: measure_gpu.sh starts a benchmark through `timeout`.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"killed by {by}"


def _export(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Exports the newest model and cuts it into parts.

    Args:
      plan: what to run.
      logs: folder for the log.
      clock: the time that is left.
      environment: that of the export.

    Returns:
      What went wrong, or ''.
    """
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
        clock,
        environment=environment,
        seconds=min(_EXPORT_SECONDS, clock.left(1 - _REPORT)),
    )
    if failed:
        return failed

    # Imported here, because it needs packages that may have been missing.
    from launch.ten_minutes import parts

    # An earlier start may have cut its model into another number of parts.
    for old in plan.out.glob("model.*.xz"):
        old.unlink()
    files = parts.cut(model, plan.out, limit=plan.part_bytes)
    print(f"model of {stage.name} in {len(files)} files")
    return ""


def _measure(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Runs launch/measure_gpu.sh in the time that is left.

    Args:
      plan: what to run.
      logs: folder for the log.
      clock: the time that is left.
      environment: that of the script.

    Returns:
      What went wrong, or ''.
    """
    seconds = clock.left(1 - _REPORT)
    budget = max(0.0, seconds - _LAST_MEASUREMENT)
    figures = plan.out / "gpu.json"
    figures.unlink(missing_ok=True)

    command = ["sh", str(ROOT / "launch" / "measure_gpu.sh"), str(figures)]
    return _call(
        [*command, "--budget", f"{budget:.0f}", *plan.measuring],
        logs / "measuring.log",
        clock,
        environment=environment,
        seconds=seconds,
    )


def _report(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Writes the tables as OUT/report.md; returns what went wrong, or ''."""
    return _call(
        _this_program("report", "--work", str(plan.work), "--out", str(plan.out)),
        logs / "report.log",
        clock,
        environment=environment,
        seconds=min(_REPORT_SECONDS, clock.left() - _SHORT_GRACE),
    )


def _gather(plan: Plan, outcomes: Mapping[str, str]) -> str:
    """Writes logs, metrics and panels of the run as OUT/run.tar.gz.

    If the file would become too large to come back, the largest of its contents are
    left out.

    Args:
      plan: what was run.
      outcomes: what went wrong, or '', by step, for a file among the logs.

    Returns:
      What was left out, or ''.
    """
    logs = plan.work / "logs"
    lines = [f"{step}: {outcome or 'done'}\n" for step, outcome in outcomes.items()]
    (logs / "outcomes.txt").write_text("".join(lines))

    wanted = sorted(logs.iterdir())
    for stage in STAGES:
        folder = plan.work / "run" / stage
        for name in ("config.json", "metrics.jsonl", "goodput.json", "parameters.txt"):
            wanted.append(folder / name)
        wanted += sorted(folder.glob("panels/*.png"))[-_PANELS:]

    # A stage that has not begun has no files.
    contents = {}
    for path in wanted:
        with contextlib.suppress(FileNotFoundError):
            name = str(path.relative_to(plan.work))
            contents[name] = _end_of(path) if path.parent == logs else path.read_bytes()

    left_out = []
    archive = _archive(contents)
    while len(archive) > plan.part_bytes and contents:
        largest = max(contents, key=lambda name: len(contents[name]))
        left_out.append(largest)
        del contents[largest]
        archive = _archive(contents)

    # Under another name first, so that a file of this name is always whole.
    partial = plan.out / "run.tar.gz.part"
    try:
        partial.write_bytes(archive)
        partial.replace(plan.out / "run.tar.gz")
    except OSError:
        partial.unlink(missing_ok=True)
        raise

    return f"left out, as too large: {', '.join(left_out)}" if left_out else ""


def _end_of(path: pathlib.Path) -> bytes:
    """Reads a log. Of a long one it reads the end, where errors are."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        return file.read()


def _archive(contents: Mapping[str, bytes]) -> bytes:
    """Packs files into a compressed tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mtime = int(time.time())
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
