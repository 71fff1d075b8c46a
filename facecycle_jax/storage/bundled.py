"""Where models are: folders of the user's, and those that come with the package."""

import pathlib

from etils import epath

from facecycle_jax.storage.folder_config import WEIGHTS

_SHIPPED = pathlib.Path(__file__).parent.parent / "weights"


def shipped_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(p.name for p in _SHIPPED.iterdir()) if _SHIPPED.is_dir() else []


def find_model_folder(path_or_name: epath.PathLike) -> epath.Path | None:
    """Finds the model folder that a path or a name means.

    Args:
      path_or_name: a model folder, or the name of a model that comes with the package.
        What is there under that path goes first.

    Returns:
      The folder, or None where there is none: what is there has no weights.safetensors,
      or nothing is there and no model has that name.
    """
    path = epath.Path(path_or_name).expanduser()
    if path.exists():
        return path if (path / WEIGHTS).exists() else None
    name = str(path_or_name)
    return epath.Path(_SHIPPED / name) if name in shipped_models() else None
