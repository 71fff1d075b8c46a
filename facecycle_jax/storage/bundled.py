"""Finding model folders: the user's own, the bundled ones and those on the Hub."""

import os
import pathlib

from etils import epath

from facecycle_jax.storage.folder_config import WEIGHTS
from facecycle_jax.storage.hub import download_model, is_hub_address

_BUNDLED = pathlib.Path(__file__).parent.parent / "weights"


def bundled_models() -> list[str]:
    """Returns the names of the bundled models, sorted."""
    if not _BUNDLED.is_dir():
        return []

    # A file manager may leave files of its own in the folder.
    return sorted(
        path.name for path in _BUNDLED.iterdir() if (path / WEIGHTS).is_file()
    )


def find_model_folder(path_or_name: epath.PathLike) -> epath.Path | None:
    """Finds the model folder that a path or a name means.

    Args:
      path_or_name: a model folder, the name of a bundled model, or an address on the
        Hub, from which it is downloaded. An existing path goes before a bundled model.

    Returns:
      The folder, or None: the path exists without a weights.safetensors, or it does not
      exist and no bundled model has that name.

    Raises:
      UserError: If the Hub does not deliver the model; see `hub.download_model`.
    """
    if is_hub_address(path_or_name):
        return download_model(os.fspath(path_or_name))

    path = epath.Path(path_or_name).expanduser()
    if path.exists():
        return path if (path / WEIGHTS).exists() else None

    name = str(path_or_name)
    return epath.Path(_BUNDLED / name) if name in bundled_models() else None
