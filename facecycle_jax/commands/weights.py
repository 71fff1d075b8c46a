"""Conversion of weights: `facecycle import-torch`, `export` and `import-vgg`."""

import argparse
import hashlib
from typing import TYPE_CHECKING

from etils import epath

from facecycle_jax.commands import exported, outputs, space
from facecycle_jax.data.images.framing import FRAMING, Framing, read_framing
from facecycle_jax.errors import ConversionError
from facecycle_jax.inference.loading import model_from_run, model_path
from facecycle_jax.interop.original import read_original
from facecycle_jax.interop.vgg_weights import (
    vgg_from_keras,
    vgg_from_torchvision,
    write_vgg,
)
from facecycle_jax.networks.vgg import read_vgg_npz
from facecycle_jax.paths import given_path
from facecycle_jax.storage.card_results import read_report
from facecycle_jax.storage.model_folder import DTYPES, write_model
from facecycle_jax.storage.model_spec import ORIGINAL_MODEL

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommands.

    Args:
      commands: what `ArgumentParser.add_subparsers` returns.
    """
    torch = commands.add_parser(
        "import-torch", help="convert a checkpoint of the original program"
    )
    torch.add_argument(
        "file", help="checkpoint (.tar) of stage 1 or both; nothing in it is executed"
    )
    torch.add_argument(
        "--out", required=True, help="the model folder to make; must not exist"
    )
    torch.add_argument(
        "--vgg", help=".npz of import-vgg, for files without the frozen trunk"
    )
    _add_options(torch, licence="not stated; that of the original program's weights")
    torch.set_defaults(run=import_torch)

    export = commands.add_parser(
        "export",
        help="make a model folder, a program, a web page or a Space of a training run",
    )
    export.add_argument(
        "run_or_checkpoint",
        metavar="RUN",
        help="workdir of a run, or WORKDIR/checkpoints/STEP; for --space, programs "
        "and pages also a model",
    )
    export.add_argument("--out", help="the folder to make; must not exist")
    _add_options(export, licence=exported.NOT_STATED)
    export.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="training set that the card names, such as lfw or USER/NAME; may be "
        "repeated",
    )
    export.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="REPORT",
        help="report of `facecycle evaluate` on RUN, for the card; may be repeated",
    )
    exported.add_options(export)
    export.set_defaults(run=export_run)

    vgg = commands.add_parser(
        "import-vgg", help="convert VGG-19 weights to the .npz that training reads"
    )
    vgg.add_argument("file", help="vgg19-*.pth of torchvision or VGG19 .h5 of Keras")
    vgg.add_argument("--out", required=True, help="the .npz to write; must not exist")
    vgg.set_defaults(run=import_vgg)


def _add_options(parser: argparse.ArgumentParser, *, licence: str) -> None:
    """Adds the options of the commands that write a model folder."""
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        default="float32",
        help="dtype of the stored weights",
    )
    parser.add_argument(
        "--licence",
        default=licence,
        help="licence of the weights, in words (default: %(default)s)",
    )
    parser.add_argument(
        "--framing",
        help="eyes in the training images, LEFT_X,LEFT_Y,RIGHT_X,RIGHT_Y "
        "(default: 0.36,0.41,0.64,0.41)",
    )


def _framing(arguments: argparse.Namespace) -> Framing:
    """Returns the framing of the command line, or the default one."""
    if arguments.framing is None:
        return FRAMING

    return read_framing(arguments.framing)


def import_torch(arguments: argparse.Namespace) -> None:
    """Converts a checkpoint of the original program to a model folder.

    Args:
      arguments: file, out, vgg, dtype, licence, framing.

    Raises:
      UserError: If the file is no such checkpoint, or has no trunk and none is given.
      FileExistsError: If the folder exists.
    """
    # Before seconds of reading.
    out = outputs.check_new_output(arguments.out)
    file = given_path(arguments.file, name="FILE")

    trees = read_original(file)
    if "vgg" not in trees:
        if arguments.vgg is None:
            raise ConversionError(
                f"{file} does not hold the VGG-19 layers that its generator "
                f"needs; give them with --vgg FILE.npz, as `facecycle import-vgg` "
                f"writes it."
            )
        trees["vgg"] = read_vgg_npz(given_path(arguments.vgg, name="--vgg"))

    # The model's source names the file beyond doubt.
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()

    write_model(
        out,
        trees,
        model=ORIGINAL_MODEL,
        licence=arguments.licence,
        source=f"checkpoint {file.name} of the original PyTorch program, sha256 "
        f"{digest}",
        dtype=arguments.dtype,
        framing=_framing(arguments),
    )
    print(f"Wrote {out} with the networks {', '.join(trees)}")


def export_run(arguments: argparse.Namespace) -> None:
    """Makes a model folder, a program, a page or a Space of a training run.

    Args:
      arguments: run_or_checkpoint, out, dtype, licence, framing, dataset, results and
        those of `exported.add_options`.

    Raises:
      FileNotFoundError: If there is no run, no checkpoint or no report.
      UserError: If it cannot be read, or options contradict each other.
      FileExistsError: If a folder exists.
    """
    exported.check_options(arguments)

    if arguments.format == exported.WEB:
        exported.write_web_page(arguments)
        return
    if arguments.format != exported.FOLDER:
        exported.write_program(arguments)
        return

    model = model_path(arguments.run_or_checkpoint)
    if arguments.out is not None:
        out = given_path(arguments.out, name="--out")
        networks = _write_run(arguments, out)
        print(f"Wrote {out} with the networks {', '.join(networks)}")
        model = out

    if arguments.space is not None:
        exported.write_space_of(
            model,
            given_path(arguments.space, name="--space"),
            write_run=lambda folder: _write_run(arguments, folder),
            package=arguments.package or space.PACKAGE,
        )


def _write_run(arguments: argparse.Namespace, folder: epath.PathLike) -> list[str]:
    """Makes a model folder of a training run, and returns the networks' names."""
    trees, model, source = model_from_run(arguments.run_or_checkpoint)
    results = []
    for report in arguments.results:
        results += read_report(given_path(report, name="--results"), source=source)

    write_model(
        folder,
        trees,
        model=model,
        licence=arguments.licence,
        source=source,
        dtype=arguments.dtype,
        framing=_framing(arguments),
        datasets=arguments.dataset,
        results=results,
    )
    return list(trees)


def import_vgg(arguments: argparse.Namespace) -> None:
    """Converts VGG-19 weights of torchvision or Keras to the .npz that training reads.

    Args:
      arguments: file, out.

    Raises:
      UserError: If the file holds no VGG-19.
      FileExistsError: If the .npz exists.
    """
    # Before minutes of reading.
    out = outputs.check_new_output(arguments.out)
    file = given_path(arguments.file, name="FILE")

    is_keras = file.suffix.lower() in (".h5", ".hdf5")
    read = vgg_from_keras if is_keras else vgg_from_torchvision
    write_vgg(read(file), out)

    print(f"Wrote {out}; train with --set loss.vgg={out}")
