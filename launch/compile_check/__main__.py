"""Compiles a train step for a TPU pod slice, or for GPUs, that you do not have.

Reports whether it fits in memory and what it costs.

  python -m launch.compile_check --config=configs/motion_cycle.py --topology=v5e:16x16

Needs `pip install 'facecycle_jax[compile-check]'` (libtpu, Linux) and no TPU; for GPUs,
--topology=h100:2x8 of two hosts, `pip install 'facecycle_jax[cuda12]'`. Fields of
the configuration are set as in training, e.g. --config.batch_size=4096. --slices=N
stands for N such slices joined by a data-centre network. Exit status: 0 it fits, 1 it
does not, 2 a mistake in the command or configuration.
"""

import json
import pathlib
import sys

# As `python -m facecycle_jax.main` in the root of the repository does.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

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


def _chosen(config: ConfigDict) -> dict:
    """Picks the configuration to compile: the page itself, or one of its stages."""
    stages = list(config.get("stages", ()))
    if (_STAGE.value or None) not in (stages or [None]):
        known = (
            f"one of {', '.join(stages)}"
            if stages
            else "left out, as the configuration has none"
        )
        raise ValueError(f"--stage must be {known}, got {_STAGE.value!r}.")
    return (config[_STAGE.value] if stages else config).to_dict()


def _search(
    config: dict, topology: compile_check.Topology
) -> compile_check.Report | None:
    """Finds the largest batch; says each trial as it goes, as each may take minutes."""
    unit = topology.size * config["optimiser"]["accumulate"]
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
    return reports.get(best)


def main(argv: list[str]) -> int:
    """Runs the check of the flags.

    Args:
      argv: the command line after flags are taken out.

    Returns:
      The exit code.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}.")
    try:
        topology = compile_check.parse_topology(_TOPOLOGY.value, slices=_SLICES.value)
        config = _chosen(_CONFIG.value)
        if _LARGEST.value:
            report = _search(config, topology)
        else:
            report = compile_check.check(config, topology, effort=_EFFORT.value)
    except (ValueError, OSError) as error:
        print(f"compile_check: {error}", file=sys.stderr)
        return 2
    if report is None:
        print("DOES NOT FIT: not even one pair per chip does.")
        return 1
    text = json.dumps(report.as_json(), indent=1)
    print(text if _JSON.value == "-" else compile_check.describe(report))
    if _JSON.value not in (None, "-"):
        pathlib.Path(_JSON.value).write_text(text + "\n")
    return 0 if report.fits else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main)
