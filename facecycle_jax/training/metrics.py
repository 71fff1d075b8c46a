"""Averages of loss terms between logs, and their writers.

JSON lines, and TensorBoard if installed.

Scalars by name, e.g. 'train/total'; pictures uint8 [H, W, 3].
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from facecycle_jax.files import write_whole

log = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"


@flax.struct.dataclass
class Average:
    """A sum of observations and their number.

    Small enough not to need clu where only steps are timed.

    Attributes:
      total: float32 scalar.
      count: int32 scalar.
    """

    total: jax.Array
    count: jax.Array

    def merge(self, other: "Average") -> "Average":
        """Adds the other's observations."""
        return Average(self.total + other.total, self.count + other.count)


@flax.struct.dataclass
class Averages:
    """Running averages of scalars.

    A pytree, so it can stay on the devices until it is read.

    Attributes:
      values: one average by name.
    """

    values: dict[str, Average]

    @classmethod
    def of(
        cls, terms: Mapping[str, jax.Array], *, mask: jax.Array | None = None
    ) -> "Averages":
        """Builds averages of one observation each.

        Args:
          terms: scalars by name.
          mask: bool scalar; False leaves the observation out, even if it is not finite.

        Returns:
          The averages.
        """
        mask = jnp.asarray(True) if mask is None else mask
        return cls(
            {
                name: Average(
                    jnp.where(mask, value, 0).astype(jnp.float32),
                    mask.astype(jnp.int32),
                )
                for name, value in terms.items()
            }
        )

    def merge(self, other: "Averages") -> "Averages":
        """Merges with averages of the same names."""
        return Averages(
            {k: value.merge(other.values[k]) for k, value in self.values.items()}
        )

    def compute(self) -> dict[str, float]:
        """Computes the averages as floats.

        Names without an observation are left out.
        """
        host = jax.device_get(self)
        return {
            k: float(v.total / v.count) for k, v in host.values.items() if v.count > 0
        }


def hide_accelerators_from_tensorflow() -> str:
    """Keeps TensorFlow from taking the memory that JAX needs.

    Returns:
      '' or, where TensorFlow cannot be imported, the reason.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        return f"{error} (pip install 'facecycle_jax[tf]')"
    tf.config.set_visible_devices([], "GPU")
    return ""


def _summary_writer(directory: epath.Path) -> tuple[Any, str]:
    """Opens TensorBoard event files; (None, the reason) where that cannot be."""
    reason = hide_accelerators_from_tensorflow()
    if reason:
        return None, reason
    try:
        from clu import metric_writers
    except ImportError as error:
        return None, f"{error} (pip install 'facecycle_jax[tf]')"
    return metric_writers.SummaryWriter(str(directory)), ""


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Turns TensorFlow's own errors of a full disk and the like into OSError."""
    try:
        yield
    except Exception as error:
        raise OSError(f"TensorBoard event files: {str(error)[:300]}") from error


class MetricWriter:
    """Writes scalars and pictures of a run.

    Args:
      workdir: directory of the run.
      step: step the run continues from; lines of later steps are removed, so that none
        is doubled.
      tensorboard: whether to write event files too, if TensorFlow and TensorBoard are
        installed.
    """

    def __init__(
        self, workdir: epath.Path, *, step: int = 0, tensorboard: bool = True
    ) -> None:
        self._path = workdir / FILE_NAME
        self._lines: list[str] = []
        self._file: TextIO | None = None
        self._events: Any = None
        if jax.process_index():
            return
        self._lines = _kept_lines(self._path, step)
        self._rewrite()
        if "://" not in str(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        reason = "config.tensorboard is False"
        if tensorboard:
            self._events, reason = _summary_writer(workdir / "tensorboard")
        if reason:
            log.info(
                "No TensorBoard event files: %s. Metrics go to %s.", reason, self._path
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of scalars, at once."""
        if jax.process_index():
            return
        # JSON has no NaN; null says the same to every reader.
        numbers = {
            k: float(v) if np.isfinite(v) else None for k, v in sorted(values.items())
        }
        line = json.dumps({"step": int(step), **numbers})
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        else:
            # Object stores cannot append.
            self._lines.append(line)
            self._rewrite()
        if self._events is not None:
            with _as_os_errors():
                self._events.write_scalars(step, dict(values))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3], to the TensorBoard event files."""
        if self._events is not None:
            with _as_os_errors():
                self._events.write_images(step, {name: picture[None]})

    def flush(self) -> None:
        """Writes out what is buffered."""
        if self._events is not None:
            with _as_os_errors():
                self._events.flush()

    def close(self) -> None:
        """Writes out what is buffered and closes the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            with _as_os_errors():
                self._events.close()

    def _rewrite(self) -> None:
        write_whole(self._path, "".join(line + "\n" for line in self._lines).encode())


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the lines a run has written.

    Args:
      workdir: directory of the run.

    Returns:
      One dict per line, with 'step'; [] where there are none.
    """
    path = epath.Path(workdir) / FILE_NAME
    return [json.loads(line) for line in _kept_lines(path, None)]


def _kept_lines(path: epath.Path, last: int | None) -> list[str]:
    """Lines of a metrics file up to a step.

    A last line cut off by a kill is left out.
    """
    if not path.exists():
        return []
    kept = []
    # A torn write may end in the middle of a character.
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            log.warning("Leaving out a broken line of %s.", path)
            continue
        if last is None or step <= last:
            kept.append(line)
    return kept
