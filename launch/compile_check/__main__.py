"""Compiles a train step for a TPU pod slice, or for GPUs, that you do not have.

Reports whether it fits in memory and what it costs.

  python -m launch.compile_check --config=configs/motion_cycle.py --topology=v5e:16x16

Needs `pip install 'facecycle_jax[compile-check]'` (libtpu, Linux) and no TPU; for GPUs,
--topology=h100:2x8 of two hosts, `pip install 'facecycle_jax[cuda12]'`. Fields of
the configuration are set as in training, e.g. --config.batch_size=4096. --slices=N
stands for N such slices joined by a data-centre network. Exit status: 0 it fits, 1 it
does not, 2 a mistake in the command or configuration, 70 a defect of this program.
"""

import json
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

# The root of the repository, where `python -m facecycle_jax.main` finds modules, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from facecycle_jax import config_files
from facecycle_jax.errors import DEFECT_EXIT, MISTAKE_EXIT, UserError
from facecycle_jax.files import write_whole
from launch import compile_check

# On a machine that has TPUs or GPUs they stay free: everything here happens on the CPU.
# JAX has read its environment by now, as the package is imported before this module.
jax.config.update("jax_platforms", "cpu")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A page of configs/.", lock_config=True
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
    "stage", None, "Which of a configuration's stages, where it has several."
)
_EFFORT = flags.DEFINE_enum(
    "effort",
    "full",
    ["full", "quick"],
    "'full' compiles as a run does, for minutes; 'quick' takes a fraction of that, "
    "its times are rougher.",
)
_LARGEST = flags.DEFINE_bool(
    "largest_batch",
    False,
    "Search for the largest batch that fits, from config.batch_size on.",
)
_JSON = flags.DEFINE_string(
    "json", None, "File to write the report to, too; '-' prints it instead of the text."
)


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags and the config, or ends the process with a sentence.

    Args:
      argv: the command line, with the program's name.

    Returns:
      The arguments that are not flags, with the program's name.

    Raises:
      SystemExit: With status 2 for a mistake in the command or the config, because 1
        means that the step does not fit; with status 0 after help was printed.
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
    """Returns the file of --json; checked early, as compiling takes minutes."""
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


def _chosen(config: ConfigDict) -> dict:
    """Picks the configuration to compile: the page itself, or one of its stages."""
    stages = list(config.get("stages", ()))
    if (_STAGE.value or None) not in (stages or [None]):
        known = (
            f"one of {', '.join(stages)}"
            if stages
            else "left out, as the configuration has none"
        )
        raise UserError(f"--stage must be {known}, got {_STAGE.value!r}.")
    return (config[_STAGE.value] if stages else config).to_dict()


def _search(config: dict, topology: compile_check.Topology) -> compile_check.Report:
    """Finds the largest batch; says each trial as it goes, as each may take minutes.

    Returns its report, or that of the smallest batch where not even that fits.
    """
    # Micro-batches below 1 are refused by the first trial.
    unit = topology.size * max(1, config["optimiser"]["accumulate"])
    reports = {}

    def trial(number: int) -> tuple[bool, int]:
        report = compile_check.check(
            {**config, "batch_size": number * unit}, topology, effort=_EFFORT.value
        )
        reports[number] = report
        found = f"{report.memory / 2**30:.2f} GiB" if report.memory else report.refused
        print(
            f"{number * unit} pairs: {'fits' if report.fits else 'does not fit'}, "
            f"{found}",
            file=sys.stderr,
        )
        return report.fits, report.memory

    start = max(1, config["batch_size"] // unit)
    best = compile_check.largest_batch(trial, start=start, limit=topology.chip.memory)
    return reports[best or 1]


def main(argv: list[str]) -> int:
    """Runs the check of the flags.

    Args:
      argv: the command line after flags are taken out.

    Returns:
      The exit status.
    """
    try:
        return _run(argv)
    except (UserError, OSError) as error:
        return _fail(error)
    except Exception:
        # Status 1 means that the step does not fit, so a defect needs its own.
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
        print("DOES NOT FIT: not even one pair per chip does.")
    else:
        print(compile_check.describe(report))
    if file:
        write_whole(file, f"{text}\n".encode())
    return 0 if report.fits else 1


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
