"""Trains, exports and measures on one accelerator, within a number of minutes.

Nothing but the standard library is imported before the packages that the machine lacks
are installed.
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
# Stages of facecycle_base:paper, each with its part of the minutes of training.
STAGES = {"motion": 0.5, "contrast": 0.1, "identity": 0.4}
# Parts of all minutes: those of training, those after which it is stopped, and those
# that are left for the report.
_TRAINING = 0.6
_TRAINING_ENDS = 0.78
_REPORT = 0.05
# Seconds between the request to stop and the end by force: of training, which saves a
# checkpoint, and of everything else.
_GRACE = 15.0
_SHORT_GRACE = 2.0
# Seconds between two looks at a program and at the signals of this process.
_POLL = 0.2
# Bytes of a log that come back, those at its end.
_LOG_BYTES = 2**20


class UploadError(ValueError):
    """The upload cannot be used; the message is one sentence.

    Not a UserError, which cannot be imported before what the machine lacks is
    installed.
    """


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
    """The time since the start, what is left of it, and whether to stop at once.

    Attributes:
      whole: seconds of all together.
      signal: name of the signal that asked this process to stop; '' if none did.
    """

    def __init__(self, minutes: float) -> None:
        self._start = time.monotonic()
        self.whole = 60 * minutes
        self.signal = ""

    def left(self, part: float = 1.0) -> float:
        """Returns the seconds until a part of the whole time is over."""
        return self._start + part * self.whole - time.monotonic()

    def refusal(self, seconds: float) -> str:
        """Says why a step of at most so many seconds is not started, or ''."""
        if self.signal:
            return f"not started because of {self.signal}"
        return "" if seconds > 0 else "not started, no time was left"


def check_upload(upload: pathlib.Path, work: pathlib.Path | None) -> None:
    """Checks the images, before anything takes time.

    Args:
      upload: folder with frames.zip.
      work: folder of the run, where an earlier start may have unpacked the images; None
        for a new one.

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

    Every step is tried, whatever became of those before it, so that something comes
    back of whatever can. After SIGTERM, SIGINT or SIGHUP the step in progress is
    stopped, and only what there is by then is gathered.

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

    with _stopped_by_signals(clock):
        outcomes = _steps(plan, logs, clock)

    for name, outcome in outcomes.items():
        print(f"{name}: {outcome or 'done'}")
    return sum(bool(outcome) for outcome in outcomes.values())


def _steps(plan: Plan, logs: pathlib.Path, clock: Clock) -> dict[str, str]:
    """Runs all steps; returns what went wrong, or '', by step."""
    environment = _environment(plan)
    outcomes = {
        "installing": _tried(lambda: _install(plan, logs, clock)),
        "unpacking": _tried(lambda: _unpack(plan)),
    }

    # 1. Training, with a limit of minutes for each stage.
    outcomes["training"] = _tried(
        lambda: _train(plan, logs, clock, environment=environment)
    )

    # 2. The model as files small enough to come back. The accelerator stays free.
    on_cpu = {**environment, "JAX_PLATFORMS": "cpu"}
    outcomes["export"] = _tried(lambda: _export(plan, logs, clock, environment=on_cpu))

    # 3. Operations of each step, counted by the CPU while the accelerator is measured.
    python = [sys.executable, "-m", "launch.ten_minutes"]
    count = [*python, "count", "--work", str(plan.work)]
    counted: list[subprocess.Popen[Any]] = []

    def start_counting() -> str:
        refusal = clock.refusal(clock.left(1 - _REPORT))
        if not refusal:
            counted.append(_start(count, logs / "counting.log", environment=on_cpu))
        return refusal

    outcomes["counting"] = _tried(start_counting)
    outcomes["measuring"] = _tried(
        lambda: _measure(plan, logs, clock, environment=environment)
    )
    if counted:
        outcomes["counting"] = _finish(
            counted[0], clock, seconds=clock.left(1 - _REPORT / 2)
        )

    # 4. Everything that is worth a look later, as one file, and tables. The tables come
    # last, as all else is worth more if the time is over.
    outcomes["gathering"] = _tried(lambda: _gather(plan, outcomes))
    report = [*python, "report", "--work", str(plan.work), "--out", str(plan.out)]
    outcomes["report"] = _tried(
        lambda: _call(
            report,
            logs / "report.log",
            clock,
            environment=on_cpu,
            seconds=min(60.0, clock.left() - _SHORT_GRACE),
        )
    )
    if outcomes["report"] and not clock.refusal(clock.left()):
        # The report's log says why.
        outcomes["gathering"] = _tried(lambda: _gather(plan, outcomes))
    return outcomes


