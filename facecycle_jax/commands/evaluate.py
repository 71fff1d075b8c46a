"""`facecycle evaluate`: a report of a model, baselines or both on a data set."""

import argparse
from typing import TYPE_CHECKING

from facecycle_jax import evaluation
from facecycle_jax.commands import inputs, shared_options
from facecycle_jax.commands.outputs import check_new_output
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.probes.neighbours import PROJECTIONS
from facecycle_jax.evaluation.report import check_new, markdown, write_report
from facecycle_jax.inference.loading import load
from facecycle_jax.networks import FEATURE_SIZE, LAYERS

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "evaluate", help="evaluate a model and baselines on a data set"
    )

    # What is evaluated, on what.
    command.add_argument("--task", required=True, choices=evaluation.TASKS)
    command.add_argument(
        "--data", help="the data set as published; see docs/evaluate.md"
    )
    command.add_argument(
        "--out", required=True, help="the report folder to make; must not exist"
    )
    command.add_argument(
        "--model", help="model folder, training run, hf://USER/NAME or name of a model"
    )
    command.add_argument(
        "--baselines", default="", help=f"'all' or some of {','.join(BASELINES)}"
    )

    # Options of single tasks.
    command.add_argument(
        "--probe",
        choices=evaluation.PROBES,
        default="logistic",
        help="classifier of emotion",
    )
    shared_options.add_epochs(command)
    shared_options.add_people_left_out(command)
    command.add_argument(
        "--crop", type=float, help="central fraction of the images that is kept, 0 to 1"
    )
    command.add_argument(
        "--test-split", choices=evaluation.TEST_SPLITS, help="test split of fer2013"
    )
    shared_options.add_limit(command)
    command.add_argument(
        "--map", choices=PROJECTIONS, default="pca", help="projection of gallery's maps"
    )
    command.add_argument(
        "--layer",
        default=LAYERS[-1],
        help=f"layer of the features of emotion and pose: {', '.join(LAYERS)} (the "
        "default); several, separated by commas, are joined",
    )
    command.add_argument(
        "--size",
        type=int,
        default=FEATURE_SIZE,
        help="side of the images of emotion and pose, in pixels",
    )

    # Options of all tasks.
    command.add_argument(
        "--flip", action="store_true", help="average features with the mirror image's"
    )
    command.add_argument(
        "--light",
        type=float,
        default=0.0,
        help="normalise brightness and contrast by this fraction, 0 (not) to 1",
    )
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of folds, of initial weights, and of what --limit draws (%(default)s)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates and writes the report.

    Args:
      arguments: those of `add`.

    Raises:
      UserError: If an option is wrong, or the model or data cannot be read.
      FileExistsError: If the report folder exists.
    """
    # Before an hour of evaluation.
    out = check_new_output(arguments.out)
    check_new(out)
    data = shared_options.optional_path(arguments.data, name="--data") or ""

    baselines = shared_options.split_list(arguments.baselines)
    if arguments.baselines == "all":
        baselines = list(BASELINES)

    options = evaluation.EvaluationOptions(
        task=arguments.task,
        path=data,
        baselines=baselines,
        probe=arguments.probe,
        epochs=arguments.epochs,
        without=inputs.read_names(arguments.without),
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
    model = None if arguments.model is None else load(arguments.model)
    result = evaluation.run_evaluation(options, model)

    write_report(result, out)
    print(markdown(result))
    print(f"Wrote {out}")
