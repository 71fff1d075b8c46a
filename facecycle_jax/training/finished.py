"""Stages that are finished, which the next start of a run passes over.

To find that nothing is left to do, a stage would read its data and its state again.
"""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from facecycle_jax.files import read_json, write_json
from facecycle_jax.training.checkpoint_reading import FOLDER
from facecycle_jax.training.processes import agree
from facecycle_jax.training.run_config import FILE_NAME as CONFIG_NAME
from facecycle_jax.training.run_config import flatten

FILE_NAME = "finished.json"


def record_finished(workdir: epath.Path, step: int) -> None:
    """Records that a stage is done and saved.

    Args:
      workdir: directory of the stage.
      step: its last step.
    """
    if jax.process_index() == 0:
        write_json(workdir / FILE_NAME, {"step": step})


def finished_step(workdir: epath.Path) -> int:
    """Reads the last step of a stage that was done before.

    Args:
      workdir: directory of the stage.

    Returns:
      The step; -1 if the stage was never done.
    """
    path = workdir / FILE_NAME
    step = read_json(path).get("step") if path.exists() else None
    return step if isinstance(step, int) else -1


def is_finished(config: Mapping[str, Any], workdir: epath.Path) -> bool:
    """Whether a stage is done, by this very configuration, and its checkpoint is there.

    All processes have to call it; process 0 decides.

    Args:
      config: the stage's configuration.
      workdir: directory of the stage.

    Returns:
      False also where the configuration differs in whatever field.
    """
    return bool(agree(int(jax.process_index() == 0 and _is_done(config, workdir))))


def _is_done(config: Mapping[str, Any], workdir: epath.Path) -> bool:
    """`is_finished` for one process."""
    step = finished_step(workdir)
    if step < 0 or not (workdir / CONFIG_NAME).exists():
        return False

    saved = workdir / FOLDER / str(step)
    return flatten(config) == read_json(workdir / CONFIG_NAME) and saved.is_dir()