@contextlib.contextmanager
def _stopped_by_signals(clock: Clock) -> Iterator[None]:
    """Notes a signal to stop on the clock instead of dying of it.

    Whoever waits for a program passes it on, so that none is left behind.
    """

    def note(number: int, frame: object) -> None:
        clock.signal = signal.Signals(number).name

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # What is ignored, as by nohup, stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tried(step: Callable[[], str]) -> str:
    """Runs a step; returns what went wrong, an exception as well, or ''."""
    try:
        return step()
    except OSError as error:
        # As of a full disk.
        return str(error)
    except Exception as error:
        # A defect keeps its stack trace, but not the other steps from running.
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


def _install(plan: Plan, logs: pathlib.Path, clock: Clock) -> str:
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
        clock,
        environment=os.environ,
        seconds=min(60.0, clock.left(_TRAINING_ENDS)),
    )


def _unpack(plan: Plan) -> str:
    """Unpacks the images unless an earlier start did it; always returns ''."""
    folder = plan.work / "frames"
    if not folder.exists():
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
    """Runs a command; returns what went wrong, or ''."""
    if refusal := clock.refusal(seconds):
        return refusal
    process = _start(command, log, environment=environment)
    return _finish(process, clock, seconds=seconds, grace=grace)


def _start(
    command: Sequence[str], log: pathlib.Path, *, environment: Mapping[str, str]
) -> "subprocess.Popen[Any]":
    """Starts a command in a process group of its own, which can be ended as a whole."""
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
    """Waits for a process and stops it after some seconds, or when this one is to stop.

    It first sends SIGTERM, which leaves the process time to save what it has.
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
        # With what it has started: measure_gpu.sh is `timeout` with a benchmark.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"killed by {by}"


def _export(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Exports the newest model and cuts it into parts; returns what went wrong."""
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
        seconds=min(90.0, clock.left(1 - _REPORT)),
    )
    if failed:
        return failed

    # Imported here, because it needs what may have to be installed first.
    from launch.ten_minutes import parts

    for old in plan.out.glob("model.*.xz"):
        old.unlink()
    files = parts.cut(model, plan.out, limit=plan.part_bytes)
    print(f"model of {stage.name} in {len(files)} files")
    return ""


def _measure(
    plan: Plan, logs: pathlib.Path, clock: Clock, *, environment: Mapping[str, str]
) -> str:
    """Runs launch/measure_gpu.sh in the time that is left; returns what went wrong."""
    seconds = clock.left(1 - _REPORT)
    figures = plan.out / "gpu.json"
    figures.unlink(missing_ok=True)
    # A measurement that has begun is finished, which the budget does not know.
    budget = max(0.0, seconds - 30)
    command = ["sh", str(ROOT / "launch" / "measure_gpu.sh"), str(figures)]
    return _call(
        [*command, "--budget", f"{budget:.0f}", *plan.measuring],
        logs / "measuring.log",
        clock,
        environment=environment,
        seconds=seconds,
    )


def _gather(plan: Plan, outcomes: Mapping[str, str]) -> str:
    """Writes logs, metrics and panels of the run as OUT/run.tar.gz.

    What would make it larger than a returned file may be is left out, the largest file
    first. Returns what was left out, or ''.
    """
    logs = plan.work / "logs"
    (logs / "outcomes.txt").write_text(
        "".join(f"{name}: {text or 'done'}\n" for name, text in outcomes.items())
    )
    wanted = sorted(logs.iterdir())
    for stage in STAGES:
        folder = plan.work / "run" / stage
        for name in ("config.json", "metrics.jsonl", "goodput.json", "parameters.txt"):
            wanted.append(folder / name)
        wanted += sorted(folder.glob("panels/*.png"))[-2:]

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

    # Under another name first: a file that is there is whole.
    partial = plan.out / "run.tar.gz.part"
    try:
        partial.write_bytes(archive)
        partial.replace(plan.out / "run.tar.gz")
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return f"left out, as too large: {', '.join(left_out)}" if left_out else ""


def _end_of(path: pathlib.Path) -> bytes:
    """Reads a log, of a long one only its end, which says how it ended."""
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
