"""Times programs against each other and reports rows, tables and JSON."""

import dataclasses
import gc
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole

# A call returns when its work is done.
Program = Callable[[], Any]
Built = TypeVar("Built")

# Parts of the messages in which JAX, Python and PyTorch report a lack of memory.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemory", "MemoryError", "out of memory")


class Work(NamedTuple):
    """The work of one call of a case, whichever program does it.

    Attributes:
      images: number of images.
      flops: floating-point operations that the method needs at least.
      peak: operations a second of the processor; None if unknown.
    """

    images: int
    flops: float
    peak: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One program's figures within one comparison.

    Attributes:
      case: what was measured, e.g. 'train-motion'.
      program: who computed it, e.g. 'ours' or 'torch eager'.
      settings: batch, width, precision, device and the like.
      median_ms: median time of one call in milliseconds; None if it was not run.
      fastest_ms: time of the fastest call.
      slowest_ms: time of the slowest call.
      ratio: `median_ms` over that of the first program of the case; above 1 is slower
        than that one. None where that one did not run.
      first_call_s: seconds of the first call, compilation included, also where that was
        done beforehand. Compiling next to other programs takes longer than alone.
      cpu_ms: median processor time of one call: all threads of this process, and the
        processes that the call started. On a CPU it measures the computation even where
        other programs share the cores.
      images_per_s: images a second at the median.
      share_of_peak: operations that the method needs, over those that a large matrix
        product does in the same time.
      first_ratio: `first_call_s` over that of the first program.
      note: why it was not run, or what else is worth knowing.
    """

    case: str
    program: str
    settings: Mapping[str, Any]
    median_ms: float | None = None
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    ratio: float | None = None
    first_call_s: float | None = None
    cpu_ms: float | None = None
    images_per_s: float | None = None
    share_of_peak: float | None = None
    first_ratio: float | None = None
    note: str = ""


class _Call(NamedTuple):
    """Seconds of one call: wall time, and processor time of all threads."""

    wall: float
    cpu: float


@dataclasses.dataclass
class _Timed:
    """A program and the times of its calls.

    Attributes:
      program: what is called; None if it could not be built.
      reason: why it is not run, or no longer run; '' while it is.
      first_call: seconds of the first call, with the compilation before it.
      calls: the timed calls.
    """

    program: Program | None
    reason: str = ""
    first_call: float = 0.0
    calls: list[_Call] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Median wall time of the timed calls in seconds."""
        return statistics.median(call.wall for call in self.calls)

    def call(self) -> _Call | None:
        """Calls the program once, unless there is a reason not to.

        Returns:
          The times; None if the program did not run. A lack of memory becomes the
          reason.
        """
        if self.program is None or self.reason:
            return None

        start = time.perf_counter()
        worked = _processor_seconds()
        try:
            self.program()
        except (RuntimeError, MemoryError) as error:
            self.reason = _memory_reason(error)
            return None
        return _Call(
            wall=time.perf_counter() - start, cpu=_processor_seconds() - worked
        )


def measure(
    case: str,
    programs: Mapping[str, Program | str],
    *,
    settings: Mapping[str, Any],
    repeats: int,
    work: Work | None = None,
    ahead: Mapping[str, float] | None = None,
    pause: float = 0.02,
) -> list[Row]:
    """Times programs interleaved, so that a changing load affects all of them alike.

    Args:
      case: name of the comparison.
      programs: what to call, by name. A string states why a program is not run. The
        others are compared with the first one; where that one does not run, there are
        no ratios.
      settings: stated in every row.
      repeats: number of timed calls of each program, at least 1.
      work: the work of one call, for the rates.
      ahead: seconds of work that a program's first call would have done, but that was
        done before, such as compilation; by name.
      pause: seconds of rest before each call, so that one library's threads do not spin
        into the next.

    Returns:
      One row for each program.
    """
    timed: dict[str, _Timed] = {}
    for name, program in programs.items():
        if isinstance(program, str):
            timed[name] = _Timed(program=None, reason=program)
        else:
            timed[name] = _Timed(program=program)

    # The first call compiles. The second one warms up and is not timed.
    for name, one in timed.items():
        first = one.call()
        if first is not None:
            one.first_call = first.wall + (ahead or {}).get(name, 0.0)
            one.call()

    gc.collect()
    for _ in range(repeats):
        for one in timed.values():
            if one.reason:
                continue
            time.sleep(pause)
            # A program that fitted alone may not fit with what the others keep.
            call = one.call()
            if call is not None:
                one.calls.append(call)

    # Ratios are to the first program, and left out where that one did not run.
    reference = next(iter(timed.values()), None)
    if reference is not None and reference.reason:
        reference = None
    return [
        _row(case, name, settings, one, reference=reference, work=work)
        for name, one in timed.items()
    ]


