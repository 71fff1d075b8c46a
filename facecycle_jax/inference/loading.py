"""Models out of folders, training runs, the Hugging Face Hub and states in memory."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
from etils import epath

from facecycle_jax.errors import UserError, shorten
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.peer_model import PeerModel
from facecycle_jax.inference.runner import BATCH_SIZE, check_batch
from facecycle_jax.methods import PEERS, vgg_width
from facecycle_jax.networks import Tree
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.paths import given_path
from facecycle_jax.storage import read_model
from facecycle_jax.storage.bundled import bundled_models, find_model_folder
from facecycle_jax.storage.folder_config import CONFIG, WEIGHTS
from facecycle_jax.storage.hub import download_model, is_hub_address

# The bundled model that commands use where none is named.
DEFAULT_MODEL = "facecycle-base"
# The address of a model's page on the Hub.
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)


def model_path(path_or_name: epath.PathLike) -> epath.PathLike:
    """Checks what a user has given as a model; '~' becomes the home folder.

    Args:
      path_or_name: as for `load`.

    Returns:
      An address on the Hub as it is, else a path.

    Raises:
      UserError: If it is not a path, is empty, or is the address of a web page.
    """
    if not isinstance(path_or_name, str | os.PathLike):
        raise UserError(
            "a model is named by a path, a name or hf://USER/NAME, got "
            f"{shorten(path_or_name)}."
        )
    if is_hub_address(path_or_name):
        return path_or_name

    text = os.fspath(path_or_name)
    if _HUB_PAGE.match(text):
        raise UserError(
            f"the model {text} is a web page: write hf://USER/NAME instead."
        )
    return given_path(path_or_name, name="the model")


def load(
    path_or_name: epath.PathLike = DEFAULT_MODEL,
    *,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: epath.PathLike | None = None,
    local_files_only: bool = False,
) -> FaceCycle:
    """Loads a model.

    Args:
      path_or_name: a model folder, the workdir of a training run (its newest checkpoint
        is used) or one of its checkpoints, DIR/checkpoints/STEP, the name of a bundled
        model, 'facecycle-base' (docs/model_card.md) or 'facecycle-small', or a model on
        the Hugging Face Hub: 'hf://user/name', 'hf-hub:user/name' or
        'hf://user/name@revision'.
      batch_size: images computed at once, at most, on all devices together.
      devices: devices of one kind and of this process, to split batches of images over.
        None uses all of the default kind. Each holds the parameters once it is needed.
      revision: of a model on the Hub, the branch, tag or commit.
      token: of a model on the Hub, the access token; None: that of HF_TOKEN or of
        `hf auth login`.
      cache_dir: of a model on the Hub, where downloads are kept; None: HF_HUB_CACHE.
      local_files_only: of a model on the Hub, whether only the cache is looked at.

    Returns:
      The model. A run of a method that FaceCycle is compared with gives a `PeerModel`.

    Raises:
      FileNotFoundError: If there is nothing of that name.
      UserError: If it cannot be read, or an argument is of a wrong type; in one
        sentence that says why.
    """
    path_or_name = model_path(path_or_name)
    check_batch(batch_size, devices)

    from_hub: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    if is_hub_address(path_or_name):
        path_or_name = download_model(os.fspath(path_or_name), **from_hub)
    elif any(from_hub.values()):
        given = next(name for name, value in from_hub.items() if value)
        raise UserError(
            f"{given} is for models on the Hub, 'hf://user/name', and the model is "
            f"{str(path_or_name)!r}."
        )
    path = epath.Path(path_or_name)

    if _is_run(path):
        run = _read_run(path)
        with _fields_of(run):
            return model_from_state(
                run.config,
                run.trees,
                info={"source": _source_of(run)},
                batch_size=batch_size,
                devices=devices,
            )

    _check_one_stage(path)
    found = path if path.exists() else find_model_folder(path_or_name)
    if found is None:
        raise FileNotFoundError(
            f"no model {str(path_or_name)!r}: give a model folder, the workdir of a "
            f"run, hf://USER/NAME, or one of {', '.join(bundled_models())}."
        )

    folder = read_model(found)
    return FaceCycle(
        folder.trees,
        model=folder.model,
        info=folder.info,
        batch_size=batch_size,
        devices=devices,
        networks=folder.networks,
    )


def _is_run(path: epath.Path) -> bool:
    """Says whether a path is the workdir of a run or one of its checkpoints."""
    # A model folder may lie in a folder named checkpoints.
    if (path / CONFIG).exists() and (path / WEIGHTS).exists():
        return False
    return path.parent.name == "checkpoints" or (path / "checkpoints").is_dir()


def _check_one_stage(path: epath.Path) -> None:
    """Raises UserError for a workdir that holds one run for each stage of a config.

    The path is no run itself.
    """
    if not path.is_dir() or (path / CONFIG).exists():
        return

    stages = [child.name for child in path.iterdir() if _is_run(child)]
    if stages:
        raise UserError(
            f"{path} holds the stages {', '.join(sorted(stages))}: name the folder of "
            "one of them; that of the last one has the networks of all."
        )


class _Run(NamedTuple):
    """What a model is made of, out of a training run's workdir."""

    workdir: epath.Path
    config: dict[str, Any]
    checkpoint: epath.Path
    trees: dict[str, Tree]


