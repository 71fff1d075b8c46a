"""The `facecycle` command.

Exit status: 0 done, 2 for a wrong argument or file, told in one sentence.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from facecycle_jax.convert.vgg import vgg_from_keras, vgg_from_torchvision, write_vgg


def _import_vgg(arguments: argparse.Namespace) -> None:
    is_keras = pathlib.Path(arguments.file).suffix.lower() in (".h5", ".hdf5")
    read = vgg_from_keras if is_keras else vgg_from_torchvision
    write_vgg(read(arguments.file), arguments.out)
    print(f"Wrote {arguments.out}; use it with --config.loss.vgg={arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facecycle", description="FaceCycle in JAX.")
    commands = parser.add_subparsers(dest="command", required=True)
    vgg = commands.add_parser("import-vgg", help="convert VGG-19 weights to the .npz training takes")
    vgg.add_argument("file", help="vgg19-*.pth of torchvision or VGG19 .h5 of Keras")
    vgg.add_argument("--out", required=True, help="the .npz to write; must not exist")
    vgg.set_defaults(run=_import_vgg)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: command line without the program's name; None takes that of the process.

    Returns:
      The exit status.
    """
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (ValueError, OSError) as error:
        print(f"facecycle: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
