"""A folder that runs as a Gradio Space on the Hugging Face Hub: the demo's page."""

import pathlib
from collections.abc import Callable

from etils import epath

from facecycle_jax._version import __version__
from facecycle_jax.files import new_folder
from facecycle_jax.storage.folder_config import read_config
from facecycle_jax.storage.model_card import licence_lines

# What the Space installs unless the user names another source of the package.
PACKAGE = f"facecycle_jax[demo]=={__version__}"
# The smallest version of the extra `demo`.
GRADIO = "6.31.0"
_MODEL = "model"
_APP = '''"""The demo page of facecycle_jax with the model of this folder."""

import pathlib

from facecycle_jax.commands import demo

demo.serve_space(pathlib.Path(__file__).parent / "{model}")
'''
_README = """---
title: FaceCycle
emoji: 🎭
colorFrom: blue
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
{licence}
short_description: Exchange motion and identity of two faces
---

The demo page of facecycle_jax with a model ({source}).
The model's card is `{model}/README.md`.

Images in which a person is given another's expression or face show what did not happen:
say so where you show them.
"""


def write_space(
    folder: epath.PathLike,
    write_model_folder: Callable[[pathlib.Path], None],
    *,
    package: str = PACKAGE,
) -> None:
    """Writes the folder of a Space; it appears whole or not at all.

    Args:
      folder: the folder to make, local or in the cloud.
      write_model_folder: writes the model folder to a path that does not exist yet.
      package: line of requirements.txt that installs this package with its extra
        `demo`.

    Raises:
      FileExistsError: If the folder exists.
      UserError: If the model cannot be written.
    """
    with new_folder(folder, last="README.md") as partial:
        write_model_folder(partial / _MODEL)
        config = read_config(epath.Path(partial / _MODEL)).info

        text = _README.format(
            gradio=GRADIO,
            licence="\n".join(licence_lines(config["licence"])),
            source=" ".join(config["source"].split()),
            model=_MODEL,
        )
        files = {
            "app.py": _APP.format(model=_MODEL),
            "requirements.txt": f"{package}\n",
            "README.md": text,
        }
        for name, content in files.items():
            (partial / name).write_text(content, encoding="utf-8")
