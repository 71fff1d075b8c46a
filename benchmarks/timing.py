"""Timing programs against each other, and what comes out as rows, tables and JSON."""

import dataclasses
import gc
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole

Program = Callable[[], Any]
Built = TypeVar("Built")


class Work(NamedTuple):
    """The work of one call of a case, whichever program does it.

    Attributes:
      images: how many images.
      flops: floating-point operations that the method needs at least.
      peak: operations a second of the processor, or None where unknown.
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
      median_ms: median time of one call in milliseconds; None: not run.
      fastest_ms: the fastest call.
      slowest_ms: the slowest call.
      ratio: median over that of the first program of the case; above 1 is slower than
        it. None where that one did not run.
      first_call_s: seconds of the first call, compilation included, also where that was
        done beforehand. Compiling next to other programs takes longer than alone.
      first_ratio: that over the first program's.
      cpu_ms: median processor time of one call, all threads of this process together:
        on a CPU it says what was computed even where other programs take turns with
        this one.
      images_per_s: images a second at the median.
      share_of_peak: operations the method needs, over what a large matrix product gets
        done in that time.
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
      programs: what to call, by name; each call returns when its work is done. A string
        says why a program is not run. The others are held against the first one; where
        that one does not run there are no ratios.
      settings: stated in every row.
      repeats: timed calls of each program, at least 1.
      work: what one call gets done, where rates are wanted.
      ahead: seconds that a program was compiled for before its first call, by name.
      pause: seconds of rest before each call, so that one library's threads do not spin
        into the next.

    Returns:
      One row for each program.
    """
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    reasons = {
        name: program for name, program in programs.items() if isinstance(program, str)
    }
    running: dict[str, Program] = {
        name: program
        for name, program in programs.items()
        if not isinstance(program, str)
    }

    for name, program in list(running.items()):
        start = time.perf_counter()
        try:
            program()
            first[name] = time.perf_counter() - start + (ahead or {}).get(name, 0.0)
            program()
        except (RuntimeError, MemoryError) as error:
            reasons[name] = _memory_reason(error)
            del running[name]
            continue
        times[name], busy[name] = [], []

    gc.collect()
    for _ in range(repeats):
        for name, program in list(running.items()):
            time.sleep(pause)
            start, worked = time.perf_counter(), time.process_time()
            try:
                program()
            except (RuntimeError, MemoryError) as error:
                # It fitted alone, but not with what the others keep.
                reasons[name] = _memory_reason(error)
                del running[name]
                continue
            times[name].append(1e3 * (time.perf_counter() - start))
            busy[name].append(1e3 * (time.process_time() - worked))

    medians = {name: statistics.median(times[name]) for name in running}
    reference = next(iter(programs), None)
    rows = []
    for name in programs:
        if name in reasons:
            rows.append(Row(case, name, settings, note=f"not run: {reasons[name]}"))
            continue

        # Ratios are to the first program, and left out where that one did not run.
        ratio, first_ratio = None, None
        if reference in medians:
            ratio = medians[name] / medians[reference]
            first_ratio = first[name] / first[reference]
        images_per_s, share_of_peak = _rates(work, medians[name])
        row = Row(
            case,
            name,
            settings,
            median_ms=medians[name],
            fastest_ms=min(times[name]),
            slowest_ms=max(times[name]),
            ratio=ratio,
            first_call_s=first[name],
            cpu_ms=statistics.median(busy[name]),
            images_per_s=images_per_s,
            share_of_peak=share_of_peak,
            first_ratio=first_ratio,
        )
        rows.append(row)
    return rows


def built(make: Callable[[], Built]) -> Built | str:
    """Builds a program, or says why it cannot be run here.

    Args:
      make: builds it.

    Returns:
      The program, or the reason: a user's mistake or too little memory.
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

    # In the words of JAX, Python and PyTorch.
    for word in ("RESOURCE_EXHAUSTED", "OutOfMemory", "MemoryError", "out of memory"):
        if word in text:
            return "not enough memory"
    raise error


def _rates(work: Work | None, median_ms: float) -> tuple[float | None, float | None]:
    """Images a second and share of the peak."""
    if work is None:
        return None, None
    seconds = median_ms / 1e3
    return (
        work.images / seconds,
        work.flops / seconds / work.peak if work.peak else None,
    )


def table(rows: list[Row]) -> str:
    """Lays rows out as a Markdown table."""
    lines = [
        "| case | settings | program | median ms | fastest - slowest | times ours | "
        "CPU ms | images/s | share of peak | first call s | times ours |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
        if row.median_ms is None:
            empty = 7 * " |"
            lines.append(
                f"| {row.case} | {settings} | {row.program} | {row.note} |{empty}"
            )
            continue
        images = "" if row.images_per_s is None else f"{row.images_per_s:.4g}"
        share = "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        first_ratio = "" if row.first_ratio is None else f"{row.first_ratio:.2f}"
        program = f"{row.program} ({row.note})" if row.note else row.program
        lines.append(
            f"| {row.case} | {settings} | {program} | {row.median_ms:.2f} | "
            f"{row.fastest_ms:.2f} - {row.slowest_ms:.2f} | {ratio} | "
            f"{row.cpu_ms:.0f} | {images} | {share} | {row.first_call_s:.1f} | "
            f"{first_ratio} |"
        )
    return "\n".join(lines)


def check_json_path(path: pathlib.Path) -> None:
    """Checks, before anything is measured, that a results file can be written.

    Args:
      path: the file.

    Raises:
      ValueError: if it exists, or its folder does not.
    """
    if path.exists():
        raise UserError(f"{path} exists; choose another name for --json.")
    if not path.parent.is_dir():
        raise UserError(
            f"{path.parent} is no folder; create it for --json {path.name}."
        )


def write_json(rows: list[Row], machine: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes rows and the machine's description, whole or not at all."""
    content = {
        "machine": dict(machine),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