def model_from_run(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Loads what a model folder needs from a training run.

    Args:
      path: workdir of a run (its newest checkpoint is used, or the one before it if
        that is damaged) or one checkpoint, WORKDIR/checkpoints/STEP.

    Returns:
      Trees by name (averaged weights where they were kept), model configuration, and
      the source in words.

    Raises:
      FileNotFoundError: If there is no run or no checkpoint.
      UserError: If it cannot be read, its config.json lacks a field, or it is a run of
        a method that FaceCycle is compared with.
    """
    path = epath.Path(model_path(path))
    if not _is_run(path):
        _check_one_stage(path)
    return _model_of_run(_read_run(path))


def _read_run(path: epath.PathLike) -> _Run:
    """Reads the configuration of a run and its newest checkpoint that is whole.

    Raises:
      FileNotFoundError: If there is no run or no checkpoint.
      UserError: If the configuration is broken or lacks the method or the model.
    """
    # Orbax takes a second to import; model folders do without.
    from facecycle_jax.training.checkpoint_reading import find_checkpoint, load_newest
    from facecycle_jax.training.run_config import read_config

    # The configuration first: it is small, and a checkpoint takes long to read.
    workdir = find_checkpoint(path).parent.parent
    config = read_config(workdir)
    if "method" not in config or not isinstance(config.get("model"), Mapping):
        raise UserError(
            f"{workdir / 'config.json'} is not a configuration of a run: it needs "
            "method and model."
        )

    checkpoint, trees = load_newest(path)
    return _Run(workdir=workdir, config=config, checkpoint=checkpoint, trees=trees)


def _model_of_run(run: _Run) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Picks what a model folder needs of a run; see `model_from_run`."""
    method = run.config["method"]
    if method in PEERS:
        raise UserError(
            f"{run.workdir} is a run of {method}, and model folders are for "
            "FaceCycle's models: use the run itself, "
            f"facecycle_jax.load('{run.workdir}')."
        )

    with _fields_of(run):
        trees, model = _networks_of_state(run.config, run.trees)
    return trees, model, _source_of(run)


def _source_of(run: _Run) -> str:
    """Says in words what a model of a run was made of."""
    method = run.config["method"]
    package = "" if method in PEERS else " of facecycle_jax"
    step = f"step {run.checkpoint.name}"
    return f"training run {run.workdir.name}{package}, {method}, {step}"


@contextlib.contextmanager
def _fields_of(run: _Run) -> Iterator[None]:
    """Names the run's configuration in errors of its fields.

    It is a file of the user's, so a field may be missing or of another type.
    """
    file = run.workdir / "config.json"
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{file} is not a configuration of a run: it lacks the field {error}."
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not a configuration of a run ({error}).") from error


def model_from_state(
    config: Mapping[str, Any],
    trees: Mapping[str, Tree],
    *,
    info: Mapping[str, Any] | None = None,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
) -> FaceCycle:
    """Makes a model from a training run's parameters in memory.

    Args:
      config: configuration of the run, with `model` and `loss`.
      trees: parameters by network name, those of the state's `frozen` and `eval_params`
        together.
      info: what is known of the model, for reading.
      batch_size: see `load`.
      devices: see `load`.

    Returns:
      The model; it copies the parameters. A method that FaceCycle is compared with
      gives a `PeerModel`.
    """
    if config.get("method") in PEERS:
        peer = PeerModel(
            trees, config=config, info=info, batch_size=batch_size, devices=devices
        )
        # Typed as what nearly everybody loads, as in `load`.
        return cast(FaceCycle, peer)

    kept, model = _networks_of_state(config, trees)
    return FaceCycle(
        kept, model=model, info=info, batch_size=batch_size, devices=devices
    )


def _networks_of_state(
    config: Mapping[str, Any], trees: Mapping[str, Tree]
) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Picks the parameters and the configuration that a model needs of a run.

    Parameters that only the loss needs are left out.
    """
    kept = dict(trees)
    model = dict(config["model"])

    if model["trunk"] == "learned":
        # A VGG-19 is the loss's alone.
        kept.pop("vgg", None)
    else:
        model["vgg_width"] = vgg_width(config)
        if "vgg" in kept:
            # Layers beyond these are the loss's alone.
            kept["vgg"] = {
                layer: kept["vgg"][layer]
                for layer in TRUNK_LAYERS
                if layer in kept["vgg"]
            }
    return kept, model
