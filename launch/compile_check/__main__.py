"""Compiles the training step for a TPU slice, or for GPUs, that you do not have.

Reports whether the step fits in memory and what it costs.

  python -m launch.compile_check --config=configs/motion_cycle.py --topology=v5e:16x16

For TPUs this needs `pip install 'facecycle_jax[compile-check]'` (libtpu, Linux), but no
TPU. For GPUs, e.g. two hosts of eight with --topology=h100:2x8, it needs `pip install
'facecycle_jax[cuda12]'`, but no GPU. Fields of the config are set as in training, e.g.
--config.batch_size=4096. --slices=N stands for N such slices joined by a data-centre
network. Exit status: 0 if the step fits, 1 if it does not, 2 after a mistake in the
command or the config, 70 after a defect of this program.
"""

import json
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

# The root of the repository, so that configs import the same modules as under `python
# -m facecycle_jax.main`.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from facecycle_jax import config_files
from facecycle_jax.errors import DEFECT_EXIT, MISTAKE_EXIT, UserError
from facecycle_jax.files import write_whole
from launch import compile_check
from launch.compile_check.chips import GIB

# Everything here runs on the CPU, so TPUs or GPUs of this machine stay free. An
# environment variable would come too late: JAX has been imported with the package.
jax.config.update("jax_platforms", "cpu")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config: the path of its file, or its name, e.g. motion_cycle.",
    lock_config=True,
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "What to compile for: v4, v5e, v5p or v6e and the chips along each side, e.g. "
    "v5e:16x16, or a100, h100 or h200, hosts and GPUs of each, e.g. h100:2x8.",
)
_SLICES = flags.DEFINE_integer(
    "slices", 1, "Number of such slices, joined by a data-centre network."
)
_STAGE = flags.DEFINE_string(
    "stage", None, "Which stage of the config, if it has several."
)
_EFFORT = flags.DEFINE_enum(
    "effort",
    "full",
    ["full", "quick"],
    "'full' compiles as a run does, for minutes; 'quick' takes a fraction of that, but "
    "its times are less exact.",
)
_LARGEST = flags.DEFINE_bool(
    "largest_batch",
    False,
    "Search for the largest batch that fits, from config.batch_size on.",
)
_JSON = flags.DEFINE_string(
    "json",
    None,
    "File that also gets the report, as JSON; '-' prints the JSON instead of the text.",
)


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags and the config, or ends the process with a sentence.

    Args:
      argv: the command line, with the program's name.

    Returns:
      The arguments that are not flags, with the program's name.

    Raises:
      SystemExit: With status 2 for a mistake in the command or the config, because 1
        means that the step does not fit. With status 0 after help was printed.
    """
    return config_files.parse_flags(
        argv,
        _CONFIG,
        example="--config=configs/motion_cycle.py --topology=v5e:16x16",
        missing=lambda: "" if flags.FLAGS["topology"].present else "topology",
        fail=_fail,
    )


def _fail(error: Exception) -> int:
    """Prints a mistake; FACECYCLE_TRACEBACK=1 adds the stack trace."""
    if os.environ.get("FACECYCLE_TRACEBACK"):
        traceback.print_exc()
    print(f"compile_check: {error}", file=sys.stderr)
    return MISTAKE_EXIT


def _json_file() -> pathlib.Path | None:
    """Returns the file of --json, if there is one.

    It is checked before the compilation, which takes minutes.

    Raises:
      UserError: If the file cannot be written.
    """
    if _JSON.value in (None, "-"):
        return None

    path = pathlib.Path(_JSON.value)
    if path.is_dir():
        raise UserError(f"--json={_JSON.value} must name a file, {path} is a folder.")
    if not path.parent.is_dir():
        raise UserError(
            f"--json={_JSON.value}: there is no folder {path.parent}; create it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--json={_JSON.value}: {path.parent} is not writable.")
    return path


def _chosen(config: ConfigDict) -> dict[str, Any]:
    """Returns what --stage names: a stage, or the config itself if it has none."""
    stages = list(config.get("stages", ()))
    stage = _STAGE.value or None

    if stages and stage not in stages:
        raise UserError(
            f"--stage must be one of {', '.join(stages)}, got {_STAGE.value!r}."
        )
    if stage and not stages:
        raise UserError(
            "--stage must be left out, as the configuration has none, got "
            f"{_STAGE.value!r}."
        )

    chosen = config[stage] if stage else config
    return chosen.to_dict()


def _search(
    config: dict[str, Any], topology: compile_check.Topology
) -> compile_check.Report:
    """Finds the largest batch that fits, and prints each trial when it is done.

    Args:
      config: the config of a run as nested dicts. Its batch is the first one tried.
      topology: what to compile for.

    Returns:
      The report of the largest batch, or of the smallest if not even that fits.
    """
    # The smallest batch: a pair for each chip and micro-batch. If the number of
    # micro-batches is below 1, the first trial raises an error.
    unit = topology.size * max(1, config["optimiser"]["accumulate"])
    reports: dict[int, compile_check.Report] = {}

    def trial(units: int) -> tuple[bool, int]:
        batch_size = units * unit
        report = compile_check.check(
            {**config, "batch_size": batch_size}, topology, effort=_EFFORT.value
        )
        reports[units] = report

        # A trial may take minutes. stdout is for the report.
        verdict = "fits" if report.fits else "does not fit"
        found = f"{report.memory / GIB:.2f} GiB" if report.memory else report.refused
        print(f"{batch_size} pairs: {verdict}, {found}", file=sys.stderr)
        return report.fits, report.memory

    start = max(1, config["batch_size"] // unit)
    best = compile_check.largest_batch(trial, start=start, limit=topology.chip.memory)
    return reports[best or 1]


def main(argv: list[str]) -> int:
    """Runs the check that the flags describe.

    Args:
      argv: the command line without its flags.

    Returns:
      The exit status.
    """
    try:
        return _run(argv)
    except (UserError, OSError) as error:
        return _fail(error)
    except Exception:
        # Python's own status would be 1, which means that the step does not fit.
        traceback.print_exc()
        return DEFECT_EXIT


def _run(argv: list[str]) -> int:
    """Compiles, prints the report and returns the exit status."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags begin with --.")

    topology = compile_check.parse_topology(_TOPOLOGY.value or "", slices=_SLICES.value)
    config = _chosen(_CONFIG.value)
    file = _json_file()

    if _LARGEST.value:
        report = _search(config, topology)
    else:
        report = compile_check.check(config, topology, effort=_EFFORT.value)

    text = json.dumps(report.as_json(), indent=1)
    if _JSON.value == "-":
        print(text)
    elif _LARGEST.value and not report.fits:
        is_split = config["optimiser"]["accumulate"] > 1
        place = "chip and micro-batch" if is_split else "chip"
        print(f"DOES NOT FIT: not even one pair per {place} does.")
    else:
        print(compile_check.describe(report))
    if file:
        write_whole(file, f"{text}\n".encode())

    return 0 if report.fits else 1


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