def _row(
    case: str,
    name: str,
    settings: Mapping[str, Any],
    timed: _Timed,
    *,
    reference: _Timed | None,
    work: Work | None,
) -> Row:
    """Makes the row of one program."""
    if timed.reason:
        return Row(
            case=case,
            program=name,
            settings=settings,
            note=f"not run: {timed.reason}",
        )

    median = timed.median
    walls = [call.wall for call in timed.calls]

    ratio = None
    first_ratio = None
    if reference is not None:
        ratio = median / reference.median
        first_ratio = timed.first_call / reference.first_call

    images_per_s = None
    share_of_peak = None
    if work is not None:
        images_per_s = work.images / median
        if work.peak:
            share_of_peak = work.flops / median / work.peak

    return Row(
        case=case,
        program=name,
        settings=settings,
        median_ms=1e3 * median,
        fastest_ms=1e3 * min(walls),
        slowest_ms=1e3 * max(walls),
        ratio=ratio,
        first_call_s=timed.first_call,
        cpu_ms=1e3 * statistics.median(call.cpu for call in timed.calls),
        images_per_s=images_per_s,
        share_of_peak=share_of_peak,
        first_ratio=first_ratio,
    )


def built(make: Callable[[], Built]) -> Built | str:
    """Builds a program, or states why it cannot be run here.

    Args:
      make: builds it.

    Returns:
      The program, or the reason: a user's mistake or a lack of memory.
    """
    try:
        return make()
    except UserError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        return _memory_reason(error)


def _memory_reason(error: Exception) -> str:
    """Returns the reason of a program without enough memory; raises other errors."""
    text = f"{type(error).__name__} {error}"
    if any(words in text for words in _NO_MEMORY):
        return "not enough memory"
    raise error


def _processor_seconds() -> float:
    """Returns the processor time of this process and of its ended child processes."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def table(rows: list[Row], *, reference: str = "ours") -> str:
    """Formats rows as a Markdown table.

    Args:
      rows: those of `measure`.
      reference: what the ratios are to, for the heading.

    Returns:
      The table, without a line break at its end.
    """
    lines = [
        "| case | settings | program | median ms | fastest - slowest | "
        f"times {reference} | CPU ms | images/s | share of peak | first call s | "
        f"times {reference} |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_table_line(row) for row in rows]
    return "\n".join(lines)


def _table_line(row: Row) -> str:
    """Formats one row."""
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
    if row.median_ms is None:
        # The note takes the place of the median; the other seven cells are empty.
        empty = 7 * " |"
        return f"| {row.case} | {settings} | {row.program} | {row.note} |{empty}"

    program = f"{row.program} ({row.note})" if row.note else row.program
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    images = "" if row.images_per_s is None else f"{row.images_per_s:.4g}"
    share = "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %"
    first_ratio = "" if row.first_ratio is None else f"{row.first_ratio:.2f}"
    return (
        f"| {row.case} | {settings} | {program} | {row.median_ms:.2f} | "
        f"{row.fastest_ms:.2f} - {row.slowest_ms:.2f} | {ratio} | "
        f"{row.cpu_ms:.0f} | {images} | {share} | {row.first_call_s:.1f} | "
        f"{first_ratio} |"
    )


def check_json_path(path: pathlib.Path) -> None:
    """Checks, before anything is measured, that a results file can be written.

    Args:
      path: the file.

    Raises:
      UserError: If it exists, or its folder does not.
    """
    if path.exists():
        raise UserError(f"{path} exists; choose another name for --json.")
    if not path.parent.is_dir():
        raise UserError(
            f"{path.parent} is not a folder; create it for --json {path.name}."
        )


def write_json(rows: list[Row], machine: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes rows and the machine's description, whole or not at all.

    Args:
      rows: those of `measure`.
      machine: what was measured on, as JSON types.
      path: the file.
    """
    content = {
        "machine": dict(machine),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
