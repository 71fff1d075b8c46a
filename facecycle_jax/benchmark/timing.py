"""Timing programs against each other, and what comes out as rows, tables and JSON."""

import dataclasses
import gc
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Program = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One program's figures within one comparison.

    Attributes:
      case: what was measured, e.g. 'train-step motion_cycle'.
      program: who computed it, e.g. 'ours' or 'torch eager'.
      settings: batch, width, precision, device and the like.
      median_ms: median time of one call in milliseconds; None: not run.
      fastest_ms: the fastest call.
      slowest_ms: the slowest call.
      ratio: median over that of the first program of the case; above 1 is slower than it.
      first_call_s: seconds of the first call, compilation included.
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
    note: str = ""


def measure(
    case: str,
    programs: Mapping[str, Program | str],
    *,
    settings: Mapping[str, Any],
    repeats: int,
    pause: float = 0.02,
) -> list[Row]:
    """Times programs in turn, so that a machine's ups and downs meet all of them alike.

    Args:
      case: name of the comparison.
      programs: what to call, by name; each call returns when its work is done. A string says why a
        program is not run. The first that runs is what the others are held against.
      settings: told in every row.
      repeats: timed calls of each program, at least 1.
      pause: seconds of rest before each call, so that one library's threads do not spin into the next.

    Returns:
      One row for each program.
    """
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    for name, program in programs.items():
        if isinstance(program, str):
            continue
        start = time.perf_counter()
        program()
        first[name], times[name] = time.perf_counter() - start, []
        program()
    gc.collect()
    for _ in range(repeats):
        for name, taken in times.items():
            time.sleep(pause)
            start = time.perf_counter()
            programs[name]()  # type: ignore[operator]
            taken.append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    rows = []
    for name, program in programs.items():
        if isinstance(program, str):
            rows.append(Row(case, name, settings, note=f"not run: {program}"))
            continue
        ratio = medians[name] / next(iter(medians.values()))
        low, high = min(times[name]), max(times[name])
        rows.append(Row(case, name, settings, medians[name], low, high, ratio, first[name]))
    return rows


def table(rows: list[Row]) -> str:
    """Lays rows out as a Markdown table."""
    lines = [
        "| case | settings | program | median ms | fastest - slowest | times ours | first call s |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
        if row.median_ms is None:
            lines.append(f"| {row.case} | {settings} | {row.program} | {row.note} | | | |")
            continue
        lines.append(
            f"| {row.case} | {settings} | {row.program} | {row.median_ms:.2f} | "
            f"{row.fastest_ms:.2f} - {row.slowest_ms:.2f} | {row.ratio:.2f} | {row.first_call_s:.1f} |"
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
        raise ValueError(f"{path} exists; choose another name for --json.")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no folder; create it for --json {path.name}.")


def write_json(rows: list[Row], machine: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes rows and the machine's description, whole or not at all."""
    part = path.with_name(path.name + ".part")
    content = {"machine": dict(machine), "rows": [dataclasses.asdict(row) for row in rows]}
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)
