"""`facecycle evaluate`.

A model, baselines or both on a data set, as a report folder.
"""

import argparse
from typing import TYPE_CHECKING

from etils import epath

from facecycle_jax import evaluation
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.probes.neighbours import PROJECTIONS
from facecycle_jax.evaluation.report import check_new, markdown, write_report
from facecycle_jax.inference.face_cycle import load
from facecycle_jax.networks import FEATURE_SIZE, LAYERS

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "evaluate", help="evaluate a model and baselines on a data set"
    )
    command.add_argument("--task", required=True, choices=evaluation.TASKS)
    command.add_argument(
        "--data", default="", help="the data set as published, see docs/evaluate.md"
    )
    command.add_argument(
        "--out", required=True, help="the report folder to make; must not exist"
    )
    command.add_argument(
        "--model", help="model folder, training run, or name of a model"
    )
    command.add_argument(
        "--baselines", default="", help=f"'all' or some of {','.join(BASELINES)}"
    )
    command.add_argument(
        "--probe", choices=evaluation.PROBES, default="logistic", help="of emotion"
    )
    command.add_argument(
        "--without", help="file with one name a line: people left out of verification"
    )
    command.add_argument(
        "--crop", type=float, help="middle part of the pictures kept, 0 to 1"
    )
    command.add_argument(
        "--test-split", choices=evaluation.TEST_SPLITS, help="of fer2013"
    )
    command.add_argument(
        "--limit",
        type=int,
        default=0,
        help="most pictures or pairs of each split; 0: all",
    )
    command.add_argument(
        "--map", choices=PROJECTIONS, default="pca", help="of gallery: kind of the maps"
    )
    command.add_argument(
        "--layer",
        choices=LAYERS,
        default=LAYERS[-1],
        help="of emotion and pose: whose map",
    )
    command.add_argument(
        "--size",
        type=int,
        default=FEATURE_SIZE,
        help="of the same: pixels of the pictures",
    )
    command.add_argument(
        "--flip", action="store_true", help="average features with the mirror image's"
    )
    command.add_argument(
        "--light",
        type=float,
        default=0.0,
        help="even out brightness and contrast by this, 0 (not) to 1",
    )
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates and writes the report."""
    check_new(arguments.out)
    chosen = (
        list(BASELINES) if arguments.baselines == "all" else _words(arguments.baselines)
    )
    without = []
    if arguments.without:
        lines = epath.Path(arguments.without).read_text(encoding="utf-8").splitlines()
        without = [line.strip() for line in lines if line.strip()]
    options = evaluation.EvaluationOptions(
        task=arguments.task,
        path=arguments.data,
        baselines=chosen,
        probe=arguments.probe,
        without=without,
        crop=arguments.crop,
        test_split=arguments.test_split,
        limit=arguments.limit,
        projection=arguments.map,
        layer=arguments.layer,
        size=arguments.size,
        flip=arguments.flip,
        light=arguments.light,
        seed=arguments.seed,
    )
    model = load(arguments.model) if arguments.model else None
    result = evaluation.run_evaluation(options, model)
    write_report(result, arguments.out)
    print(markdown(result))
    print(f"Wrote {arguments.out}")


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
