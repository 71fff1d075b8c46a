"""`facecycle push`: uploads a model folder to the Hugging Face Hub."""

import argparse
from typing import TYPE_CHECKING

from facecycle_jax.inference.loading import model_path
from facecycle_jax.storage.bundled import bundled_models, find_model_folder
from facecycle_jax.storage.hub import push_model

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "push", help="upload a model folder to the Hugging Face Hub"
    )
    command.add_argument("folder", help="model folder, or name of a bundled model")
    command.add_argument(
        "repo",
        metavar="USER/NAME",
        help="repository on the Hub, perhaps followed by @BRANCH; made if missing",
    )
    command.add_argument(
        "--public",
        action="store_true",
        help="make a new repository public (default: only its owner sees it)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Uploads the folder. The token is that of HF_TOKEN or of `hf auth login`.

    Args:
      arguments: folder, repo, public.

    Raises:
      FileNotFoundError: If there is no such model.
      MissingExtraError: If huggingface_hub is not installed.
      UserError: If the model cannot be read or the Hub refuses it.
    """
    folder = find_model_folder(model_path(arguments.folder))
    if folder is None:
        raise FileNotFoundError(
            f"{arguments.folder} is not a model folder: make one with `facecycle "
            f"export`, or name one of {', '.join(bundled_models())}."
        )

    address = push_model(folder, arguments.repo, public=arguments.public)
    print(f"Pushed {arguments.folder}: {address}")
